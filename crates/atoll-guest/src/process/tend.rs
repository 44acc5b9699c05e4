//! The task that owns a process: reads its output, kills it at its deadline, reaps it.
//!
//! How it works: the end is told when the process has ended and its output has been read. A child in the background may
//! hold the output open: that is waited for only briefly, and the pipe is read on (and thrown away) so that the child
//! never meets a broken one.
//!
//! Deliberately absent: restarting anything.

use std::{
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    io::unix::AsyncFd,
    time::{sleep, sleep_until, timeout},
};

use super::{
    child::{Child, Exit},
    record::{End, Record},
    ring::{PIECE, Source},
    table::Table,
};
use crate::cgroup::Group;

/// How long an end waits for output that a background child may still hold open.
const EOF_GRACE: Duration = Duration::from_millis(50);
/// How often it waits so when more output keeps coming.
const EOF_ROUNDS: u32 = 20;
/// How long the output of an ended process can still be asked for.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Everything that belongs to one running process.
pub(crate) struct Tended {
    pub(crate) table: Arc<Table>,
    pub(crate) record: Arc<Record>,
    pub(crate) child: Child,
    pub(crate) outputs: Vec<Output>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) group: Option<Group>,
}

/// One descriptor that a process writes to.
pub(crate) struct Output {
    source: Source,
    fd: Arc<AsyncFd<OwnedFd>>,
    open: bool,
}

impl Output {
    pub(crate) fn new(source: Source, fd: Arc<AsyncFd<OwnedFd>>) -> Self {
        Self { source, fd, open: true }
    }
}

/// Owns a process from its start to the moment nobody asks for its output any more.
pub(crate) async fn tend(tended: Tended) {
    let Tended { table, record, child, outputs, deadline, group } = tended;
    let copied = Arc::clone(&record);
    let mut copying = std::pin::pin!(copy(outputs, &copied));
    let mut copied_all = false;
    let mut timed_out = false;
    let exit = {
        let mut ended = std::pin::pin!(child.ended());
        let mut deadline = std::pin::pin!(until(deadline));
        loop {
            tokio::select! {
                exit = &mut ended => break exit,
                () = &mut copying, if !copied_all => copied_all = true,
                () = &mut deadline, if !timed_out => {
                    timed_out = true;
                    // An error means that it has just ended by itself.
                    let _ = record.signal(libc::SIGKILL);
                }
            }
        }
    };
    record.reap();
    let exit = exit.unwrap_or(Exit::Signal(libc::SIGKILL));
    if !copied_all {
        copied_all = wait_for_eof(copying.as_mut(), &record).await;
    }
    let killed = exit == Exit::Signal(libc::SIGKILL);
    record.finish(End { exit, timed_out: timed_out && killed });
    table.end(&record);
    if let Some(group) = group {
        table.groups.leave(group);
    }
    let fade = async {
        sleep(REMEMBERED).await;
        table.fade(&record);
    };
    let rest = async {
        if !copied_all {
            copying.await;
        }
    };
    tokio::join!(fade, rest);
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Reads on until the end of output, or until nothing comes. Time during which output
/// is held back for a reader does not count.
async fn wait_for_eof(mut copying: impl Future<Output = ()> + Unpin, record: &Record) -> bool {
    let mut rounds = 0;
    loop {
        let (_, before) = record.output();
        if timeout(EOF_GRACE, &mut copying).await.is_ok() {
            return true;
        }
        if record.is_held_back() {
            continue;
        }
        rounds += 1;
        if record.output().1 == before || rounds == EOF_ROUNDS {
            return false;
        }
    }
}

/// Copies output into the record until every descriptor is at its end.
async fn copy(mut outputs: Vec<Output>, record: &Record) {
    let mut buffer = vec![0; PIECE];
    loop {
        record.wait_for_readers().await;
        match read_any(&mut outputs, &mut buffer).await {
            Some((source, length)) => {
                record.push(source, &buffer[..length]);
                // Readers take their turn at every piece: only one that cannot send on falls behind.
                tokio::task::yield_now().await;
            }
            None => return,
        }
    }
}

/// Reads from whichever descriptor has something; `None` when all are at their end.
async fn read_any(outputs: &mut [Output], buffer: &mut [u8]) -> Option<(Source, usize)> {
    poll_fn(|context| {
        for output in outputs.iter_mut().filter(|output| output.open) {
            while let Poll::Ready(ready) = output.fd.poll_read_ready(context) {
                let Ok(mut guard) = ready else {
                    output.open = false;
                    break;
                };
                let read = guard.try_io(|fd| nix::unistd::read(fd.get_ref(), buffer).map_err(io::Error::from));
                match read {
                    Ok(Ok(0)) => output.open = false,
                    Ok(Ok(length)) => return Poll::Ready(Some((output.source, length))),
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                    // A terminal whose last user has gone says EIO.
                    Ok(Err(_)) => output.open = false,
                    Err(_would_block) => continue,
                }
                break;
            }
        }
        if outputs.iter().any(|output| output.open) { Poll::Pending } else { Poll::Ready(None) }
    })
    .await
}
