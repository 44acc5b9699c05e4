//! The target for fuzzing: what a lying agent could answer, read by the real client.
//!
//! How it works: the first byte of the input picks a call, the rest is what the agent sends, over
//! a stream in memory that then ends. From 128 on the head of the answer is made up and the input
//! is its body. Whatever comes, the call must end with a value or a typed error, in the memory
//! that its caps allow.
//!
//! Deliberately absent: silence and endlessness, which a finite input cannot hold (tests do).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    FileBody, GuestClient, GuestError, GuestStream, InitRequest, Limits, PrepareRequest, Selector, StartRequest,
    Watcher, dial_fn,
};

/// How many calls there are.
const CALLS: u8 = 15;
/// From here on the head of the answer is made up.
const BODY_ONLY: u8 = 128;

/// Lets one call read one answer.
pub fn answer(data: &[u8]) {
    let Some((&choice, answer)) = data.split_first() else {
        return;
    };
    let call = choice % BODY_ONLY % CALLS;
    let mut whole = Vec::new();
    if choice >= BODY_ONLY {
        whole.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: ");
        whole.extend_from_slice(content_type(call).as_bytes());
        whole.extend_from_slice(b"\r\n\r\n");
    }
    whole.extend_from_slice(answer);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return;
    };
    // An error is as good an end as any.
    let _ = runtime.block_on(run(&client(whole), call));
}

fn client(answer: Vec<u8>) -> GuestClient {
    let dial = dial_fn(move || {
        let answer = answer.clone();
        async move {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                // The client may leave at any moment.
                let _ = theirs.read(&mut request).await;
                let _ = theirs.write_all(&answer).await;
            });
            Ok(Box::new(ours) as GuestStream)
        }
    });
    let second = Duration::from_secs(1);
    let limits = Limits {
        dial: second,
        head: second,
        body: second,
        idle: second,
        transfer: second,
        keepalive: second,
        body_bytes: 256 * 1024,
        frame_bytes: 64 * 1024,
        ..Limits::default()
    };
    GuestClient::new(dial, None).with_limits(limits)
}

fn content_type(call: u8) -> &'static str {
    match call {
        0..=3 => "application/json",
        4..=7 => "application/proto",
        8..=11 => "application/connect+proto",
        _ => "application/json",
    }
}

async fn run(client: &GuestClient, call: u8) -> Result<(), GuestError> {
    let pid = Selector::Pid(1);
    match call {
        0 => client.health().await.map(drop),
        1 => client.metrics().await.map(drop),
        2 => client.envs().await.map(drop),
        3 => {
            let prepare = PrepareRequest { sync: false, freeze: true, timeout_ms: 1 };
            client.prepare_snapshot(&prepare).await.map(drop)
        }
        4 => client.list().await.map(drop),
        5 => client.stat("/", None).await.map(drop),
        6 => client.list_dir("/", 1, None).await.map(drop),
        7 => client.watcher_events(&Watcher::from_id("w")).await.map(drop),
        8 => {
            let mut stream = client.start(&StartRequest { cmd: "true".into(), ..StartRequest::default() }).await?;
            while stream.next().await?.is_some() {}
            Ok(())
        }
        9 => {
            let mut stream = client.connect(&pid, 0).await?;
            while stream.next().await?.is_some() {}
            Ok(())
        }
        10 => {
            let mut stream = client.watch_dir("/", false, None).await?;
            while stream.next().await?.is_some() {}
            Ok(())
        }
        11 => {
            let mut input = client.open_input(&pid, false)?;
            input.send(b"x").await?;
            input.finish().await
        }
        12 => client.read_file("/", None, None).await?.read_to_end(1 << 20).await.map(drop),
        13 => client.write_file("/", None, FileBody::bytes("x")).await.map(drop),
        _ => client.init(&InitRequest::default()).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers that are nearly right, each with every byte changed in turn and cut off everywhere.
    #[test]
    fn no_answer_breaks_the_client() {
        let seeds: [&[u8]; 4] = [
            b"\x00HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{\"version\":\"0.6\"}",
            b"\x08HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n\
              9\r\n\0\0\0\0\x04\n\x02\n\0\r\n7\r\n\x02\0\0\0\x02{}\r\n0\r\n\r\n",
            b"\x84\x0a\x06\x0a\x04\x0a\x02ls\x10\x01",
            b"\x8a\0\0\0\0\x02\x0a\0\0\0\0\0\x07\x12\x05\x0a\x01a\x10\x01\x02\0\0\0\x1d{\"error\":{\"code\":\"internal\"}}",
        ];
        for seed in seeds {
            for at in 0..seed.len() {
                answer(&seed[..at]);
                for byte in [0, 0x7f, 0xff, seed[at] ^ 1] {
                    let mut changed = seed.to_vec();
                    changed[at] = byte;
                    answer(&changed);
                }
            }
        }
    }
}
