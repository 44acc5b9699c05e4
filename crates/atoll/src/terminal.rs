//! This side's terminal: raw mode, its size, its keystrokes.
//!
//! How it works: [`RawMode`] gives the terminal back as it was, however the session ends: by return, error, panic or signal. Input is
//! read only when the kernel says that there is some, so that nothing hangs in a read when the session is over.
//!
//! Deliberately absent: interpreting anything. Every key is the guest's, Ctrl-C and Ctrl-Z too.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use bytes::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use terminal_size::{Height, Width, terminal_size_of};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, Interest};

const CHUNK: usize = 32 * 1024;

/// The terminal is raw as long as this lives.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Makes the terminal on standard input raw.
    pub(crate) fn enter() -> io::Result<Self> {
        let terminal = io::stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let raw = Self { terminal, before };
        raw.again()?;
        Ok(raw)
    }

    /// Makes it raw again, after something else had the terminal.
    pub(crate) fn again(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        Ok(tcsetattr(&self.terminal, SetArg::TCSANOW, &raw)?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// Columns and rows of the terminal, where there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let (Width(cols), Height(rows)) = terminal_size_of(io::stdout()).or_else(|| terminal_size_of(io::stdin()))?;
    Some((cols, rows))
}

/// Standard input.
#[derive(Debug)]
pub(crate) enum Input {
    /// A terminal, pipe or socket, which may have nothing to say for hours.
    Waiting(AsyncFd<OwnedFd>),
    /// A file, which always has.
    File(tokio::fs::File),
}

impl Input {
    /// Opens standard input.
    pub(crate) fn stdin() -> io::Result<Self> {
        let fd = || io::stdin().as_fd().try_clone_to_owned();
        match waiting(fd()?) {
            Ok(waiting) => Ok(Self::Waiting(waiting)),
            // The kernel offers no waiting for regular files.
            Err(_) => Ok(Self::File(tokio::fs::File::from_std(File::from(fd()?)))),
        }
    }

    /// The next bytes; none at the end. Dropping the future loses nothing.
    pub(crate) async fn read(&mut self) -> io::Result<Bytes> {
        let mut buffer = vec![0; CHUNK];
        let n = match self {
            Self::File(file) => file.read(&mut buffer).await?,
            Self::Waiting(fd) => loop {
                let mut ready = fd.readable().await?;
                let mut asked = [PollFd::new(fd.get_ref().as_fd(), PollFlags::POLLIN)];
                // The descriptor is shared with whoever started us, so it stays blocking and is asked first.
                if poll(&mut asked, PollTimeout::ZERO)? == 0 {
                    ready.clear_ready();
                    continue;
                }
                break nix::unistd::read(fd.get_ref(), &mut buffer)?;
            },
        };
        buffer.truncate(n);
        Ok(buffer.into())
    }
}

/// Lets the runtime wait for a descriptor.
#[expect(
    deprecated,
    reason = "an owned descriptor keeps the contract of the new call, which is unsafe for others' sake"
)]
fn waiting(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_that_came_in_one_piece_is_read_in_several_and_its_end_is_seen() {
        let (reader, writer) = io::pipe().unwrap();
        let mut input = Input::Waiting(waiting(reader.into()).unwrap());
        let sent = vec![7; 50_000];
        let bytes = sent.clone();
        let sender = std::thread::spawn(move || io::Write::write_all(&mut &writer, &bytes).unwrap());
        let mut got = Vec::new();
        loop {
            let piece = input.read().await.unwrap();
            if piece.is_empty() {
                break;
            }
            got.extend_from_slice(&piece);
        }
        sender.join().unwrap();
        assert_eq!(got, sent);
    }
}
