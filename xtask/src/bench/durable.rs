//! `cargo xtask bench durable`: how long sandboxes are out of reach when Atoll is killed.
//!
//! How it works: so many sandboxes are made, then Atoll is killed (`kill -9`) and started again, some times over. Counted from the start
//! (the kill comes right before it): until `/health` is answered, and until `true` has run in every one of the sandboxes, asked of all at
//! once by `atoll-bench`, again and again until each has answered.
//!
//! Deliberately absent: the kill matrix, which looks for differences, not for time (`make soak`).

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Options, machine, pairs, statistics};
use crate::instance::{Running, parse};
use crate::workspace::{Workspace, is_root};

/// Measures with 20 and 60 sandboxes (or what is asked for), so many kills each, and prints.
pub(crate) fn run(workspace: &Workspace, options: &Options, counts: &[usize], kills: usize) -> Result<()> {
    if !is_root() {
        bail!("run it as root: it reads the memory of other users' processes");
    }
    let binary = options.atoll(workspace)?;
    let bench = pairs::build(workspace, options.profile)?;
    let mut atoll = Running::start(binary)?;
    let begun = machine::now()?;
    let mut ids: Vec<String> = Vec::new();
    for count in counts {
        while ids.len() < *count {
            let created = parse(&atoll.ask(&["create", "--memory", "128", "--output", "json"])?)?;
            ids.push(created["id"].as_str().context("`atoll create` answered without an id")?.to_owned());
            eprintln!("sandbox {} of {count}", ids.len());
        }
        let (mut listening, mut all) = (Vec::new(), Vec::new());
        for kill in 1..=kills {
            atoll.kill_and_start()?;
            let started = Instant::now();
            let mut command = Command::new(&bench);
            command.arg("answer").arg("--data").arg(atoll.data()).args(["--ids", &ids.join(",")]);
            let asking = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
            let asking = asking.context("cannot start atoll-bench")?;
            atoll.wait()?;
            listening.push(started.elapsed().as_secs_f64() * 1000.0);
            let output = asking.wait_with_output().context("cannot wait for atoll-bench")?;
            if !output.status.success() {
                bail!("atoll-bench: {}", output.status);
            }
            all.push(started.elapsed().as_secs_f64() * 1000.0);
            eprintln!("kill {kill} of {kills} with {count} sandboxes: {}", told(&output.stdout)?);
        }
        statistics::print(&format!("kill to listening, {count} sandboxes, ms"), &listening)?;
        statistics::print(&format!("kill to every one of {count} sandboxes having answered, ms"), &all)?;
    }
    println!("{}", machine::describe(begun, &atoll)?);
    atoll.stop()
}

/// The first and the last answer, for whoever watches.
fn told(json: &[u8]) -> Result<String> {
    let times: Value = serde_json::from_slice(json).context("atoll-bench printed no JSON")?;
    let mut times: Vec<f64> = times.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    times.sort_by(f64::total_cmp);
    let (first, last) = (times.first().context("no answers")?, times.last().context("no answers")?);
    Ok(format!("first answer after {first:.0} ms, last after {last:.0} ms"))
}
