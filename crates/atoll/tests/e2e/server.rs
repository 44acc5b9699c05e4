//! A running Atoll for tests.
//!
//! How it works: `atoll up` on a free port and a temporary data directory; it is ready when it has printed its address. [`shared`] hands
//! out one server as long as any test holds it. Dropping the last handle stops it in order and fails the test if a process, namespace,
//! interface, control group, claim or directory is left.
//!
//! Deliberately absent: reading its log, except to show it when something failed.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use atoll_client::{ApiKey, Client, Endpoint};
use atoll_domain::InstanceId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long a start or a stop may take on a machine under load.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    let named = ["ATOLL_TEST_BIN", "ATOLL_BIN"].into_iter().find_map(std::env::var_os).map(PathBuf::from);
    let path = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/atoll"));
    assert!(path.is_file(), "{} is not there: cargo xtask build", path.display());
    assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces and jails: run them as root");
    path
}

/// A command of the binary that inherits none of the caller's settings.
pub(crate) fn atoll(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    without_settings(&mut command);
    command.args(arguments);
    command
}

fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name != "ATOLL_CACHE") {
        if name.to_string_lossy().starts_with("ATOLL_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
}

/// A data directory that outlives its servers.
#[derive(Debug)]
pub(crate) struct Data(TempDir);

impl Data {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("atoll-e2e-").tempdir().unwrap())
    }

    /// What `--data` is given.
    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    /// What is on the machine of this instance and these sandboxes.
    pub(crate) fn remains(&self, ids: &[String]) -> atoll_host::Remains {
        let Ok(text) = fs::read(self.path().join("instance.json")) else { return atoll_host::Remains::default() };
        let file: Value = serde_json::from_slice(&text).unwrap();
        let instance = InstanceId::try_from(file["instance"].as_str().unwrap().to_owned()).unwrap();
        atoll_host::remains(&instance, &self.path(), ids)
    }
}

/// A running `atoll up`.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) data: Arc<Data>,
    /// Its address, as it printed it.
    pub(crate) url: String,
    pub(crate) api_key: String,
    child: Mutex<Option<Child>>,
    /// Every sandbox that was made here, for the search at the end.
    made: Mutex<Vec<String>>,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// The server that tests share; started if nobody holds it.
pub(crate) fn shared() -> Arc<Server> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start());
        *shared = Arc::downgrade(&server);
        server
    })
}

impl Server {
    /// Starts one on a fresh data directory.
    pub(crate) fn start() -> Self {
        Self::start_on(Arc::new(Data::new()))
    }

    /// Starts one on a data directory.
    pub(crate) fn start_on(data: Arc<Data>) -> Self {
        Self::start_as(data, atoll(&[]))
    }

    /// Starts one by a command that ends in the binary's name.
    pub(crate) fn start_as(data: Arc<Data>, command: Command) -> Self {
        Self::start_at(data, command, "127.0.0.1:0")
    }

    /// Starts one by a command that ends in the binary's name, on an address.
    pub(crate) fn start_at(data: Arc<Data>, mut command: Command, listen: &str) -> Self {
        without_settings(&mut command);
        let log = File::options().create(true).append(true).open(data.log()).unwrap();
        // Goldens are tried by e2e_life; a boot beside every test would only make each slower.
        command.args(["up", "--golden-shapes", "none", "--listen", listen, "--on-exit", "destroy", "--data"]);
        command.arg(data.path());
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, receiver) = mpsc::sync_channel(64);
        // Ends with the server's output.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // Nobody waits any more.
            let _ = sender.send(read.map(|_| line.trim().to_owned()));
        });
        let url = receiver.recv_timeout(LIMIT).ok().and_then(Result::ok).filter(|url| !url.is_empty());
        let Some(url) = url else {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            panic!("atoll up did not come up:\n{}", fs::read_to_string(data.log()).unwrap_or_default());
        };
        let admin: Value = serde_json::from_slice(&fs::read(data.path().join("admin.json")).unwrap()).unwrap();
        assert_eq!(admin["url"], url.as_str());
        let api_key = admin["api_key"].as_str().unwrap().to_owned();
        Self { data, url, api_key, child: Mutex::new(Some(child)), made: Mutex::default() }
    }

    /// A client with the API key, over TCP.
    pub(crate) fn client(&self) -> Client {
        let key = Some(ApiKey::new(&self.api_key).unwrap());
        Client::new(&Endpoint::Http { url: self.url.clone(), key }).unwrap()
    }

    /// A client over the data directory's socket.
    pub(crate) fn local(&self) -> Client {
        Client::new(&Endpoint::Data(self.data.path())).unwrap()
    }

    /// A command line that speaks to it over its socket.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = atoll(arguments);
        command.env("ATOLL_DATA", self.data.path());
        command
    }

    /// Notes a sandbox for the search at the end.
    pub(crate) fn note(&self, id: &str) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(id.to_owned());
    }

    pub(crate) fn made(&self) -> Vec<String> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_ref().expect("it runs").id()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.log()).unwrap_or_default()
    }

    /// Stops it in order.
    pub(crate) fn stop(&self) -> ExitStatus {
        self.end(Signal::SIGTERM)
    }

    /// Kills it without a word, as a crash would.
    pub(crate) fn kill(&self) {
        self.end(Signal::SIGKILL);
    }

    fn end(&self, signal: Signal) -> ExitStatus {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut child = child.expect("it runs");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let since = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if since.elapsed() > LIMIT {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it did not stop within {} s:\n{}", LIMIT.as_secs(), self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fails if anything of it is on the machine.
    pub(crate) fn assert_nothing_left(&self) {
        let remains = self.data.remains(&self.made());
        assert!(remains.is_empty(), "left on the machine: {remains:#?}\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let runs = self.child.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if runs {
            let status = self.stop();
            if std::thread::panicking() {
                eprintln!("the server ended with {status}; its log:\n{}", self.log());
            } else {
                assert!(status.success(), "{status}:\n{}", self.log());
                self.assert_nothing_left();
            }
        }
    }
}
