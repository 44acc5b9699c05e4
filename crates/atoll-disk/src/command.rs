//! Running a tool of the machine: with a deadline, its output kept for the error, dead when we are.
//!
//! How it works: the tool runs under `setpriv --pdeathsig` and, where asked, in a PID namespace of its own, so that
//! killing one process (or our own death) takes the whole tree with it. Output goes through a pipe that a thread
//! drains; the last lines are kept.
//!
//! Deliberately absent: shells. Arguments are passed as they are.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::{DiskError, Progress, ProgressEvent};

const KEPT_LINES: usize = 12;
const LINE_CAP: u64 = 4096;
const POLL: Duration = Duration::from_millis(50);

/// A tool to be run.
pub(crate) struct Tool<'a> {
    /// The program.
    pub(crate) program: &'a str,
    /// The package that has it.
    pub(crate) package: &'static str,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Variables besides PATH and LC_ALL.
    pub(crate) envs: Vec<(&'a str, &'a str)>,
    /// Working directory.
    pub(crate) cwd: Option<&'a Path>,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// Put it into a PID namespace, so that nothing that it starts outlives it (root only).
    pub(crate) contained: bool,
}

impl Tool<'_> {
    /// Runs it; answers its standard output (capped at 1 MiB).
    pub(crate) fn run(self, progress: &dyn Progress) -> Result<String, DiskError> {
        which(self.program, self.package)?;
        let mut child = self.spawn()?;
        let (lines, received) = mpsc::sync_channel::<(bool, String)>(256);
        let readers = [
            child.stdout.take().map(|out| drain(out, true, lines.clone())),
            child.stderr.take().map(|err| drain(err, false, lines)),
        ];
        let (mut tail, mut stdout) = (VecDeque::new(), String::new());
        let started = Instant::now();
        let outcome = loop {
            while let Ok((is_stdout, line)) = received.recv_timeout(POLL) {
                if is_stdout && stdout.len() < 1024 * 1024 {
                    stdout.push_str(&line);
                    stdout.push('\n');
                }
                progress.event(ProgressEvent::Detail(line.clone()));
                tail.push_back(line);
                if tail.len() > KEPT_LINES {
                    tail.pop_front();
                }
                if started.elapsed() > self.limit || progress.cancelled() {
                    break;
                }
            }
            if let Some(status) = child.try_wait().map_err(DiskError::file("wait for", self.program))? {
                break Some(status);
            }
            if started.elapsed() > self.limit || progress.cancelled() {
                break None;
            }
        };
        if outcome.is_none() {
            // It may have ended this very moment; then there is nothing left to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
        for line in received.try_iter() {
            if line.0 {
                stdout.push_str(&line.1);
                stdout.push('\n');
            }
            tail.push_back(line.1);
        }
        drop(received);
        for reader in readers.into_iter().flatten() {
            // A reader ends with its pipe and does not panic.
            let _ = reader.join();
        }
        let output = tail.into_iter().collect::<Vec<_>>().join("\n");
        let tool = self.program.to_owned();
        match outcome {
            Some(status) if status.success() => Ok(stdout),
            Some(status) => Err(DiskError::Tool { tool, status: status.to_string(), output }),
            None if progress.cancelled() => Err(DiskError::Cancelled),
            None => Err(DiskError::ToolTimeout { tool, limit_sec: self.limit.as_secs(), output }),
        }
    }

    fn spawn(&self) -> Result<std::process::Child, DiskError> {
        let mut words = vec!["setpriv", "--pdeathsig", "KILL"];
        if self.contained {
            words.extend(["unshare", "--fork", "--pid", "--mount-proc", "--kill-child=KILL"]);
        }
        words.push(self.program);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(&self.args).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("LC_ALL", "C.UTF-8").env("PATH", SEARCH_PATH);
        command.envs(self.envs.iter().copied());
        if let Some(cwd) = self.cwd {
            command.current_dir(cwd);
        }
        command.spawn().map_err(DiskError::file("start", self.program))
    }
}

const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a program is installed.
pub(crate) fn which(program: &str, package: &'static str) -> Result<(), DiskError> {
    let found = SEARCH_PATH.split(':').any(|dir| Path::new(dir).join(program).exists());
    if found { Ok(()) } else { Err(DiskError::MissingTool { tool: program.to_owned(), package }) }
}

fn drain(
    pipe: impl Read + Send + 'static,
    is_stdout: bool,
    lines: mpsc::SyncSender<(bool, String)>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            match (&mut reader).take(LINE_CAP).read_until(b'\n', &mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let line = String::from_utf8_lossy(&buffer).trim_end().to_owned();
                    // A full channel means nobody reads any more or the line is one too many; the tool must not block.
                    let _ = lines.try_send((is_stdout, line));
                }
            }
        }
    })
}
