//! A keeper of another version than this Atoll's.
//!
//! How it works: a thread stands for the keeper and greets with what the test says.
//!
//! Deliberately absent: what becomes of its sandbox (the durable tests).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use atoll_keeper::client::{ClientError, connect};
use atoll_keeper::protocol::{Answer, Line, Op, Request, SOCKET, VERSION};

/// Greets once with a version and a sandbox.
fn keeper(dir: &Path, version: u32, sandbox: &'static str) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        let request: Request = serde_json::from_str(&line).unwrap();
        assert!(matches!(request.op, Op::Hello { version: VERSION }));
        let ok = Answer::Hello { version, sandbox: sandbox.into(), incarnation: 1 };
        let mut answer = serde_json::to_vec(&Line::Done { id: request.id, ok }).unwrap();
        answer.push(b'\n');
        stream.write_all(&answer).unwrap();
    })
}

async fn greeted(version: u32, sandbox: &'static str) -> Result<u32, ClientError> {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), version, sandbox);
    let connected = connect(dir.path(), "sb").await;
    keeper.join().unwrap();
    connected.map(|connected| connected.client.version())
}

#[tokio::test]
async fn a_keeper_that_is_too_new_is_refused_by_its_version() {
    assert_eq!(greeted(VERSION, "sb").await.unwrap(), VERSION);
    match greeted(VERSION + 1, "sb").await {
        Err(ClientError::Version(text)) => assert!(text.contains(&format!("speaks {}", VERSION + 1)), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_keeper_of_another_sandbox_is_refused() {
    match greeted(VERSION, "another").await {
        Err(ClientError::Foreign(found)) => assert_eq!(found, "another"),
        other => panic!("{other:?}"),
    }
}
