//! `atoll run`: one program in a sandbox of its own.
//!
//! How it works: with a running Atoll it is a client like every other. Without one it starts an instance for itself, which listens on a
//! socket in a directory of its own below the cache, and ends it afterwards; what a killed `run` left there is cleaned by the
//! next. An interrupt ends the program, and the sandbox goes with it. `--keep` needs an Atoll that stays.
//!
//! Deliberately absent: any way into a sandbox that the API does not offer.

use anyhow::{Result, bail};
use atoll_api::{ExecRequest, ExecResponse, Sandbox};
use atoll_client::Client;
use tokio_util::sync::CancellationToken;

use super::create::{duration, tell_phases};
use super::exec::{command, pass_on};
use super::request;
use crate::args::{Global, RunArgs};
use crate::failure::Interrupted;
use crate::settings::{Given, Settings};
use crate::up::on_signal;
use crate::{connect, one_shot, output};

/// Runs a program in a sandbox of its own and destroys it afterwards.
pub(crate) async fn run(global: &Global, args: &RunArgs, given: &Given) -> Result<()> {
    let stop = on_signal()?;
    if let Some(client) = connect::client_if_running(global, given)? {
        let ended = in_sandbox(&client, global, args, stop.token()).await?;
        return pass_on(&ended, global.output);
    }
    if args.keep {
        bail!("--keep needs a running Atoll: start one with `atoll up`");
    }
    let settings = Settings::from_given(given)?;
    let instance = one_shot::OneShot::start(given, &settings, global.quiet, stop.token()).await?;
    let ended = match instance.client() {
        Ok(client) => in_sandbox(&client, global, args, stop.token()).await,
        Err(error) => Err(error),
    };
    instance.stop().await;
    pass_on(&ended?, global.output)
}

async fn in_sandbox(
    client: &Client,
    global: &Global,
    args: &RunArgs,
    stop: &CancellationToken,
) -> Result<ExecResponse> {
    // Not given up at an interrupt: only the answer names what has to be destroyed.
    let sandbox = client.create(&request(&args.shape, None)?).await?;
    if !global.quiet {
        tell_phases(&sandbox);
    }
    let ran = stop.run_until_cancelled(program(client, global, args, &sandbox)).await;
    let ended = ran.unwrap_or_else(|| Err(Interrupted.into()));
    if args.keep && !stop.is_cancelled() {
        output::hint(&sandbox.id);
    } else {
        let destroyed = client.destroy(&sandbox.id).await;
        // The program's own failure is the news; this one would hide it.
        if ended.is_ok() {
            destroyed?;
        } else if let Err(error) = destroyed {
            output::hint(&format!("warning: {} could not be destroyed: {error}", sandbox.id));
        }
    }
    ended
}

async fn program(client: &Client, global: &Global, args: &RunArgs, sandbox: &Sandbox) -> Result<ExecResponse> {
    let request = ExecRequest { timeout_sec: args.timeout, ..command(&args.command) };
    let ended = client.exec(&sandbox.id, &request).await?;
    if !global.quiet {
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let ms = ended.duration_ms as f64;
        output::hint(&format!("{}: exec {}", sandbox.id, duration(ms)));
    }
    Ok(ended)
}
