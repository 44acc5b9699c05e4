//! Running the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary under test: the one that was built with everything inside, else the one that cargo made for this test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("ATOLL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_atoll").into(), PathBuf::from)
}

/// A command without anything of this machine's settings, in a directory of its own.
pub(crate) fn atoll(cwd: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(cwd).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", cwd);
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn ended(output: &Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a command to its end.
pub(crate) fn run(cwd: &Path, arguments: &[&str]) -> Ended {
    ended(&atoll(cwd, arguments).output().unwrap())
}
