//! `atoll pause` and `atoll resume`
//!
//! How it works: each sandbox in turn; one that fails does not keep the others from it.
//!
//! Deliberately absent: falling back to the disk when the memory cannot be used. `--disk` says so.

use anyhow::{Result, anyhow};
use atoll_api::{ErrorCode, ModeRequest, Paused, Sandbox};
use atoll_client::{Client, ClientError};

use super::create::{duration, tell_phases};
use super::metrics::size;
use crate::args::{Global, Output, PauseArgs, ResumeArgs};
use crate::progress::waiting;
use crate::{connect, output};

fn mode(disk: bool) -> ModeRequest {
    ModeRequest { mode: disk.then(|| "disk".to_owned()) }
}

/// Pauses sandboxes.
pub(crate) async fn pause(client: &Client, global: &Global, args: &PauseArgs) -> Result<()> {
    let request = mode(args.disk);
    let mut done = Done::new(args.ids.len());
    for text in &args.ids {
        let work = async {
            let id = connect::resolve(client, text).await?;
            anyhow::Ok(waiting(&format!("pausing {id}"), global.quiet, client.pause(&id, &request)).await?)
        };
        done.note(text, work.await)?;
    }
    if !global.quiet {
        for sandbox in &done.sandboxes {
            if let Some(paused) = &sandbox.paused {
                output::hint(&format!("{}: {}", sandbox.id, kept(paused)));
            }
        }
    }
    done.print(global, "paused")
}

/// Resumes sandboxes.
pub(crate) async fn resume(client: &Client, global: &Global, args: &ResumeArgs) -> Result<()> {
    let request = mode(args.disk);
    let mut done = Done::new(args.ids.len());
    for text in &args.ids {
        let work = async {
            let id = connect::resolve(client, text).await?;
            let resumed = waiting(&format!("resuming {id}"), global.quiet, client.resume(&id, &request)).await;
            if resumed.as_ref().err().and_then(ClientError::code) == Some(ErrorCode::MemoryUnusable) && !global.quiet {
                output::hint(&format!("to boot from its disk and give its memory up: atoll resume --disk {id}"));
            }
            anyhow::Ok(resumed?)
        };
        done.note(text, work.await)?;
    }
    if !global.quiet {
        done.sandboxes.iter().for_each(tell_phases);
    }
    done.print(global, "resumed")
}

/// What a paused sandbox holds, for people.
pub(crate) fn kept(paused: &Paused) -> String {
    let what = if paused.mode == "disk" { "its disk alone" } else { "memory and disk" };
    let took = paused.took_ms.map(|ms| format!(" in {}", duration(ms))).unwrap_or_default();
    let unquiesced =
        if paused.quiesced { "" } else { "; its agent did not answer, so it can be resumed and not copied" };
    format!("{what}, {} written{took}{unquiesced}", size(paused.bytes))
}

/// What came of each.
struct Done {
    asked: usize,
    sandboxes: Vec<Sandbox>,
    failed: Option<anyhow::Error>,
}

impl Done {
    fn new(asked: usize) -> Self {
        Self { asked, sandboxes: Vec::new(), failed: None }
    }

    fn note(&mut self, text: &str, outcome: Result<Sandbox>) -> Result<()> {
        match outcome {
            Ok(sandbox) => self.sandboxes.push(sandbox),
            Err(error) if self.asked == 1 => return Err(error),
            Err(error) => {
                output::hint(&format!("error: {text}: {error:#}"));
                self.failed = Some(error);
            }
        }
        Ok(())
    }

    fn print(self, global: &Global, what: &str) -> Result<()> {
        match global.output {
            Output::Json if self.asked == 1 => self.sandboxes.first().map_or(Ok(()), output::json)?,
            Output::Json => output::json(&self.sandboxes)?,
            Output::Table | Output::Name => {
                output::print(&self.sandboxes.iter().map(|sandbox| format!("{}\n", sandbox.id)).collect::<String>())?;
            }
        }
        match self.failed {
            Some(error) => Err(error.context(anyhow!("not all of them could be {what}"))),
            None => Ok(()),
        }
    }
}
