//! Starts under an idempotency key, by clocks: the wall clock may be set to any time, and neither lets a start happen twice nor keeps
//! one from happening.

use atoll_control::sandboxes::{StartInput, Started};
use atoll_control::{ControlError, Done, Once};
use atoll_domain::SandboxId;
use atoll_store::exec_route;
use atoll_testkit::{ControlBox, Gate, Method};

const HOUR: i64 = 3600 * 1_000_000;

async fn start(fixture: &ControlBox, id: &SandboxId, key: &str) -> Result<Done<Started>, ControlError> {
    let input = StartInput { cmd: "true".into(), ..StartInput::default() };
    let once = Once::new(key, "true".into()).unwrap();
    fixture.control.start_background(&fixture.principal, id.as_str(), input, Some(once)).await
}

/// A start that has taken its key and stands before the guest.
async fn under_way(
    fixture: &ControlBox,
    id: &SandboxId,
    key: &str,
) -> (Gate, tokio::task::JoinHandle<Result<Done<Started>, ControlError>>) {
    let gate = fixture.host.hold(Method::OpenStream);
    let (control, principal, id, key) =
        (fixture.control.clone(), fixture.principal.clone(), id.to_string(), key.to_owned());
    let task = tokio::spawn(async move {
        let input = StartInput { cmd: "true".into(), ..StartInput::default() };
        let once = Once::new(&key, "true".into()).unwrap();
        control.start_background(&principal, &id, input, Some(once)).await
    });
    gate.reached().await;
    (gate, task)
}

#[tokio::test]
async fn a_start_under_way_is_not_made_twice_by_a_clock_that_is_set() {
    for jump in [HOUR, -HOUR] {
        let fixture = ControlBox::start().await;
        let id = fixture.sandbox().await.id;
        let (gate, first) = under_way(&fixture, &id, "k").await;
        fixture.clock.jump(jump);
        let second = start(&fixture, &id, "k").await;
        assert!(matches!(second, Err(ControlError::InProgress)), "{jump}: {second:?}");
        gate.open();
        let first = first.await.unwrap().unwrap();
        assert!(!first.replayed);
        let third = start(&fixture, &id, "k").await.unwrap();
        assert_eq!((third.replayed, third.value), (true, first.value));
    }
}

#[tokio::test]
async fn a_key_is_remembered_for_a_day_that_passes_and_not_for_one_that_a_clock_is_set_by() {
    let mut fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    assert!(!start(&fixture, &id, "k").await.unwrap().replayed);
    for jump in [25 * HOUR, -1000 * HOUR, 5000 * HOUR] {
        fixture.clock.jump(jump);
        assert!(start(&fixture, &id, "k").await.unwrap().replayed, "set by {jump}");
        fixture.clock.jump(jump);
        fixture.restart().await;
        assert!(start(&fixture, &id, "k").await.unwrap().replayed, "set by {jump} while none ran");
    }
    fixture.clock.advance(23 * HOUR);
    assert!(start(&fixture, &id, "k").await.unwrap().replayed);
    fixture.clock.advance(2 * HOUR);
    assert!(!start(&fixture, &id, "k").await.unwrap().replayed, "it was a day");
}

#[tokio::test]
async fn a_start_that_an_earlier_atoll_began_is_made_after_a_while_whatever_the_clock_says() {
    let mut fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    // What the first one does once it may go on is of no importance any more.
    let (_gate, _first) = under_way(&fixture, &id, "k").await;
    fixture.clock.jump(-2 * HOUR);
    fixture.restart().await;
    for jump in [HOUR, -3 * HOUR] {
        fixture.clock.jump(jump);
        let early = start(&fixture, &id, "k").await;
        assert!(matches!(early, Err(ControlError::InProgress)), "its agent may just be starting it: {early:?}");
    }
    fixture.clock.advance(6 * 1_000_000);
    assert!(!start(&fixture, &id, "k").await.unwrap().replayed);
    assert!(start(&fixture, &id, "k").await.unwrap().replayed);
}

#[tokio::test]
async fn the_keys_of_a_sandboxs_starts_go_with_it() {
    let fixture = ControlBox::start().await;
    let (id, other) = (fixture.sandbox().await.id, fixture.sandbox().await.id);
    for id in [&id, &other] {
        start(&fixture, id, "k").await.unwrap();
    }
    fixture.control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    let kept = fixture.control.store().kept_requests().await.unwrap();
    assert_eq!(kept.into_iter().map(|(place, _)| place.route).collect::<Vec<_>>(), [exec_route(&other)]);
}
