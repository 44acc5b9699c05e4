//! `atoll exec` over the end of the Atoll that it follows a program through, and what such an end says to whoever it cuts off.
//!
//! How it works: the command itself, on the data directory; its program ends when it is told to, through the Atoll that came after. What
//! is said depends on the moment, so many are there to hear it.
//!
//! Deliberately absent: terminals, whose connections are cut in e2e_cli.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use atoll_api::{CreateSandboxRequest, ErrorCode, ExecRequest, ExecResponse, SandboxStatus, StreamStart};
use atoll_client::{Client, ClientError, ExecEvent, ExecStream};

use super::world::{LIMIT, World, binary, request, shell, until};

/// Writes on while nobody listens, and ends with a code of its own.
const PROGRAM: &str = "n=0; while [ ! -e /tmp/go ]; do n=$((n+1)); echo line $n; sleep 0.05; done; echo last; exit 7";

/// Follows a program through one Atoll, which ends, and through the next.
async fn outlives(end: impl FnOnce(&mut World)) {
    let mut world = World::running().await;
    let id = world.client().create(&request()).await.unwrap().id;
    let (said, complained) = (world.file("said"), world.file("complained"));
    let mut command = Command::new(binary());
    command.arg("--data").arg(world.data()).args(["exec", &id, "--", "/bin/sh", "-c", PROGRAM]).stdin(Stdio::null());
    command.stdout(File::create(&said).unwrap()).stderr(File::create(&complained).unwrap());
    let mut followed = command.env_remove("ATOLL_API_KEY").env_remove("ATOLL_URL").spawn().unwrap();
    let text = |path| fs::read_to_string(path).unwrap();
    let begun = async || if text(&said).contains("line 5\n") { Ok(()) } else { Err(text(&complained)) };
    until("the first lines", LIMIT, begun).await.unwrap();
    end(&mut world);
    let noticed = async || Some(text(&complained)).filter(|text| text.ends_with('\n')).ok_or("nothing".to_owned());
    let notice = until("its notice", LIMIT, noticed).await.unwrap();
    assert!(notice.contains("reconnecting"), "{notice}");
    let so_far = text(&said).len();
    world.up().await;
    // Before that its program would be one that ended while nobody was there.
    let back = async || if text(&said).len() > so_far { Ok(()) } else { Err(text(&complained)) };
    until("its return", LIMIT, back).await.unwrap();
    shell(&world.client(), &id, "touch /tmp/go").await.unwrap();
    let ended = async || followed.try_wait().unwrap().ok_or_else(|| text(&complained));
    let ended = until("its end", LIMIT, ended).await.unwrap();
    let (out, complained) = (text(&said), text(&complained));
    assert_eq!(ended.code(), Some(7), "{complained}");
    let lines: Vec<&str> = out.lines().collect();
    let wanted: Vec<String> = (1..lines.len()).map(|n| format!("line {n}")).chain(["last".to_owned()]).collect();
    assert!(lines == wanted, "{} lines came, not each once", lines.len());
    world.agrees().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_on_over_a_killed_atoll() {
    outlives(World::kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_on_over_an_atoll_that_was_stopped() {
    outlives(|world| assert!(world.stop(), "{}", world.last_log())).await;
}

/// How many follow one program.
const FOLLOWERS: usize = 48;

/// What ends a stream.
async fn end(mut stream: ExecStream) -> Result<ExecEvent, ClientError> {
    loop {
        match stream.next().await {
            Ok(ExecEvent::Started { .. } | ExecEvent::Stdout(_)) => {}
            other => return other,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_whom_a_stop_cuts_off_is_told_that_the_sandbox_failed() {
    let mut world = World::running().await;
    let client = world.client();
    let id = client.create(&request()).await.unwrap().id;
    let args = vec!["-c".to_owned(), "while echo line; do sleep 0.05; done".to_owned()];
    let start = StreamStart { cmd: "/bin/sh".into(), args, tag: Some("s".into()), ..StreamStart::default() };
    let mut streams = vec![client.exec_stream(&id, start).await.unwrap()];
    assert!(matches!(streams[0].next().await.unwrap(), ExecEvent::Started { .. }));
    for _ in 1..FOLLOWERS {
        let mut stream = client.exec_reattach(&id, "s", 0).await.unwrap();
        while !matches!(stream.next().await.unwrap(), ExecEvent::Stdout(_)) {}
        streams.push(stream);
    }
    let ends: Vec<_> = streams.into_iter().map(|stream| tokio::spawn(end(stream))).collect();
    let waits = tokio::spawn(waits_for_a_command(client.clone(), id.clone(), LONG));
    shell(&client, &id, BEGUN).await.unwrap();
    // More than boot at once, so that one is not made yet when it is called off.
    let cold = CreateSandboxRequest { boot: Some("cold".into()), ..request() };
    let makes = (0..4).map(|_| (client.clone(), cold.clone()));
    let makes: Vec<_> = makes.map(|(client, cold)| tokio::spawn(async move { client.create(&cold).await })).collect();
    let rows = until("their rows", LIMIT, async || match client.sandboxes().await {
        Ok(rows) if rows.len() > makes.len() => Ok(rows),
        other => Err(format!("{other:?}")),
    });
    let rows = rows.await.unwrap();
    assert!(world.stop(), "{}", world.last_log());
    for end in ends {
        match end.await.unwrap() {
            Err(ClientError::Lost { .. }) => {}
            Ok(ExecEvent::Error(told)) if told.code == Some(ErrorCode::HostUnavailable) => {}
            other => panic!("{other:?}"),
        }
    }
    match waits.await.unwrap() {
        // It has begun, so that who sends it again runs it twice.
        Err(ClientError::Refused(told)) => {
            assert_eq!((told.code, told.retryable), (ErrorCode::HostUnavailable, false), "{told:?}");
        }
        other => panic!("{other:?}"),
    }
    world.up().await;
    // Sent again under their keys.
    for made in makes {
        assert_eq!(made.await.unwrap().unwrap().status, SandboxStatus::Running);
    }
    let mut called_off = 0;
    for row in rows {
        let row = world.client().sandbox(&row.id).await.unwrap();
        let told = (row.status, row.reason.as_deref());
        let is_called_off = told == (SandboxStatus::Error, Some("Atoll was stopping"));
        assert!(told.0 == SandboxStatus::Running || is_called_off, "{told:?}");
        called_off += usize::from(is_called_off);
    }
    assert!(called_off > 0, "all were made in time");
    world.agrees().await;
}

/// A program that ends long after everything else.
const LONG: &str = "touch /tmp/in; sleep 300";
/// Ends as soon as that has begun.
const BEGUN: &str = "until [ -e /tmp/in ]; do sleep 0.05; done";

/// Runs a command to its end.
async fn waits_for_a_command(client: Client, id: String, line: &'static str) -> Result<ExecResponse, ClientError> {
    let args = vec!["-c".to_owned(), line.to_owned()];
    client.exec(&id, &ExecRequest { cmd: "/bin/sh".into(), args, ..ExecRequest::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_an_end_cuts_off_is_told_that_the_sandbox_is_over() {
    let world = World::running().await;
    let client = world.client();
    for _ in 0..3 {
        let id = client.create(&request()).await.unwrap().id;
        let waits = tokio::spawn(waits_for_a_command(client.clone(), id.clone(), LONG));
        shell(&client, &id, BEGUN).await.unwrap();
        client.destroy(&id).await.unwrap();
        let told = waits.await.unwrap();
        assert_eq!(told.as_ref().map_err(ClientError::code), Err(Some(ErrorCode::InvalidState)), "{told:?}");
    }
    // Its guest's last word comes before its VMM has ended.
    let id = client.create(&request()).await.unwrap().id;
    let told = waits_for_a_command(client.clone(), id, "echo o > /proc/sysrq-trigger; sleep 300").await;
    assert_eq!(told.as_ref().map_err(ClientError::code), Err(Some(ErrorCode::InvalidState)), "{told:?}");
}
