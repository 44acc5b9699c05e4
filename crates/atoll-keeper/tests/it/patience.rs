//! Which calls of a keeper may take long.
//!
//! How it works: a thread stands for a keeper that has a large memory to write: it answers nothing until it is told to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;

use atoll_keeper::client::{ClientError, SnapshotFiles, connect};
use atoll_keeper::memory::Digest;
use atoll_keeper::protocol::{Answer, Line, Op, Request, SOCKET, Snapshot, Then, VERSION};

fn snapshot() -> Snapshot {
    let none = Digest([0; 32]);
    Snapshot {
        state_digest: none,
        state_bytes: 1,
        diff_digest: none,
        diff_bytes: 2,
        data_pages: 3,
        zero_pages: 4,
        phases: Vec::new(),
    }
}

/// Greets; takes a snapshot's request and another one, and answers the first when it is told to.
fn slow_keeper(dir: &Path, told: mpsc::Receiver<()>) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut say = |id, ok| {
            let mut line = serde_json::to_vec(&Line::Done { id, ok }).unwrap();
            line.push(b'\n');
            writer.write_all(&line).unwrap();
        };
        let mut asked = Vec::new();
        for line in BufReader::new(stream).lines() {
            let request: Request = serde_json::from_str(&line.unwrap()).unwrap();
            if matches!(request.op, Op::Hello { .. }) {
                say(request.id, Answer::Hello { version: VERSION, sandbox: "sb".into(), incarnation: 1 });
                continue;
            }
            asked.push(request);
            if asked.len() == 2 {
                told.recv().unwrap();
                let request = asked.iter().find(|request| matches!(request.op, Op::Snapshot { .. })).unwrap();
                return say(request.id, Answer::Snapshot(Box::new(snapshot())));
            }
        }
    })
}

/// Defect 16: one deadline for all calls cut large snapshots off.
#[tokio::test]
async fn a_snapshot_may_take_longer_than_any_other_call() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = mpsc::sync_channel(64);
    let keeper = slow_keeper(dir.path(), told);
    let client = connect(dir.path(), "sb").await.unwrap().client;
    let files = SnapshotFiles::create(dir.path()).unwrap();
    let other = async {
        let answer = client.state().await;
        tell.send(()).unwrap();
        answer
    };
    let (taken, other) = tokio::join!(client.snapshot(files, Then::Stay), other);
    assert!(matches!(other, Err(ClientError::Timeout("state"))), "{other:?}");
    assert_eq!(taken.unwrap(), snapshot());
    keeper.join().unwrap();
}
