//! The targets for fuzzing: what anybody who reaches the agent's port could send.
//!
//! How it works: [`decode`] gives the input to one of the decoders, chosen by its first byte;
//! [`connection`] talks to a whole agent over a stream in memory. That agent has a token that the
//! input cannot know, so nothing is ever run or written: all that may come back is a refusal.
//!
//! Deliberately absent: everything behind the token.

use std::{sync::Arc, time::Duration};

use atoll_proto::{filesystem, process};
use buffa::Message;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    cgroup::Groups,
    files::{multipart, range},
    http::{self, App},
    paths,
    process::Table,
    settings::{Change, Settings},
    users::User,
};

/// How long one connection may last before that is a defect.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lets one decoder read the input.
pub fn decode(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(data);
    match choice % 12 {
        0 => form(data),
        1 => drop(range::parse(Some(&text), u64::from(choice) * 7)),
        2 => drop(http::query::value(Some(&text), "path")),
        3 => drop(paths::resolve(&text, &somebody())),
        4 => http::read_init(data),
        5 => both::<process::StartRequest>(data),
        6 => both::<process::ConnectRequest>(data),
        7 => both::<process::StreamInputRequest>(data),
        8 => both::<process::SendSignalRequest>(data),
        9 => both::<process::UpdateRequest>(data),
        10 => both::<filesystem::WatchDirRequest>(data),
        _ => both::<filesystem::ListDirRequest>(data),
    }
}

/// Lets a whole agent read the input as one connection's.
///
/// # Panics
/// When the agent lets somebody in, or does not end the connection: what a fuzzer looks for.
pub fn connection(data: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
        let app = closed_app();
        let serve = http::converse(&app, theirs);
        let talk = async {
            // The agent may close whenever it has heard enough.
            let _ = ours.write_all(data).await;
            let _ = ours.shutdown().await;
            let mut answer = Vec::new();
            let _ = ours.read_to_end(&mut answer).await;
            answer
        };
        let done = timeout(PATIENCE, async { tokio::join!(serve, talk) }).await;
        assert!(done.is_ok(), "a connection without an end");
        assert!(!app.table.was_used(), "a program was started without the token");
    });
}

fn closed_app() -> Arc<App> {
    let settings = Settings::new(false);
    let token = format!("{:?}{:?}", std::time::Instant::now(), std::thread::current().id());
    settings.change(Change { token: Some(token), ..Change::default() });
    Arc::new(App::new(Arc::new(settings), Arc::new(Table::new(Groups::none(), 0)), false))
}

fn somebody() -> User {
    User { name: "user".into(), uid: 1000, gid: 1000, home: "/home/user".into(), groups: Vec::new() }
}

/// A form that comes in two pieces.
fn form(data: &[u8]) {
    let Ok(mut parser) = multipart::Parser::new("multipart/form-data; boundary=XX") else {
        return;
    };
    let (first, second) = data.split_at(data.len() / 2);
    let mut pieces = [first, second].into_iter();
    loop {
        match parser.next() {
            Ok(multipart::Event::More) => match pieces.next() {
                Some(piece) => parser.feed(piece),
                None => return,
            },
            Ok(multipart::Event::EndOfForm) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// A message in both of its codings.
fn both<M: Message + DeserializeOwned>(data: &[u8]) {
    // Only a panic or endless memory is wrong.
    let _ = buffa::DecodeOptions::new().decode_from_slice::<M>(data);
    let _ = serde_json::from_slice::<M>(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_nearly_right_break_nothing() {
        let seeds: [&[u8]; 4] = [
            b"\0--XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\\\"b\"\r\n\r\nx\r\n--XX--",
            b"\x04{\"accessToken\":\"0123456789abcdef\",\"timestampNs\":1,\"generation\":\"g\",\"envVars\":{\"a\":\"b\"}}",
            b"\x05\x0a\x0a\x0a\x02ls\x12\x01-\x1a\x01k\x12\x04\x0a\x02\x08\x50",
            b"\x01bytes=1-2",
        ];
        for seed in seeds {
            for at in 0..seed.len() {
                decode(&seed[..at]);
                for choice in 0..12 {
                    let mut changed = seed.to_vec();
                    changed[at] = changed[at].wrapping_add(choice + 1);
                    decode(&changed);
                }
            }
        }
    }

    #[test]
    fn a_stranger_only_hears_refusals() {
        for text in [
            &b""[..],
            b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /envs HTTP/1.1\r\nhost: x\r\n\r\n",
            b"POST /init HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
            b"POST /process.Process/Start HTTP/1.1\r\nhost: x\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n5\r\n\0\xff\xff\xff\xff\r\n",
            b"POST /files?path=/tmp/x HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\nx",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        ] {
            connection(text);
        }
    }
}
