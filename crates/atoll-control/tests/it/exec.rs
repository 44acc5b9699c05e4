//! Commands and files, as far as the control plane decides: answers, refusals, uses.

use std::collections::BTreeMap;

use atoll_control::sandboxes::{CreateInput, ExecInput, FileDownload};
use atoll_control::{ControlError, MAX_CALLS, What};
use atoll_domain::SandboxStatus;
use atoll_domain::host::HostError;
use atoll_guest_client::FileBody;
use atoll_testkit::{ControlBox, Fault, Gate, Method, eventually};
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;

/// All bytes of a file.
pub(crate) async fn whole(file: FileDownload) -> Vec<u8> {
    file.into_stream().map_ok(|piece| piece.to_vec()).try_concat().await.unwrap()
}

pub(crate) fn command(cmd: &str, args: &[&str]) -> ExecInput {
    ExecInput { cmd: cmd.into(), args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..Default::default() }
}

#[tokio::test]
async fn a_command_answers_with_its_output_and_exit_code() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let run = |input| fixture.control.exec(&fixture.principal, id.as_str(), input);
    let echo = run(command("echo", &["a", "b"])).await.unwrap();
    assert_eq!((&echo.stdout[..], echo.exit_code, echo.stdout_truncated), (&b"a b\n"[..], 0, false));
    assert_eq!(run(command("false", &[])).await.unwrap().exit_code, 1);
    let missing = run(command("nonesuch", &[])).await.unwrap();
    assert_eq!(missing.exit_code, 127);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nonesuch"), "it says what is missing");
}

#[tokio::test]
async fn a_sandboxs_variables_reach_its_commands_and_its_files_come_back() {
    let fixture = ControlBox::start().await;
    let envs = BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]);
    let input = CreateInput { envs, ..Default::default() };
    let id = fixture.control.create_sandbox(&fixture.principal, input).await.unwrap().id;
    let env = fixture.control.exec(&fixture.principal, id.as_str(), command("env", &[])).await.unwrap();
    assert!(env.stdout.starts_with(b"COLOUR=blue\n"));
    let (control, principal) = (&fixture.control, &fixture.principal);
    control.write_file(principal, id.as_str(), "/root/a b?", FileBody::bytes("\0\u{ff}bytes")).await.unwrap();
    let read = control.read_file(principal, id.as_str(), "/root/a b?").await.unwrap();
    assert_eq!(whole(read).await, "\0\u{ff}bytes".as_bytes());
    let missing = control.read_file(principal, id.as_str(), "/nowhere").await;
    assert!(matches!(missing, Err(ControlError::NotFound { what: What::File, .. })), "{missing:?}");
}

