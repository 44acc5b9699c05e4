//! Atoll's one binary: server and command line.
//!
//! How it works: [`args`] says what can be asked for, [`up`] puts a running Atoll together, [`commands`] are clients of one. How a
//! command ends is decided in [`failure`].
//!
//! Deliberately absent: business rules.

mod archive;
mod args;
mod commands;
mod connect;
mod doctor;
mod embedded;
mod failure;
mod one_shot;
mod output;
mod progress;
mod settings;
mod terminal;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::args::{Cli, Command, Global, TemplateCommand};
use crate::failure::{Codes, conclude};
use crate::settings::Given;

/// How long blocking work that was called off may take to notice it.
const LAST_WORK: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let codes = match cli.command {
        Command::Run(_) | Command::Exec(_) | Command::Shell(_) => Codes::Program,
        _ => Codes::Own,
    };
    let format = cli.global.output;
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(conclude(&error, codes, format)),
    }
}

fn start(cli: Cli) -> Result<()> {
    let mut given = Given::from_process()?;
    let data = cli.global.data.as_ref().map(|data| data.display().to_string());
    given.flag("data", data);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let done = runtime.block_on(command(&cli.global, cli.command, given));
    runtime.shutdown_timeout(LAST_WORK);
    done
}

async fn command(global: &Global, command: Command, given: Given) -> Result<()> {
    let client = || connect::client(global, &given);
    match command {
        Command::Up(args) => up::up(global, args, given).await,
        Command::Run(args) => commands::run(global, &args, &given).await,
        Command::Create(args) => commands::create(&client()?, global, &args).await,
        Command::Ls(args) => commands::list(&client()?, global, &args).await,
        Command::Get(args) => commands::get(&client()?, global, &args).await,
        Command::Rm(args) => commands::remove(&client()?, global, &args).await,
        Command::Pause(args) => commands::pause(&client()?, global, &args).await,
        Command::Resume(args) => commands::resume(&client()?, global, &args).await,
        Command::Update(args) => commands::update(&client()?, global, args).await,
        Command::Snapshot(args) => commands::snapshot(&client()?, global, args).await,
        Command::Template(TemplateCommand::Ls(args)) => commands::templates(&client()?, global, &args).await,
        Command::Template(TemplateCommand::Rm(args)) => commands::remove_templates(&client()?, global, &args).await,
        Command::Exec(args) => commands::exec(&client()?, global, &args).await,
        Command::Shell(args) => commands::shell(&client()?, global, &args).await,
        Command::Cp(args) => commands::copy(&client()?, global, &args).await,
        Command::Logs(args) => commands::logs(&client()?, &args).await,
        Command::Metrics(args) => commands::metrics(&client()?, global, &args).await,
        Command::Top(args) => commands::top(&client()?, global, &args).await,
        Command::Events(args) => commands::events(&client()?, global, &args).await,
        Command::Ps(args) => commands::processes(&client()?, global, &args).await,
        Command::Kill(args) => commands::kill(&client()?, &args).await,
        Command::Scrub(args) => commands::scrub(&client()?, global, &args).await,
        Command::Doctor(args) => commands::doctor(global, args, given).await,
        Command::Completion(args) => commands::completion(&args),
    }
}
