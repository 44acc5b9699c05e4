//! A command on a terminal of this side.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::server::PATIENCE;

pub(crate) struct OnTerminal {
    master: File,
    slave: OwnedFd,
    path: PathBuf,
    child: Child,
    seen: String,
}

impl OnTerminal {
    /// Starts a command with a controlling terminal of this size.
    pub(crate) fn start(command: &Command, rows: u16, cols: u16) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let path = std::fs::read_link(format!("/proc/self/fd/{}", pty.slave.as_raw_fd())).unwrap();
        set_size(&path, rows, cols);
        let mut all = Command::new("setsid");
        all.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        if let Some(dir) = command.get_current_dir() {
            all.current_dir(dir);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => all.env(name, value),
                None => all.env_remove(name),
            };
        }
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = all.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { master: pty.master.into(), slave: pty.slave, path, child, seen: String::new() }
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        set_size(&self.path, rows, cols);
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the output since the last call holds this; answers that output.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(Instant::now() < until, "no `{text}` in {:?}", self.seen);
            self.read();
        }
    }

    fn read(&mut self) {
        let mut asked = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut asked, PollTimeout::from(200_u8)).unwrap() > 0 {
            let mut buffer = [0; 4096];
            let n = self.master.read(&mut buffer).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }

    /// What was shown since the last call of [`OnTerminal::expect`].
    pub(crate) fn seen(&self) -> &str {
        &self.seen
    }

    /// Whether the terminal is as a shell leaves it: lines and echo.
    pub(crate) fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    pub(crate) fn wait(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end: {:?}", self.seen);
            self.read();
        }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // Ended already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(path: &std::path::Path, rows: u16, cols: u16) {
    let mut stty = Command::new("stty");
    stty.arg("-F").arg(path).args(["rows", &rows.to_string(), "cols", &cols.to_string()]);
    assert!(stty.status().unwrap().success());
}
