//! `atoll get`
//!
//! How it works: one sandbox by the beginning of its id: a line a fact, its id alone, or JSON.
//!
//! Deliberately absent: secrets: no answer holds any.

use anyhow::Result;
use atoll_api::Sandbox;
use atoll_client::Client;

use crate::args::{Global, IdArgs, Output};
use crate::{connect, output};

/// Shows one sandbox, with what belongs to it on its host.
pub(crate) async fn get(client: &Client, global: &Global, args: &IdArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    let sandbox = client.sandbox(&id).await?;
    match global.output {
        Output::Json => output::json(&sandbox),
        Output::Name => output::print(&format!("{}\n", sandbox.id)),
        Output::Table => output::print(&render(&sandbox, output::stdout_is_terminal())),
    }
}

fn render(sandbox: &Sandbox, terminal: bool) -> String {
    let time = |text: &String| output::time(text, terminal);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: Option<String>| rows.extend(value.map(|value| vec![name.to_owned(), value]));
    row("id", Some(sandbox.id.clone()));
    row("status", Some(sandbox.status.to_string()));
    row("reason", sandbox.reason.clone());
    row("template", Some(sandbox.template.clone()));
    row("vcpus", Some(sandbox.vcpus.to_string()));
    row("memory_mb", Some(sandbox.memory_mb.to_string()));
    row("disk_mb", Some(sandbox.disk_mb.to_string()));
    row("timeout_sec", Some(sandbox.timeout_sec.to_string()));
    row("end_at", sandbox.end_at.as_ref().map(|at| output::time(at, false)));
    row("on_expiry", Some(sandbox.on_expiry.clone()).filter(|what| !what.is_empty()));
    row("auto_resume", sandbox.auto_resume.then(|| "yes".to_owned()));
    row("max_lifetime_sec", Some(sandbox.max_lifetime_sec).filter(|n| *n > 0).map(|n| n.to_string()));
    if let Some(paused) = &sandbox.paused {
        row("paused", Some(time(&paused.at)));
        row("kept", Some(super::pause::kept(paused)));
    }
    row("guest_ip", sandbox.guest_ip.clone());
    row("host_ip", sandbox.host_ip.clone());
    row("created", Some(time(&sandbox.created_at)));
    row("started", sandbox.started_at.as_ref().map(time));
    row("last active", sandbox.last_active_at.as_ref().map(time));
    for (key, value) in &sandbox.metadata {
        row(&format!("label {key}"), Some(value.clone()));
    }
    if let Some(host) = &sandbox.host {
        row("keeper pid", host.keeper_pid.map(|n| n.to_string()));
        row("vmm pid", host.vmm_pid.map(|n| n.to_string()));
        row("uid", host.uid.map(|n| n.to_string()));
        row("namespace", host.namespace.clone());
        row("interface", host.interface.clone());
        row("directory", Some(host.directory.clone()));
    }
    output::table(None, &rows, terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_sees_what_belongs_to_it_on_the_machine() {
        let sandbox: Sandbox = serde_json::from_value(serde_json::json!({
            "id": "sb1", "status": "running", "template": "base", "vcpus": 1, "memory_mb": 512, "disk_mb": 5120,
            "timeout_sec": 0, "network": "internet", "guest_ip": "169.254.0.2", "host_ip": "10.213.0.1",
            "created_at": "2026-01-31T12:00:00.123Z", "last_updated": "2026-01-31T12:00:00.123Z",
            "metadata": {"job": "7"},
            "host": {"directory": "/var/lib/atoll/sandboxes/sb1", "keeper_pid": 100, "vmm_pid": 101, "uid": 900_001,
                     "namespace": "atoll-012abc-1", "interface": "at012abc.1", "phases": []},
        }))
        .unwrap();
        insta::assert_snapshot!(render(&sandbox, false));
    }
}
