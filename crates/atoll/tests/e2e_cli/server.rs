//! A running Atoll in a directory of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A loaded machine that emulates takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) fn binary() -> PathBuf {
    std::env::var_os("ATOLL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_atoll").into(), PathBuf::from)
}

pub(crate) struct Server {
    child: Option<Child>,
    dir: tempfile::TempDir,
    pub(crate) url: String,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Server {
    /// Starts one; it answers when this returns.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary());
        command
            .args(["up", "--golden-shapes", "none", "--on-exit", "destroy", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path().join("data"));
        let mut child = command.current_dir(dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "it did not start: {url:?}");
        Self { child: Some(child), dir, url: url.trim().to_owned() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn api_key(&self) -> String {
        let text = std::fs::read(self.data().join("admin.json")).unwrap();
        let admin: serde_json::Value = serde_json::from_slice(&text).unwrap();
        admin["api_key"].as_str().unwrap().to_owned()
    }

    /// A client over the data directory's socket.
    pub(crate) fn atoll(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--data").arg(self.data()).args(arguments).current_dir(self.dir()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.atoll(arguments).output().unwrap().into()
    }

    /// The same, which must succeed; its output without the last line's end.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended.stdout.trim_end().to_owned()
    }

    pub(crate) fn create(&self) -> String {
        self.ok(&["create", "--memory", "256"])
    }

    /// Stops it in order.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "an orderly stop ended with {status}");
                return;
            }
            assert!(Instant::now() < until, "it does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What went wrong is the news; the sandboxes must go all the same.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.stop()));
        } else {
            self.stop();
        }
    }
}
