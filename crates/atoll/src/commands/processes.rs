//! `atoll ps` and `atoll kill`
//!
//! How it works: what the server lists, with names from the guest made harmless; signals go by pid or tag.
//!
//! Deliberately absent: processes that the guest started by itself.

use anyhow::Result;
use atoll_api::Process;
use atoll_client::Client;

use crate::args::{Global, IdArgs, KillArgs, Output};
use crate::{connect, output};

/// Lists the processes that were started through Atoll and run.
pub(crate) async fn processes(client: &Client, global: &Global, args: &IdArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    let list = client.processes(&id).await?;
    match global.output {
        Output::Json => output::json(&list),
        Output::Name => output::print(&list.processes.iter().map(|p| format!("{}\n", p.pid)).collect::<String>()),
        Output::Table => output::print(&render(&list.processes, output::stdout_is_terminal())),
    }
}

fn render(processes: &[Process], terminal: bool) -> String {
    let row = |process: &Process| {
        let mut command = process.cmd.clone();
        for argument in &process.args {
            command.push(' ');
            command.push_str(argument);
        }
        vec![process.pid.to_string(), process.tag.clone().unwrap_or_else(|| "-".into()), command]
    };
    let rows: Vec<_> = processes.iter().map(row).collect();
    output::table(Some(&["PID", "TAG", "COMMAND"]), &rows, terminal)
}

/// Sends a signal to a process and its group.
pub(crate) async fn kill(client: &Client, args: &KillArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    Ok(client.signal(&id, &args.process, &args.signal).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_calls_itself_cannot_break_the_table() {
        let process = |pid, tag: Option<&str>, cmd: &str, args: &[&str]| Process {
            pid,
            tag: tag.map(str::to_owned),
            cmd: cmd.into(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            cwd: None,
        };
        let shown =
            render(&[process(7, Some("proc-1"), "sleep", &["60"]), process(19, None, "a\n\u{1b}[2J", &[])], true);
        insta::assert_snapshot!(shown, @r"
        PID  TAG     COMMAND
        7    proc-1  sleep 60
        19   -       a  [2J
        ");
    }
}
