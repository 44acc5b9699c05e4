//! What keeps a sandbox alive: requests and bytes, told to the host soon (defect 34).

use std::io;

use atoll_control::ControlError;
use atoll_control::sandboxes::ExecInput;
use atoll_domain::SandboxStatus;
use atoll_domain::ttl::Cause;
use atoll_guest_client::FileBody;
use atoll_testkit::{ControlBox, Fault, Method, eventually};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::oneshot;

use crate::exec::{command, whole};

/// In microseconds.
const MINUTE: i64 = 60_000_000;

#[tokio::test]
async fn a_use_is_told_to_the_host_and_looking_is_none() {
    let fixture = ControlBox::start().await;
    let (used, quiet) = (fixture.sandbox().await.id, fixture.sandbox().await.id);
    let (control, principal) = (&fixture.control, &fixture.principal);
    fixture.host.plan(Method::Touch, Fault::LoseReply);
    fixture.start_loops();
    control.ping_sandbox(principal, used.as_str()).await.unwrap();
    control.sandbox(principal, quiet.as_str()).await.unwrap();
    control.sandbox_metrics(principal, quiet.as_str(), None).await.unwrap();
    control.list_sandboxes(principal, None, None).await.unwrap();
    let told = || async { (fixture.host.uses_of(&used) > 0).then_some(()) };
    eventually("the host to be told", told).await;
    let again = || async { (fixture.host.calls(Method::Touch) >= 2).then_some(()) };
    eventually("what may not have arrived to be told again", again).await;
    assert_eq!(fixture.host.uses_of(&quiet), 0);
}

#[tokio::test]
async fn a_ping_is_told_at_once_and_never_answered_well_by_what_is_being_paused() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let (control, principal) = (&fixture.control, &fixture.principal);
    // No loop runs that could tell it later.
    control.ping_sandbox(principal, id.as_str()).await.unwrap();
    assert_eq!(fixture.host.uses_of(&id), 1);
    fixture.host.expire(&id, Cause::Idle);
    let late = control.ping_sandbox(principal, id.as_str()).await;
    assert!(matches!(late, Err(ControlError::NotRunning { status: SandboxStatus::Paused, .. })), "{late:?}");
}

#[tokio::test]
async fn a_command_that_somebody_waits_for_is_a_use_as_long_as_it_lasts() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let gate = fixture.host.hold(Method::OpenStream);
    fixture.start_loops();
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let input: ExecInput = command("true", &[]);
    let running = tokio::spawn(async move { control.exec(&principal, target.as_str(), input).await });
    gate.reached().await;
    let kept_alive = || async { (fixture.host.uses_of(&id) >= 3).then_some(()) };
    eventually("it to be told as used again and again", kept_alive).await;
    gate.open();
    assert_eq!(running.await.unwrap().unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_file_on_its_way_in_is_a_use_as_long_as_it_lasts() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    fixture.start_loops();
    let (end, ended) = oneshot::channel::<()>();
    let rest = async move { ended.await.map(|()| Bytes::from_static(b"late")).map_err(io::Error::other) };
    let body = FileBody::stream(stream::once(rest));
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let written =
        tokio::spawn(async move { control.write_file(&principal, target.as_str(), "/root/file", body).await });
    let kept_alive = || async { (fixture.host.uses_of(&id) >= 3).then_some(()) };
    eventually("it to be told as used again and again", kept_alive).await;
    end.send(()).unwrap();
    written.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_file_on_its_way_out_is_a_use_with_every_piece_and_one_that_nobody_takes_is_none() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let last_use = async || control.sandbox(principal, id.as_str()).await.unwrap().last_active_at.unwrap();
    control.write_file(principal, id.as_str(), "/root/file", FileBody::bytes("bytes")).await.unwrap();
    let file = control.read_file(principal, id.as_str(), "/root/file").await.unwrap();
    let opened = last_use().await;
    fixture.clock.advance(MINUTE);
    assert_eq!(last_use().await, opened, "it is merely open");
    assert_eq!(whole(file).await, b"bytes");
    assert!(last_use().await >= opened + MINUTE);
}
