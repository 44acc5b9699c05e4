//! An agent that does what its script says on every connection.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_guest_client::{GuestClient, GuestStream, Limits, dial_fn};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, sink, split};

/// How much fits into the stream and the client's own buffers beside what it keeps.
pub(crate) const SLACK: u64 = 256 * 1024;

/// One thing that a liar does.
#[derive(Clone)]
pub(crate) enum Act {
    /// Sends bytes once.
    Say(Vec<u8>),
    /// Sends bytes again and again.
    Forever(Vec<u8>),
    /// Sends bytes one at a time, with so much time between them.
    Trickle(Vec<u8>, Duration),
    /// Does nothing, and does not close.
    Hang,
}

/// Text to say.
pub(crate) fn say(text: &str) -> Act {
    Act::Say(text.as_bytes().to_vec())
}

/// The head of an answer with a body that ends with the connection.
pub(crate) fn head(kind: &str) -> Act {
    say(&format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n"))
}

/// A liar and the client that it is lied to.
pub(crate) struct Liar {
    pub(crate) client: GuestClient,
    written: Arc<AtomicU64>,
}

impl Liar {
    /// One that reads what it is sent.
    pub(crate) fn new(acts: impl Into<Vec<Act>>) -> Self {
        Self::with(acts.into(), true, limits())
    }

    /// One that reads nothing.
    pub(crate) fn deaf(acts: impl Into<Vec<Act>>) -> Self {
        Self::with(acts.into(), false, limits())
    }

    pub(crate) fn with(acts: Vec<Act>, reads: bool, limits: Limits) -> Self {
        let written = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&written);
        let dial = dial_fn(move || {
            let (acts, written) = (acts.clone(), Arc::clone(&counted));
            async move {
                let (ours, mut theirs) = duplex(64 * 1024);
                tokio::spawn(async move {
                    // An answer before its request is not taken for one.
                    let _ = theirs.read(&mut [0; 512]).await;
                    let (mut read, write) = split(theirs);
                    let hear = async {
                        if reads {
                            // An error means that the client has closed.
                            let _ = tokio::io::copy(&mut read, &mut sink()).await;
                        }
                    };
                    tokio::join!(hear, play(acts, write, &written));
                });
                Ok(Box::new(ours) as GuestStream)
            }
        });
        Self { client: GuestClient::new(dial, None).with_limits(limits), written }
    }

    /// How many bytes the liar has got rid of.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

async fn play(acts: Vec<Act>, mut write: impl AsyncWrite + Unpin, written: &AtomicU64) {
    for act in acts {
        match act {
            Act::Say(bytes) => {
                if !send(&mut write, &bytes, written).await {
                    return;
                }
            }
            Act::Forever(bytes) => while send(&mut write, &bytes, written).await {},
            Act::Trickle(bytes, pause) => {
                for byte in bytes {
                    if !send(&mut write, &[byte], written).await {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
            Act::Hang => std::future::pending().await,
        }
    }
    let _ = write.shutdown().await;
}

async fn send(write: &mut (impl AsyncWrite + Unpin), bytes: &[u8], written: &AtomicU64) -> bool {
    let sent = write.write_all(bytes).await.is_ok();
    written.fetch_add(if sent { bytes.len() as u64 } else { 0 }, Ordering::Relaxed);
    sent
}

/// Small enough that a test is short.
pub(crate) fn limits() -> Limits {
    let short = Duration::from_millis(300);
    Limits {
        dial: short,
        head: short,
        body: short,
        idle: short,
        transfer: Duration::from_millis(900),
        grace: short,
        keepalive: Duration::from_millis(100),
        head_bytes: 16 * 1024,
        head_fields: 32,
        body_bytes: 64 * 1024,
        frame_bytes: 64 * 1024,
    }
}

/// Fails instead of waiting for ever.
pub(crate) async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), call).await.expect("the call has no end of its own")
}
