//! The bounds of what a user may ask for.
//!
//! How it works: each function takes what came in and answers the value that counts, or an [`Invalid`] that names the
//! field, the limit and the way out. Absent or 0 means the default; a negative number is an error.
//!
//! Deliberately absent: whether a host has room (that is admission, on the host), and authorisation.

use serde::{Deserialize, Serialize};

use crate::host::Isolation;
use crate::{Network, Shape};

/// Input that breaks a bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{field}: {detail}")]
pub struct Invalid {
    /// The field, as the API names it.
    pub field: String,
    /// A short code: `out_of_range`, `required`, `malformed`, `unknown`.
    pub code: String,
    /// What is wrong, the limit, and the way out.
    pub detail: String,
    /// Smallest allowed value, where there is one.
    pub min: Option<i64>,
    /// Largest allowed value, where there is one.
    pub max: Option<i64>,
}

impl Invalid {
    /// A field whose value cannot be used.
    pub fn new(field: &str, code: &str, detail: impl Into<String>) -> Self {
        Self { field: field.into(), code: code.into(), detail: detail.into(), min: None, max: None }
    }

    /// A number outside its bounds.
    pub fn range(field: &str, value: i64, min: i64, max: i64, hint: &str) -> Self {
        let hint = if hint.is_empty() { String::new() } else { format!("; {hint}") };
        Self {
            field: field.into(),
            code: "out_of_range".into(),
            detail: format!("{value} is not between {min} and {max}{hint}"),
            min: Some(min),
            max: Some(max),
        }
    }
}

/// Largest number of virtual CPUs in any sandbox.
pub const MAX_VCPUS: u32 = 32;
/// Smallest guest memory in MiB.
pub const MIN_MEMORY_MB: u32 = 128;
/// Default guest memory in MiB.
pub const DEFAULT_MEMORY_MB: u32 = 512;
/// Smallest writable disk in MiB.
pub const MIN_DISK_MB: u32 = 64;
/// Default writable disk in MiB (5 GiB).
pub const DEFAULT_DISK_MB: u32 = 5 * 1024;
/// Largest writable disk in MiB (1 TiB).
pub const MAX_DISK_MB: u32 = 1024 * 1024;
/// Longest idle timeout in seconds (one year).
pub const MAX_TIMEOUT_SEC: u32 = 365 * 24 * 3600;
/// Default time of a foreground exec in seconds.
pub const DEFAULT_EXEC_TIMEOUT_SEC: u32 = 30;
/// Longest time of a foreground exec in seconds (one day).
pub const MAX_EXEC_TIMEOUT_SEC: u32 = 24 * 3600;
/// Most environment variables in one request.
pub const MAX_ENVS: usize = 256;
/// Most bytes of all environment variables in one request.
pub const MAX_ENV_BYTES: usize = 64 * 1024;
/// Longest path in bytes.
pub const MAX_PATH_BYTES: usize = 4096;
/// Most arguments of a command.
pub const MAX_ARGS: usize = 1024;
/// Most bytes of a command with its arguments.
pub const MAX_COMMAND_BYTES: usize = 128 * 1024;

/// What the host that would run the sandbox allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// KVM or not.
    pub isolation: Isolation,
}

impl HostLimits {
    /// Largest `vcpus` of one sandbox: twice the cores where guests are emulated, 32 otherwise.
    pub fn max_vcpus(&self) -> u32 {
        match self.isolation {
            Isolation::Hardware => MAX_VCPUS,
            Isolation::Emulated => MAX_VCPUS.min(self.cpus.saturating_mul(2).max(1)),
        }
    }
}

/// A number that may be absent or 0 for the default.
fn bounded(field: &str, value: Option<i64>, default: u32, min: u32, max: u32, hint: &str) -> Result<u32, Invalid> {
    match value {
        None | Some(0) => Ok(default),
        Some(n) => u32::try_from(n)
            .ok()
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| Invalid::range(field, n, min.into(), max.into(), hint)),
    }
}

/// The shape of a new sandbox.
pub fn shape(
    vcpus: Option<i64>,
    memory_mb: Option<i64>,
    disk_mb: Option<i64>,
    limits: HostLimits,
) -> Result<Shape, Invalid> {
    let emulated = "this host emulates its guests (no usable KVM), so at most twice its cores";
    let hint = if limits.isolation == Isolation::Emulated { emulated } else { "" };
    let most_memory = u32::try_from(limits.memory_mb).unwrap_or(u32::MAX).max(MIN_MEMORY_MB);
    Ok(Shape {
        vcpus: bounded("vcpus", vcpus, 1, 1, limits.max_vcpus(), hint)?,
        memory_mb: bounded(
            "memory_mb",
            memory_mb,
            DEFAULT_MEMORY_MB,
            MIN_MEMORY_MB,
            most_memory,
            "the upper bound is the host's memory",
        )?,
        disk_mb: bounded("disk_mb", disk_mb, DEFAULT_DISK_MB, MIN_DISK_MB, MAX_DISK_MB, "")?,
    })
}

