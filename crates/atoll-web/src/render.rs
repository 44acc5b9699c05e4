//! Records as the API writes them.
//!
//! How it works: small pure functions from the domain's types to atoll-api's.
//!
//! Deliberately absent: decisions about who sees what.

use atoll_api::{
    Encoding, ExecResponse, FileEntry, FileKind, HostFacts, Network, Paused, Phase, Process, SandboxStatus, Snapshot,
};
use atoll_control::sandboxes::{ExecResult, SandboxMetrics};
use atoll_domain::host::SandboxFacts;
use atoll_domain::record;
use atoll_guest_client::{Entry, EntryKind, ProcessInfo};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

/// Microseconds since 1970 as RFC 3339 in UTC, to the millisecond.
pub(crate) fn time(micros: i64) -> String {
    let at = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{at:.3}")
}

/// A sandbox, with what its host says of it where the asker may see that.
pub(crate) fn sandbox(sandbox: record::Sandbox, facts: Option<SandboxFacts>) -> atoll_api::Sandbox {
    atoll_api::Sandbox {
        id: sandbox.id.into(),
        status: status(sandbox.status),
        reason: sandbox.reason,
        template: sandbox.template,
        vcpus: sandbox.shape.vcpus,
        memory_mb: sandbox.shape.memory_mb,
        disk_mb: sandbox.shape.disk_mb,
        timeout_sec: sandbox.lifetime.timeout_sec,
        end_at: sandbox.lifetime.end_at.map(time),
        on_expiry: sandbox.lifetime.on_expiry.as_str().into(),
        auto_resume: sandbox.lifetime.auto_resume,
        max_lifetime_sec: sandbox.lifetime.max_lifetime_sec,
        paused: sandbox.paused.map(paused),
        network: match sandbox.network {
            atoll_domain::Network::None => Network::None,
            atoll_domain::Network::Internet => Network::Internet,
        },
        guest_ip: sandbox.guest_ip,
        host_ip: sandbox.host_ip,
        created_at: time(sandbox.created_at),
        started_at: sandbox.started_at.map(time),
        last_active_at: sandbox.last_active_at.map(time),
        last_updated: time(sandbox.last_updated),
        metadata: sandbox.metadata,
        host: facts.map(host_facts),
    }
}

fn paused(paused: record::Paused) -> Paused {
    let mode = if paused.generation.is_some() { "memory" } else { "disk" };
    Paused { at: time(paused.at), mode: mode.into(), quiesced: paused.quiesced, bytes: paused.bytes, took_ms: None }
}

/// A template of a team.
pub(crate) fn snapshot(template: record::Template) -> Snapshot {
    Snapshot {
        name: template.name,
        kind: template.kind.as_str().into(),
        vcpus: template.shape.vcpus,
        memory_mb: template.shape.memory_mb,
        disk_mb: template.shape.disk_mb,
        size_bytes: template.size_bytes,
        created_at: time(template.created_at),
        stood_still_ms: None,
    }
}

/// Microseconds as milliseconds; such a time is far below 2^52 of them.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

fn status(status: atoll_domain::SandboxStatus) -> SandboxStatus {
    use atoll_domain::SandboxStatus as Kept;
    match status {
        Kept::Pending => SandboxStatus::Pending,
        Kept::Running => SandboxStatus::Running,
        Kept::Paused => SandboxStatus::Paused,
        Kept::Missing => SandboxStatus::Missing,
        Kept::Stopped => SandboxStatus::Stopped,
        Kept::Error => SandboxStatus::Error,
    }
}

/// What a sandbox used.
pub(crate) fn metrics(sandbox_id: String, metrics: SandboxMetrics) -> atoll_api::SandboxMetrics {
    let point = |point: atoll_domain::metrics::Point| atoll_api::MetricPoint {
        timestamp_unix: point.timestamp_unix(),
        timestamp_ms: point.timestamp_ms,
        cpu_pct: point.cpu_pct,
        mem_bytes: point.mem_bytes,
        disk_bytes: point.disk_bytes,
        guest_mem_bytes: point.guest_mem_bytes,
        guest_disk_bytes: point.guest_disk_bytes,
    };
    let points = metrics.points.into_iter().map(point).collect();
    atoll_api::SandboxMetrics { sandbox_id, range: metrics.tier.as_str().into(), points }
}

/// Something that happened to a sandbox.
pub(crate) fn event(happening: atoll_domain::happening::Happening) -> atoll_api::SandboxEvent {
    atoll_api::SandboxEvent {
        at: time(happening.at),
        kind: happening.kind.as_str().into(),
        incarnation: happening.incarnation.0,
        reason: happening.reason,
    }
}

fn host_facts(facts: SandboxFacts) -> HostFacts {
    let phase = |phase: atoll_domain::host::Phase| Phase { name: phase.name, ms: ms(phase.micros) };
    HostFacts {
        directory: facts.directory,
        keeper_pid: facts.keeper_pid,
        vmm_pid: facts.vmm_pid,
        uid: facts.uid,
        namespace: facts.netns,
        interface: facts.interface,
        phases: facts.phases.into_iter().map(phase).collect(),
    }
}

/// The answer to an exec: text, or both streams as base64 when one of them is not UTF-8.
pub(crate) fn exec(sandbox_id: String, cmd: String, result: &ExecResult) -> ExecResponse {
    let text = std::str::from_utf8(&result.stdout).ok().zip(std::str::from_utf8(&result.stderr).ok());
    let (stdout, stderr, encoding) = match text {
        Some((stdout, stderr)) => (stdout.to_owned(), stderr.to_owned(), Encoding::Utf8),
        None => (STANDARD.encode(&result.stdout), STANDARD.encode(&result.stderr), Encoding::Base64),
    };
    ExecResponse {
        sandbox_id,
        cmd,
        stdout,
        stderr,
        exit_code: result.exit_code,
        duration_ms: u64::try_from(result.duration.as_millis()).unwrap_or(u64::MAX),
        encoding,
        stdout_truncated: result.stdout_truncated,
        stderr_truncated: result.stderr_truncated,
    }
}

/// An entry of a file tree.
pub(crate) fn entry(entry: Entry) -> FileEntry {
    FileEntry {
        name: entry.name,
        path: entry.path,
        kind: match entry.kind {
            EntryKind::Directory => FileKind::Directory,
            EntryKind::Symlink => FileKind::Symlink,
            // Clients of this family know no fourth kind.
            EntryKind::File | EntryKind::Other => FileKind::File,
        },
        size: entry.size,
        mode: entry.mode,
        permissions: entry.permissions,
        owner: entry.owner,
        group: entry.group,
        modified_at: entry.modified_us.div_euclid(1_000_000),
        symlink_target: entry.symlink_target,
    }
}

/// A process; its environment is not shown.
pub(crate) fn process(process: ProcessInfo) -> Process {
    Process { pid: process.pid, tag: process.tag, cmd: process.cmd, args: process.args, cwd: process.cwd }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_a_zone() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_700_000_000_123_456), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn bytes_that_are_no_text_make_both_streams_base64() {
        let result = ExecResult {
            stdout: vec![0xff, 0xfe].into(),
            stderr: "plain".into(),
            stdout_truncated: false,
            stderr_truncated: true,
            exit_code: 3,
            duration: std::time::Duration::from_millis(7),
        };
        let answer = exec("sb0".into(), "x".into(), &result);
        assert_eq!(answer.encoding, Encoding::Base64);
        assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("//4=", "cGxhaW4="));
        assert_eq!((answer.exit_code, answer.duration_ms, answer.stderr_truncated), (3, 7, true));
    }
}
