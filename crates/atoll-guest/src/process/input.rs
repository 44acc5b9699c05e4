//! Where a process's input goes: nowhere, into a pipe or into a terminal.
//!
//! How it works: what is written waits as long as the process does not read, one writer after the other, and costs no
//! memory. Once it is let go of, its descriptor is closed; whoever writes at that moment closes it behind himself.
//!
//! Deliberately absent: a limit of time: a process reads when it likes, and who waits no longer goes.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{io::unix::AsyncFd, sync::Mutex as AsyncMutex};

use super::child;
use crate::error::AgentError;

/// The input of one process.
pub(crate) struct Input {
    way: Way,
    gone: AtomicBool,
}

/// What is taken out is closed.
enum Way {
    None,
    Pipe(AsyncMutex<Option<AsyncFd<OwnedFd>>>),
    Terminal(Mutex<Option<Arc<AsyncFd<OwnedFd>>>>),
}

impl Input {
    pub(crate) fn none() -> Self {
        Self::new(Way::None)
    }

    pub(crate) fn pipe(pipe: AsyncFd<OwnedFd>) -> Self {
        Self::new(Way::Pipe(AsyncMutex::new(Some(pipe))))
    }

    pub(crate) fn terminal(master: Arc<AsyncFd<OwnedFd>>) -> Self {
        Self::new(Way::Terminal(Mutex::new(Some(master))))
    }

    fn new(way: Way) -> Self {
        Self { way, gone: AtomicBool::new(false) }
    }

    fn master(&self, pid: u32) -> Result<Arc<AsyncFd<OwnedFd>>, AgentError> {
        match &self.way {
            Way::Terminal(master) => {
                let master = master.lock().unwrap_or_else(PoisonError::into_inner).clone();
                master.ok_or_else(|| AgentError::NoProcess(pid.to_string()))
            }
            _ => Err(AgentError::Conflict(format!("process {pid} has no terminal"))),
        }
    }

    /// Changes the terminal's size.
    pub(crate) fn resize(&self, pid: u32, cols: u16, rows: u16) -> Result<(), AgentError> {
        let master = self.master(pid)?;
        child::resize(master.get_ref(), cols, rows).map_err(|source| AgentError::io("resizing the terminal", source))
    }

    /// Writes all of it.
    pub(crate) async fn write(&self, pid: u32, bytes: &[u8], terminal: bool) -> Result<(), AgentError> {
        let failed = |source| AgentError::Io { what: format!("process {pid} no longer reads its input"), source };
        if terminal {
            let master = self.master(pid)?;
            return write_all(&master, bytes).await.map_err(failed);
        }
        let closed = || AgentError::Conflict(format!("standard input of process {pid} is closed"));
        match &self.way {
            Way::Pipe(pipe) => {
                let mut pipe = pipe.lock().await;
                let written = match pipe.as_ref() {
                    Some(pipe) => write_all(pipe, bytes).await.map_err(failed),
                    None => Err(closed()),
                };
                if self.gone.load(Ordering::Relaxed) {
                    pipe.take();
                }
                written
            }
            Way::None => Err(closed()),
            Way::Terminal(_) => Err(AgentError::Conflict(format!("process {pid} has a terminal; send `pty` input"))),
        }
    }

    /// Closes standard input.
    pub(crate) async fn close(&self, pid: u32) -> Result<(), AgentError> {
        match &self.way {
            Way::Pipe(pipe) => {
                pipe.lock().await.take();
                Ok(())
            }
            Way::None => Ok(()),
            Way::Terminal(_) => {
                Err(AgentError::Conflict(format!("process {pid} has a terminal, which has no input to close")))
            }
        }
    }

    /// The process ended a while ago: nobody feeds it any more.
    pub(crate) fn let_go(&self) {
        self.gone.store(true, Ordering::Relaxed);
        match &self.way {
            Way::None => {}
            Way::Pipe(pipe) => drop(pipe.try_lock().ok().and_then(|mut pipe| pipe.take())),
            Way::Terminal(master) => drop(master.lock().unwrap_or_else(PoisonError::into_inner).take()),
        }
    }
}

async fn write_all(target: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut guard = target.writable().await?;
        // A terminal that nobody has open any more is full for ever, and says at once that it can be written to.
        let closed = guard.ready().is_write_closed();
        match guard.try_io(|target| nix::unistd::write(target.get_ref(), bytes).map_err(io::Error::from)) {
            Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(Ok(written)) => bytes = &bytes[written..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) if closed => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