/// The idle timeout in seconds; 0 means never.
pub fn timeout_sec(value: Option<i64>) -> Result<u32, Invalid> {
    bounded("timeout_sec", value, 0, 1, MAX_TIMEOUT_SEC, "0 means no timeout")
}

/// The time limit of a foreground exec in seconds.
pub fn exec_timeout_sec(value: Option<i64>) -> Result<u32, Invalid> {
    bounded("timeout_sec", value, DEFAULT_EXEC_TIMEOUT_SEC, 1, MAX_EXEC_TIMEOUT_SEC, "0 means 30 seconds")
}

/// The network of a new sandbox.
pub fn network(value: Option<&str>) -> Result<Network, Invalid> {
    match value {
        None | Some("") => Ok(Network::default()),
        Some(text) => Network::parse(text).ok_or_else(|| {
            Invalid::new("network", "unknown", format!("`{}` is not known; use `none` or `internet`", clip(text)))
        }),
    }
}

/// A template's or snapshot's name: a letter or digit, then letters, digits, `.`, `_`, `-`; at most 64.
pub fn template_name(value: Option<&str>) -> Result<&str, Invalid> {
    let name = match value {
        None | Some("") => "base",
        Some(text) => text,
    };
    name_of_template("template", name)
}

/// The name of a new snapshot template.
pub fn snapshot_name(value: &str) -> Result<&str, Invalid> {
    name_of_template("name", value)
}

fn name_of_template<'a>(field: &str, name: &'a str) -> Result<&'a str, Invalid> {
    let good = name.len() <= 64
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good {
        return Ok(name);
    }
    let detail = format!(
        "`{}` is not a template name: letters, digits, `.`, `_`, `-`, starting with a letter or digit, at most 64",
        clip(name)
    );
    Err(Invalid::new(field, "malformed", detail))
}

/// The shape of a sandbox that starts from a snapshot: its memory is there already, so only its disk may be larger.
pub fn shape_of_copy(
    vcpus: Option<i64>,
    memory_mb: Option<i64>,
    disk_mb: Option<i64>,
    snapshot: Shape,
) -> Result<Shape, Invalid> {
    let same = |field: &str, value: Option<i64>, is: u32| match value {
        None | Some(0) => Ok(is),
        Some(n) if n == i64::from(is) => Ok(is),
        Some(n) => {
            let hint = "it is the snapshot's: leave it out";
            Err(Invalid::range(field, n, is.into(), is.into(), hint))
        }
    };
    let hint = "the snapshot's disk can grow and not shrink";
    Ok(Shape {
        vcpus: same("vcpus", vcpus, snapshot.vcpus)?,
        memory_mb: same("memory_mb", memory_mb, snapshot.memory_mb)?,
        disk_mb: bounded("disk_mb", disk_mb, snapshot.disk_mb, snapshot.disk_mb, MAX_DISK_MB, hint)?,
    })
}

/// Whether a sandbox must boot, though a golden could be restored: `auto` (the default) or `cold`.
pub fn boots_cold(value: Option<&str>) -> Result<bool, Invalid> {
    match value {
        None | Some("" | "auto") => Ok(false),
        Some("cold") => Ok(true),
        Some(text) => {
            Err(Invalid::new("boot", "unknown", format!("`{}` is not known; use `auto` or `cold`", clip(text))))
        }
    }
}

/// Environment variables: names as in a shell, no NUL, bounded in number and bytes.
pub fn envs<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), Invalid> {
    let (mut count, mut bytes) = (0, 0);
    for (name, value) in variables {
        count += 1;
        bytes += name.len() + value.len() + 2;
        let good = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !good {
            return Err(Invalid::new(
                "envs",
                "malformed",
                format!("`{}` is not a variable name: letters, digits and `_`, not starting with a digit", shown(name)),
            ));
        }
        if value.contains('\0') {
            return Err(Invalid::new(
                "envs",
                "malformed",
                format!("the value of `{}` contains a NUL byte", clip(name)),
            ));
        }
    }
    if count > MAX_ENVS {
        return Err(Invalid::new("envs", "out_of_range", format!("{count} variables; at most {MAX_ENVS}")));
    }
    if bytes > MAX_ENV_BYTES {
        return Err(Invalid::new("envs", "out_of_range", format!("{bytes} bytes in all; at most {MAX_ENV_BYTES}")));
    }
    Ok(())
}

