//! Stages: pieces of a run that are told with a line and a time each.
//!
//! How it works: [`Stages::run`] prints when a stage begins and how it ended. A stage that fails does not end the run: the
//! others go on, unless they need it, which is told as `not run` and is a failure too. The summary comes last.
//!
//! Deliberately absent: stages side by side; two cores are busy with one.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Ok,
    Failed(String),
    NotRun(&'static str),
}

/// The stages of one run.
#[derive(Debug)]
pub(crate) struct Stages {
    started: Instant,
    done: Vec<(&'static str, Duration, Outcome)>,
}

impl Stages {
    /// Begins a run.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Runs a stage; false if it failed.
    pub(crate) fn run(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> bool {
        println!("\n==> {name}");
        let started = Instant::now();
        let outcome = match work() {
            Ok(()) => Outcome::Ok,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        let took = started.elapsed();
        println!("<== {name}: {} in {}", describe(&outcome), seconds(took));
        let ok = outcome == Outcome::Ok;
        self.done.push((name, took, outcome));
        ok
    }

    /// Notes a stage that cannot run because another failed.
    pub(crate) fn not_run(&mut self, name: &'static str, because: &'static str) {
        println!("\n==> {name}: not run, {because} failed");
        self.done.push((name, Duration::ZERO, Outcome::NotRun(because)));
    }

    /// Prints the summary; an error unless every stage was run and ended well.
    pub(crate) fn finish(self) -> Result<()> {
        println!("\n{:<24} {:>9}  result", "stage", "time");
        for (name, took, outcome) in &self.done {
            println!("{name:<24} {:>9}  {}", seconds(*took), describe(outcome));
        }
        println!("{:<24} {:>9}", "all", seconds(self.started.elapsed()));
        let bad: Vec<&str> = self.done.iter().filter(|(_, _, o)| *o != Outcome::Ok).map(|(name, _, _)| *name).collect();
        if !bad.is_empty() {
            bail!("failed: {}", bad.join(", "));
        }
        Ok(())
    }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok => "ok".into(),
        Outcome::Failed(why) => format!("FAILED: {why}"),
        Outcome::NotRun(because) => format!("NOT RUN: {because} failed"),
    }
}

/// A duration as people read it.
pub(crate) fn seconds(took: Duration) -> String {
    let all = took.as_secs_f64();
    if all < 60.0 { format!("{all:.1} s") } else { format!("{} m {:02} s", took.as_secs() / 60, took.as_secs() % 60) }
}

/// Runs a command to its end; an error names it and its exit status.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = program(command);
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// Runs a command that may hang; past the limit its whole process group is ended.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let name = program(command);
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait().context("cannot wait")? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("{name}: {status}"),
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            None => {
                // Its group's id is its pid; `kill` is in every Debian (procps or the shell's own).
                let group = format!("kill -9 -- -{}", child.id());
                let _ = Command::new("sh").args(["-c", &group]).status();
                let _ = child.wait();
                bail!("{name}: still running after {}, ended", seconds(limit));
            }
        }
    }
}

fn program(command: &Command) -> String {
    let path = std::path::Path::new(command.get_program());
    let name = path.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned();
    match command.get_args().next() {
        Some(first) => format!("{name} {}", first.to_string_lossy()),
        None => name,
    }
}
