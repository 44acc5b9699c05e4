//! Routes about the machine itself: `/health`, `/init`, `/metrics`, `/envs`.
//!
//! How it works: `/health` needs nothing. The first `/init` is free while no user code has run; later ones need the
//! token, repair what a restore left behind and let user code go on.
//!
//! Deliberately absent: snapshots (`snapshot.rs`).

use std::{
    collections::BTreeMap,
    fs,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{
    App, ConnectionId, identity, json,
    reply::{self, Reply},
};
use crate::{ENVD_VERSION, PROTOCOL, console, error::AgentError, repair, settings::Change};

/// Says that the agent is there.
pub(crate) fn health() -> Reply {
    reply::json(
        StatusCode::OK,
        &serde_json::json!({ "version": ENVD_VERSION, "agent": env!("CARGO_PKG_VERSION"), "protocol": PROTOCOL }),
    )
}

/// What every process gets by default.
pub(crate) fn envs(app: &App, request: &Request<Incoming>) -> Result<Reply, AgentError> {
    identity::check(&app.settings, request.headers())?;
    Ok(reply::json(StatusCode::OK, &app.settings.envs()))
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Init {
    access_token: Option<String>,
    env_vars: Option<BTreeMap<String, String>>,
    timestamp_ns: Option<u64>,
    default_user: Option<String>,
    default_workdir: Option<String>,
    hostname: Option<String>,
    machine_id: Option<String>,
    entropy: Option<String>,
    generation: Option<String>,
    output_bytes: Option<u64>,
}

/// Reads the body of `/init` and does nothing with it.
pub(crate) fn read_init(body: &[u8]) {
    if let Ok(init) = json::parse::<Init>(body, "/init") {
        // Whether it is right is all that there is to see.
        let _ = init.check();
    }
}

/// Takes over what the host says this machine is. A machine that was restored learns here what has
/// changed since its snapshot; then what it had to do with before is cut off, and user code goes on.
pub(crate) async fn init(app: &App, request: Request<Incoming>, connection: ConnectionId) -> Result<Reply, AgentError> {
    may_init(app, &request)?;
    let (parts, body) = request.into_parts();
    let init: Init = json::read(body, "/init").await?;
    init.check()?;
    // Again: while the body came, somebody else may have been first.
    may_init_with(app, &parts.headers)?;
    let first = !app.settings.has_token();
    if app.machine {
        init.repair(first)?;
        if init.machine_id.is_some() {
            tolerate_full_disk(app.host_keys.renew().await, "SSH host keys")?;
        }
    }
    let reborn = app.settings.change(Change {
        token: init.access_token,
        envs: init.env_vars,
        user: init.default_user,
        workdir: init.default_workdir,
        generation: init.generation,
        output_bytes: init.output_bytes,
    });
    if reborn {
        app.close_before(connection);
    }
    app.table.groups.freezer.thaw();
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn may_init(app: &App, request: &Request<Incoming>) -> Result<(), AgentError> {
    may_init_with(app, request.headers())
}

/// The first call is free while no user code has run that could be its sender.
fn may_init_with(app: &App, headers: &http::HeaderMap) -> Result<(), AgentError> {
    if !app.settings.has_token() && !app.table.was_used() {
        return Ok(());
    }
    identity::check(&app.settings, headers)
}

impl Init {
    fn check(&self) -> Result<(), AgentError> {
        let wrong = |text: &str| Err(AgentError::Invalid(text.to_owned()));
        if self.access_token.as_ref().is_some_and(|token| !(16..=512).contains(&token.len())) {
            return wrong("accessToken must have 16 to 512 bytes");
        }
        if self.hostname.as_ref().is_some_and(|name| !repair::is_hostname(name)) {
            return wrong("hostname must be 1 to 63 letters, digits or inner dashes");
        }
        if self.machine_id.as_ref().is_some_and(|id| !repair::is_machine_id(id)) {
            return wrong("machineId must be 32 lower-case hex digits");
        }
        if self.generation.as_ref().is_some_and(|text| !repair::is_generation(text)) {
            return wrong("generation must be 1 to 128 bytes of printable ASCII");
        }
        let named = |key: &String| !key.is_empty() && !key.contains(['=', '\0']);
        let envs = self.env_vars.iter().flatten();
        if !envs.clone().all(|(key, value)| named(key) && !value.contains('\0')) {
            return wrong("envVars: a name is not empty and holds no `=`; nothing holds a NUL byte");
        }
        Ok(())
    }

    fn repair(&self, first: bool) -> Result<(), AgentError> {
        if let Some(nanoseconds) = self.timestamp_ns {
            repair::set_clock(nanoseconds).map_err(|error| AgentError::io("setting the clock", error))?;
        }
        if let Some(entropy) = &self.entropy {
            let entropy = STANDARD.decode(entropy).map_err(|_| AgentError::Invalid("entropy is not base64".into()))?;
            repair::add_entropy(&entropy).map_err(|error| AgentError::io("adding entropy", error))?;
        }
        if first || self.machine_id.is_some() {
            tolerate_full_disk(repair::set_machine_id(self.machine_id.as_deref()), "machine id")?;
        }
        if let Some(generation) = &self.generation {
            repair::set_generation(generation).map_err(|error| AgentError::io("writing the fork file", error))?;
        }
        if let Some(hostname) = &self.hostname {
            tolerate_full_disk(repair::set_hostname(hostname), "host name")?;
        }
        Ok(())
    }
}

/// A full disk must not keep a sandbox from coming back.
fn tolerate_full_disk(result: std::io::Result<()>, what: &str) -> Result<(), AgentError> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            console::say(&format!("setting the {what}: {error}"));
            Ok(())
        }
        result => result.map_err(|error| AgentError::io(format!("setting the {what}"), error)),
    }
}