#[tokio::test]
async fn bad_commands_are_refused_without_a_word_to_the_guest() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let cases = [
        ("cmd", ExecInput::default()),
        ("cmd", command("a\0b", &[])),
        ("timeout_sec", ExecInput { timeout_sec: Some(-1), ..command("true", &[]) }),
        ("timeout_sec", ExecInput { timeout_sec: Some(i64::MAX), ..command("true", &[]) }),
        ("user", ExecInput { user: Some("a b".into()), ..command("true", &[]) }),
        ("envs", ExecInput { envs: BTreeMap::from([("1".into(), "x".into())]), ..command("true", &[]) }),
        ("cwd", ExecInput { cwd: Some("/\0".into()), ..command("true", &[]) }),
    ];
    for (field, input) in cases {
        match fixture.control.exec(&fixture.principal, id.as_str(), input).await {
            Err(ControlError::Invalid(invalid)) => assert_eq!(invalid.field, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    assert_eq!(fixture.host.calls(Method::OpenStream), 0);
    let cwd = ExecInput { cwd: Some("/nowhere".into()), ..command("true", &[]) };
    let answer = fixture.control.exec(&fixture.principal, id.as_str(), cwd).await;
    assert!(matches!(&answer, Err(ControlError::Invalid(invalid)) if invalid.field == "cwd"), "{answer:?}");
}

#[tokio::test]
async fn a_deadline_is_told_as_one() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let input = ExecInput { timeout_sec: Some(7), ..command("sleep", &["100"]) };
    let answer = fixture.control.exec(&fixture.principal, id.as_str(), input).await;
    assert!(matches!(answer, Err(ControlError::CommandTimeout { seconds: 7 })), "{answer:?}");
}

#[tokio::test]
async fn an_agent_that_a_stopping_host_lets_go_of_is_not_one_that_failed() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    for stops in [false, true] {
        fixture.host.plan(Method::OpenStream, Fault::Refuse(HostError::Unavailable("cut".into())));
        if stops {
            fixture.host.plan(Method::Inspect, Fault::Refuse(HostError::Stopping));
        }
        match fixture.control.exec(&fixture.principal, id.as_str(), command("true", &[])).await {
            Err(ControlError::Guest(_)) if !stops => {}
            Err(ControlError::Host(HostError::Stopping)) if stops => {}
            other => panic!("{stops}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_sandbox_that_is_over_takes_no_commands_and_says_how_it_is() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    fixture.control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    let (control, principal) = (&fixture.control, &fixture.principal);
    let answers = [
        control.exec(principal, id.as_str(), command("true", &[])).await.map(drop),
        control.ping_sandbox(principal, id.as_str()).await,
        control.read_file(principal, id.as_str(), "/x").await.map(drop),
        control.write_file(principal, id.as_str(), "/x", FileBody::bytes("")).await,
    ];
    for answer in answers {
        let stopped = matches!(answer, Err(ControlError::NotRunning { status: SandboxStatus::Stopped, .. }));
        assert!(stopped, "{answer:?}");
    }
}

#[tokio::test]
async fn a_sandbox_that_ended_a_moment_ago_is_told_as_stopped() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    // The record still says that it runs.
    fixture.host.lose_sandbox(&id);
    let answer = fixture.control.exec(&fixture.principal, id.as_str(), command("true", &[])).await;
    assert!(matches!(answer, Err(ControlError::NotRunning { status: SandboxStatus::Stopped, .. })), "{answer:?}");
}

#[tokio::test]
async fn the_token_is_asked_from_the_host_after_a_restart() {
    let mut fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    fixture.restart().await;
    for _ in 0..2 {
        let done = fixture.control.exec(&fixture.principal, id.as_str(), command("true", &[])).await.unwrap();
        assert_eq!(done.exit_code, 0);
    }
    assert_eq!(fixture.host.calls(Method::Secrets), 1);
}

#[tokio::test]
async fn a_use_is_seen_at_once_and_kept_over_an_orderly_stop() {
    let mut fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.clock.advance(60_000_000);
    fixture.control.ping_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    let seen = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap().last_active_at;
    assert!(seen > sandbox.last_active_at.map(|at| at + 59_000_000), "{seen:?}");
    fixture.control.shutdown().await;
    fixture.restart().await;
    let kept = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap().last_active_at;
    assert_eq!(kept, seen);
}

#[tokio::test]
async fn calls_of_a_sandbox_are_bounded_and_another_has_its_own() {
    let mut fixture = ControlBox::start().await;
    let (id, other) = (fixture.sandbox().await.id, fixture.sandbox().await.id);
    // A control plane that was just started asks its host for a sandbox's token: there every call stands.
    fixture.restart().await;
    let gate = Gate::new();
    for _ in 0..MAX_CALLS {
        fixture.host.plan(Method::Secrets, Fault::Hold(gate.clone()));
    }
    let run = |id| fixture.control.exec(&fixture.principal, id, command("true", &[]));
    let held = join_all((0..MAX_CALLS).map(|_| run(id.as_str())));
    let beyond = async {
        let all = || async { (fixture.host.calls(Method::Secrets) == MAX_CALLS as usize).then_some(()) };
        eventually("all calls to stand", all).await;
        let refused = run(id.as_str()).await;
        assert!(matches!(refused, Err(ControlError::TooMany { limit: MAX_CALLS, .. })), "{refused:?}");
        assert_eq!(run(other.as_str()).await.unwrap().exit_code, 0, "another sandbox has room");
        gate.open();
    };
    let (held, ()) = tokio::join!(held, beyond);
    for done in held {
        assert_eq!(done.unwrap().exit_code, 0);
    }
    assert_eq!(run(id.as_str()).await.unwrap().exit_code, 0, "there is room again");
}
