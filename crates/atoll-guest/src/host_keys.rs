//! The machine's SSH host keys, when it has become another machine.
//!
//! How it works: a copy has its template's keys, and whoever knows one of those machines could pose as the other. So they are removed, and
//! `ssh-keygen -A` makes new ones where there is such a program, while user code still stands still. It runs in a control group
//! of its own, which is killed at its end: nothing that it starts is left outside of the one that freezes. Machines without keys, which
//! most are, start nothing.
//!
//! Deliberately absent: keys in other places. Which files of a program are its identity, nobody but the program knows.

use std::{
    ffi::CString,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::timeout;

use crate::{
    console,
    process::{
        child::{Child, Exit, reap},
        launch::{self, Launch},
    },
};

const PLACE: &str = "/etc/ssh";
const PREFIX: &str = "ssh_host_";
const PROGRAMS: [&str; 2] = ["/usr/bin/ssh-keygen", "/usr/local/bin/ssh-keygen"];
const GROUP: &str = "/sys/fs/cgroup/keys";
/// Long primes are slow to find on an emulated processor. User code stands still meanwhile, and a create waits.
const LIMIT: Duration = Duration::from_secs(10);

/// What is to become of the keys.
#[derive(Default)]
pub(crate) struct HostKeys {
    /// There were keys, and no new ones are there yet: a call that was broken off is made again.
    owed: AtomicBool,
}

impl HostKeys {
    /// Removes the keys that there are and has new ones made. That none can be made keeps no sandbox from coming up.
    ///
    /// # Errors
    /// When keys cannot be removed.
    pub(crate) async fn renew(&self) -> io::Result<()> {
        if remove(Path::new(PLACE))? > 0 {
            self.owed.store(true, Ordering::Relaxed);
        }
        if !self.owed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(program) = PROGRAMS.into_iter().find(|program| Path::new(program).exists()) else { return Ok(()) };
        match timeout(LIMIT, run(program)).await {
            Ok(Ok(Exit::Code(0))) => self.owed.store(false, Ordering::Relaxed),
            Ok(Ok(exit)) => console::say(&format!("SSH host keys: {program}: {}", exit.status())),
            Ok(Err(error)) => console::say(&format!("SSH host keys: {program} does not start: {error}")),
            Err(_) => console::say(&format!("SSH host keys: {program} took over {} s and was ended", LIMIT.as_secs())),
        }
        Ok(())
    }
}

/// Removes what looks like a host key, and answers how many there were.
fn remove(place: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(place) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let is_key = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_key && !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Has the program make every key that is missing.
async fn run(program: &str) -> io::Result<Exit> {
    let string = |text: &str| CString::new(text).map_err(io::Error::other);
    let nothing = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").map(Into::into);
    let group = Confined::make(Path::new(GROUP))?;
    let entry = fs::OpenOptions::new().write(true).open(group.path.join("cgroup.procs"))?;
    let launch = Launch {
        candidates: vec![string(program)?],
        arguments: vec![string(program)?, string("-A")?],
        environment: vec![string("PATH=/usr/sbin:/usr/bin:/sbin:/bin")?, string("HOME=/root")?],
        cwd: string("/")?,
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        stdio: [nothing()?, nothing()?, nothing()?],
        terminal: false,
        cgroup: Some(entry.into()),
    };
    // Why it could not be executed is in its exit code: 127.
    let running = Running { pid: launch::fork(&launch, &nothing()?)?, group };
    Child::new(running.pid)?.ended().await
}

/// A control group for one program.
struct Confined {
    path: PathBuf,
}

impl Confined {
    fn make(path: &Path) -> io::Result<Self> {
        match fs::create_dir(path) {
            // Its last process was still leaving.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        // What is left in it leaves in a moment; then the next one that is made here goes with it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The program and all that it started: dropped, they are killed.
struct Running {
    pid: libc::pid_t,
    group: Confined,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.group.path.join("cgroup.kill"), "1") {
            console::say(&format!("{}: {error}", self.group.path.display()));
        }
        // Before its first steps it is not in there yet. Not reaped so far, the number is still its own; ended, it takes no harm.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        reap(self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_go_and_everything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "sshd_config", "ssh_config"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("ssh_host_dir")).unwrap();
        assert_eq!(remove(dir.path()).unwrap(), 2);
        assert_eq!(remove(dir.path()).unwrap(), 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(remove(&dir.path().join("none")).unwrap(), 0);
    }
}
