//! `atoll run`: one program in a sandbox of its own.
//!
//! How it works: with a running Atoll it is a client like every other. Without one it starts an instance for itself, which listens on a
//! socket in a directory of its own below the cache, and ends it afterwards; what a killed `run` left there is cleaned by the
//! next. An interrupt ends the program, and the sandbox goes with it. `--keep` needs an Atoll that stays.
//!
//! Deliberately absent: any way into a sandbox that the API does not offer.

use std::time::Instant;

use anyhow::{Result, bail};
use atoll_api::{ExecRequest, Sandbox};
use atoll_client::Client;
use tokio_util::sync::CancellationToken;

use super::create::{duration, tell_phases};
use super::exec::{as_program, command, follow, pass_on};
use super::request;
use crate::args::{Global, Output, RunArgs};
use crate::failure::Interrupted;
use crate::progress::waiting;
use crate::settings::{Given, Settings};
use crate::up::on_signal;
use crate::{connect, one_shot, output};

/// Runs a program in a sandbox of its own and destroys it afterwards.
pub(crate) async fn run(global: &Global, args: &RunArgs, given: &Given) -> Result<()> {
    let stop = on_signal()?;
    if let Some(client) = connect::client_if_running(global, given)? {
        return in_sandbox(&client, global, args, global.quiet, stop.token()).await;
    }
    if args.keep {
        bail!("--keep needs a running Atoll: start one with `atoll up`");
    }
    let settings = Settings::from_given(given)?;
    let instance = one_shot::OneShot::start(given, &settings, global.quiet, stop.token()).await?;
    let ended = match instance.client() {
        // An instance of its own shows its progress by itself.
        Ok(client) => in_sandbox(&client, global, args, true, stop.token()).await,
        Err(error) => Err(error),
    };
    instance.stop().await;
    ended
}

async fn in_sandbox(
    client: &Client,
    global: &Global,
    args: &RunArgs,
    still: bool,
    stop: &CancellationToken,
) -> Result<()> {
    // Not given up at an interrupt: only the answer names what has to be destroyed.
    let request = request(&args.shape)?;
    let sandbox = waiting("the sandbox starts", still, client.create(&request)).await?;
    if !global.quiet {
        tell_phases(&sandbox);
    }
    let ended = program(client, global, args, &sandbox, stop).await;
    if args.keep && !stop.is_cancelled() {
        output::hint(&sandbox.id);
        return ended;
    }
    let destroyed = client.destroy(&sandbox.id).await;
    // The program's own failure is the news; this one would hide it.
    if let (Err(_), Err(error)) = (&ended, &destroyed) {
        output::hint(&format!("warning: {} could not be destroyed: {error}", sandbox.id));
    }
    ended?;
    Ok(destroyed?)
}

async fn program(
    client: &Client,
    global: &Global,
    args: &RunArgs,
    sandbox: &Sandbox,
    stop: &CancellationToken,
) -> Result<()> {
    if stop.is_cancelled() {
        return Err(Interrupted.into());
    }
    let request = ExecRequest { timeout_sec: args.timeout, ..command(&args.command) };
    let started = Instant::now();
    if global.output == Output::Json {
        let ended = stop.run_until_cancelled(client.exec(&sandbox.id, &request)).await;
        return pass_on(&ended.ok_or(Interrupted)??, global.output);
    }
    let code = follow(client, &sandbox.id, &request, false, stop).await?;
    if !global.quiet {
        let ms = started.elapsed().as_secs_f64() * 1000.0;
        output::hint(&format!("{}: exec {}", sandbox.id, duration(ms)));
    }
    as_program(code)
}
