//! What a guest's agent answers: everything that it sends is hostile.
//!
//! How it works: the client is given a connection that already holds the answer and then ends. The first byte picks the
//! call, so that heads, bodies, JSON and frames of streams are all reached.
//!
//! Deliberately absent: silence (deadlines have tests of their own; here an input ends).

use std::sync::Arc;
use std::time::Duration;

use atoll_guest_client::{GuestClient, GuestStream, Limits, ReadRange, Selector, dial_fn};
use tokio::io::AsyncWriteExt as _;

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "agent-answers",
    seeds: &[
        b"\x00HTTP/1.1 204 No Content\r\n\r\n",
        b"\x01HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{\"processes\":[]}\n",
        b"\x02HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n9\r\n\x00\x00\x00\x00\x04\x0a\x02\x0a\x00\r\n7\r\n\x02\x00\x00\x00\x02{}\r\n0\r\n\r\n",
        b"\x03HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\ncontent-range: bytes 0-2/9\r\n\r\nabc",
        b"\x04HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\n\r\n\x00\x00\x00\x00\x00\x02\x00\x00\x00\x02{}",
        b"\x05HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 39\r\n\r\n{\"code\":\"not_found\",\"message\":\"no file\"}",
        b"\x06HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ],
    dictionary: &[
        b"HTTP/1.1 ",
        b"\r\n\r\n",
        b"content-length: ",
        b"transfer-encoding: chunked\r\n",
        b"content-encoding: gzip\r\n",
        b"content-type: application/json\r\n",
        b"application/connect+proto",
        b"\x00\x00\x00\x00",
        b"\x02\x00\x00\x00\x02{}",
        b"ffffffff\r\n",
        b"{\"error\":{\"code\":\"unavailable\"}}",
    ],
    // Twice the largest body: what was received, and what was made of it.
    memory: 16 << 20,
    run,
};

fn run(input: &[u8]) {
    let Some((call, answer)) = input.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime needs a timer alone").block_on(talk(*call, Arc::from(answer)));
}

async fn talk(call: u8, answer: Arc<[u8]>) {
    let dial = dial_fn(move || {
        let answer = Arc::clone(&answer);
        async move {
            let (ours, mut theirs) = tokio::io::duplex(answer.len() + 64 * 1024);
            theirs.write_all(&answer).await?;
            theirs.shutdown().await?;
            // Its request is taken and thrown away; the task ends with the runtime.
            tokio::spawn(async move { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await });
            Ok(Box::new(ours) as GuestStream)
        }
    });
    let second = Duration::from_secs(1);
    let limits =
        Limits { dial: second, head: second, body: second, idle: second, transfer: second, ..Limits::default() };
    let client = GuestClient::new(dial, None).with_limits(limits);
    match call % 8 {
        0 => drop(client.health().await),
        1 => drop(client.list().await),
        2 => {
            if let Ok(mut stream) = client.connect(&Selector::Pid(1), 0).await {
                while let Ok(Some(_)) = stream.next().await {}
            }
        }
        3 => {
            if let Ok(file) = client.read_file("/x", None, Some(ReadRange { start: 0, last: None })).await {
                drop(file.read_to_end(1 << 20).await);
            }
        }
        4 => {
            if let Ok(mut watch) = client.watch_dir("/x", true, None).await {
                while let Ok(Some(_)) = watch.next().await {}
            }
        }
        5 => drop(client.stat("/x", None).await),
        6 => drop(client.metrics().await),
        _ => drop(client.list_dir("/x", 3, None).await),
    }
}