/// Remembers the last reading of the processor's time.
#[derive(Default)]
pub(crate) struct Meter(Mutex<(u64, u64)>);

impl Meter {
    /// Percent of all processors since the last call.
    fn used(&self, stat: &str) -> f64 {
        let now = cpu_times(stat);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = now.0.saturating_sub(last.0);
        let total = now.1.saturating_sub(last.1);
        *last = now;
        if total == 0 {
            return 0.0;
        }
        // Below 2^52 ticks for some million years.
        #[expect(clippy::cast_precision_loss, reason = "ticks of an uptime")]
        let percent = busy as f64 * 100.0 / total as f64;
        (percent * 100.0).round() / 100.0
    }
}

/// Busy and total ticks out of /proc/stat.
fn cpu_times(stat: &str) -> (u64, u64) {
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    let total: u64 = fields.iter().sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    (total - idle, total)
}

/// A line of /proc/meminfo, in bytes.
fn memory_line(meminfo: &str, name: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// What the machine uses, by its own account.
pub(crate) async fn metrics(app: &App, request: &Request<Incoming>) -> Result<Reply, AgentError> {
    #[derive(Serialize)]
    struct Metrics {
        ts: u64,
        cpu_count: usize,
        cpu_used_pct: f64,
        mem_total_mib: u64,
        mem_used_mib: u64,
        mem_total: u64,
        mem_used: u64,
        mem_cache: u64,
        disk_used: u64,
        disk_total: u64,
    }
    identity::check(&app.settings, request.headers())?;
    let read = |path: &str| fs::read_to_string(path).map_err(|error| AgentError::io(format!("reading {path}"), error));
    let meminfo = read("/proc/meminfo")?;
    let total = memory_line(&meminfo, "MemTotal");
    let used = total.saturating_sub(memory_line(&meminfo, "MemAvailable"));
    let disk = nix::sys::statvfs::statvfs("/").map_err(|error| AgentError::io("measuring the disk", error.into()))?;
    let blocks = disk.fragment_size();
    Ok(reply::json(
        StatusCode::OK,
        &Metrics {
            ts: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            cpu_count: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_used_pct: app.meter.used(&read("/proc/stat")?),
            mem_total_mib: total >> 20,
            mem_used_mib: used >> 20,
            mem_total: total,
            mem_used: used,
            mem_cache: memory_line(&meminfo, "Cached"),
            disk_used: disk.blocks().saturating_sub(disk.blocks_free()) * blocks,
            disk_total: disk.blocks() * blocks,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_counted_between_calls() {
        let meter = Meter::default();
        meter.used("cpu  100 0 0 900 0 0 0 0 0 0\n");
        let used = meter.used("cpu  150 0 25 1000 25 0 0 0 0 0\ncpu0 1 2 3\n");
        assert!((used - 37.5).abs() < 0.01, "{used}");
        assert!(meter.used("rubbish").abs() < f64::EPSILON);
    }

    #[test]
    fn memory_is_in_bytes() {
        let meminfo = "MemTotal:   2048 kB\nMemAvailable:  1024 kB\nCached: 7 kB\n";
        assert_eq!(memory_line(meminfo, "MemTotal"), 2 << 20);
        assert_eq!(memory_line(meminfo, "Cached"), 7168);
        assert_eq!(memory_line(meminfo, "Nothing"), 0);
    }
}