/// A name that is none, as far as it can be told again: behind a `=` stands a value, which may be a secret.
fn shown(name: &str) -> String {
    match name.split_once('=') {
        Some((before, _)) => format!("{}=…", clip(before)),
        None => clip(name),
    }
}

/// A command and its arguments.
pub fn command(cmd: &str, args: &[String]) -> Result<(), Invalid> {
    if cmd.is_empty() {
        return Err(Invalid::new("cmd", "required", "name the program to run"));
    }
    if cmd.len() > MAX_PATH_BYTES {
        // No kernel takes a longer name of a program.
        return Err(Invalid::new("cmd", "out_of_range", format!("{} bytes; at most {MAX_PATH_BYTES}", cmd.len())));
    }
    if args.len() > MAX_ARGS {
        return Err(Invalid::new("args", "out_of_range", format!("{} arguments; at most {MAX_ARGS}", args.len())));
    }
    let bytes = cmd.len() + args.iter().map(|arg| arg.len() + 1).sum::<usize>();
    if bytes > MAX_COMMAND_BYTES {
        return Err(Invalid::new(
            "args",
            "out_of_range",
            format!("{bytes} bytes of command; at most {MAX_COMMAND_BYTES}: pass large input by a file or stdin"),
        ));
    }
    if cmd.contains('\0') || args.iter().any(|arg| arg.contains('\0')) {
        return Err(Invalid::new("cmd", "malformed", "a command holds no NUL byte"));
    }
    Ok(())
}

/// A path in a guest.
pub fn path(field: &str, value: &str) -> Result<(), Invalid> {
    if value.is_empty() {
        return Err(Invalid::new(field, "required", "name a path in the sandbox"));
    }
    if value.len() > MAX_PATH_BYTES {
        return Err(Invalid::new(field, "out_of_range", format!("{} bytes; at most {MAX_PATH_BYTES}", value.len())));
    }
    if value.contains('\0') {
        return Err(Invalid::new(field, "malformed", "a path holds no NUL byte"));
    }
    Ok(())
}

/// A file of the host, for those who may name one.
pub fn host_path(field: &str, value: &str) -> Result<(), Invalid> {
    if !value.starts_with('/') {
        return Err(Invalid::new(field, "malformed", "name a file of the host by its absolute path"));
    }
    if value.len() > MAX_PATH_BYTES {
        return Err(Invalid::new(field, "out_of_range", format!("{} bytes; at most {MAX_PATH_BYTES}", value.len())));
    }
    if value.contains('\0') {
        return Err(Invalid::new(field, "malformed", "a path holds no NUL byte"));
    }
    Ok(())
}

/// A user name in a guest.
pub fn user(value: &str) -> Result<(), Invalid> {
    let good = !value.is_empty()
        && value.len() <= 32
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !value.starts_with('-');
    if good {
        Ok(())
    } else {
        Err(Invalid::new("user", "malformed", "a user name has letters, digits, `_`, `-`, `.`, at most 32"))
    }
}

/// A process's tag: letters, digits, `.`, `_`, `-`, not digits alone (that is a pid), at most 64.
pub fn tag(value: &str) -> Result<(), Invalid> {
    let good = !value.is_empty()
        && value.len() <= 64
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !value.bytes().all(|b| b.is_ascii_digit());
    if good {
        return Ok(());
    }
    let detail = "a tag has letters, digits, `_`, `-`, `.`, not digits alone, at most 64";
    Err(Invalid::new("tag", "malformed", detail))
}

/// A signal's number by its name, with or without `SIG`; absent means KILL.
pub fn signal(value: Option<&str>) -> Result<i32, Invalid> {
    let name = value.filter(|text| !text.is_empty()).unwrap_or("KILL");
    let upper = name.to_ascii_uppercase();
    match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "HUP" => Ok(1),
        "INT" => Ok(2),
        "QUIT" => Ok(3),
        "KILL" => Ok(9),
        "USR1" => Ok(10),
        "USR2" => Ok(12),
        "TERM" => Ok(15),
        "CONT" => Ok(18),
        "STOP" => Ok(19),
        "WINCH" => Ok(28),
        _ => {
            let known = "HUP, INT, QUIT, KILL, USR1, USR2, TERM, CONT, STOP, WINCH";
            Err(Invalid::new("signal", "unknown", format!("`{}` is not known; use one of {known}", clip(name))))
        }
    }
}

/// At most 64 characters of hostile text, for an error message.
fn clip(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}
