//! Who is who, and whose is what.

use atoll_control::sandboxes::{CreateInput, decode_cursor, encode_cursor};
use atoll_control::{ControlError, What};
use atoll_domain::{Principal, SandboxId};
use atoll_store::Position;
use atoll_testkit::{ControlBox, Method};
use proptest::prelude::*;

#[tokio::test]
async fn a_key_is_the_same_under_both_prefixes_and_anything_else_is_nobody() {
    let fixture = ControlBox::start().await;
    let key = &fixture.first.api_key;
    let digits = key.strip_prefix("atoll_").expect("its own prefix");
    let known = fixture.control.authenticate_key(key).await.unwrap();
    assert_eq!(known.team(), Some(&fixture.first.team_id));
    for same in [format!("e2b_{digits}"), format!("  {key}\n"), format!("atoll_{}", digits.to_uppercase())] {
        assert_eq!(fixture.control.authenticate_key(&same).await.unwrap(), known, "{same}");
    }
    let flipped = format!("atoll_{}{}", &digits[..39], if digits.ends_with('0') { '1' } else { '0' });
    for wrong in ["", digits, "atoll_", "e2b_", &key[..20], &format!("wrn_{digits}"), &flipped, &format!("{key}00")] {
        let answer = fixture.control.authenticate_key(wrong).await;
        assert!(matches!(answer, Err(ControlError::Unauthorized)), "{wrong}: {answer:?}");
    }
}

#[tokio::test]
async fn another_teams_sandbox_is_not_found_by_any_call() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    let (control, other, id) = (&fixture.control, fixture.other_team().await, sandbox.id.as_str());
    let streams = fixture.host.calls(Method::OpenStream);
    let answers = [
        control.sandbox(&other, id).await.map(drop),
        control.ping_sandbox(&other, id).await,
        control.destroy_sandbox(&other, id).await,
        control.read_file(&other, id, "/etc/passwd").await.map(drop),
        control.write_file(&other, id, "/x", atoll_guest_client::FileBody::bytes("x")).await,
        control.exec(&other, id, super::exec::command("true", &[])).await.map(drop),
    ];
    for (n, answer) in answers.iter().enumerate() {
        assert!(matches!(answer, Err(ControlError::NotFound { what: What::Sandbox, .. })), "{n}: {answer:?}");
    }
    assert!(control.list_sandboxes(&other, None, None).await.unwrap().items.is_empty());
    assert_eq!(fixture.host.calls(Method::OpenStream), streams, "nobody reached the guest");
    assert_eq!(fixture.host.sandboxes(), std::slice::from_ref(&sandbox.id));
    let never = SandboxId::from_random([3; 16]);
    for missing in [never.as_str(), "", "nonsense", "../../etc", &"sb".repeat(400)] {
        let answer = control.sandbox(&fixture.principal, missing).await;
        assert!(matches!(answer, Err(ControlError::NotFound { .. })), "{missing}: {answer:?}");
    }
}

#[tokio::test]
async fn host_facts_are_for_admins_and_the_owner_of_the_data_directory() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    assert!(fixture.control.host_facts(&fixture.principal, &sandbox).await.is_none());
    let local = fixture.control.local_principal(0);
    assert!(matches!(local, Principal::Local { uid: 0, .. }));
    let facts = fixture.control.host_facts(&local, &sandbox).await.unwrap();
    assert_eq!(facts.id, sandbox.id);
}

#[tokio::test]
async fn pages_hold_every_sandbox_once_though_all_were_made_at_one_time() {
    let fixture = ControlBox::start().await;
    fixture.clock.freeze(true);
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(fixture.sandbox().await.id);
    }
    let (mut cursor, mut seen, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = fixture.control.list_sandboxes(&fixture.principal, cursor.as_deref(), Some(3)).await.unwrap();
        seen.extend(page.items.into_iter().map(|s| s.id));
        pages += 1;
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    seen.sort();
    made.sort();
    assert_eq!((seen, pages), (made, 3));
    for limit in [Some(-1), Some(i64::MIN)] {
        let answer = fixture.control.list_sandboxes(&fixture.principal, None, limit).await;
        assert!(matches!(answer, Err(ControlError::Invalid(_))));
    }
    for cursor in ["x", "12", "-", "9-sb", "1.5-sb00", "99999999999999999999-sb0"] {
        let answer = fixture.control.list_sandboxes(&fixture.principal, Some(cursor), None).await;
        assert!(matches!(answer, Err(ControlError::Invalid(_))), "{cursor}");
    }
}

proptest! {
    #[test]
    fn a_cursor_keeps_every_microsecond(at in 0..i64::MAX, random in any::<[u8; 16]>()) {
        let position = Position { created_at: at, id: SandboxId::from_random(random) };
        prop_assert_eq!(decode_cursor(&encode_cursor(&position)).unwrap(), position);
    }

    #[test]
    fn no_text_breaks_the_reader_of_cursors(text in ".{0,80}") {
        let _ = decode_cursor(&text);
    }
}

#[tokio::test]
async fn the_system_owns_no_sandboxes() {
    let fixture = ControlBox::start().await;
    let made = fixture.control.create_sandbox(&Principal::System, CreateInput::default()).await;
    assert!(matches!(made, Err(ControlError::Forbidden { .. })));
}
