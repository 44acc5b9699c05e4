//! `cargo xtask test`: everything that CI runs.
//!
//! How it works: the binary is built first, clippy and the tests reuse its build scripts and dependencies (one profile for
//! all). Test programs are compiled by one cargo call and then run one by one, so that each has a line, a time and a limit
//! of its own; those that boot VMs (test targets named `e2e*`, and the kill matrix, of which a commit runs its own slice) come
//! last, few at a time. They are run as root where possible, because namespaces and jails need it.
//!
//! Deliberately absent: retries. A test that fails once failed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::{self, Profile};
use crate::check;
use crate::stage::{self, Stages, seconds};
use crate::workspace::{Workspace, is_root};

/// Longest time of a test program without VMs.
const UNIT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Longest time of a test program with VMs.
const VM_LIMIT: Duration = Duration::from_secs(25 * 60);
/// Longest time of a commit's slice of the kill matrix.
const SLICE_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Longest time of the whole kill matrix.
const MATRIX_LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// Longest time of a thousand cycles of the long test.
const LONG_LIMIT: Duration = Duration::from_secs(12 * 60 * 60);
/// VM tests at the same time: each boots a guest of its own, and CI has two cores.
const VM_THREADS: &str = "2";

/// A compiled test program.
#[derive(Debug)]
struct TestProgram {
    package: String,
    target: String,
    executable: PathBuf,
    directory: PathBuf,
}

impl TestProgram {
    fn boots_vms(&self) -> bool {
        self.target.starts_with("e2e") || self.is_matrix()
    }

    fn is_matrix(&self) -> bool {
        self.target == "kill_matrix"
    }

    fn is_long(&self) -> bool {
        self.target == "e2e_long"
    }

    fn name(&self) -> String {
        format!("{}/{}", self.package, self.target)
    }
}

/// Runs the stages that were named, or all.
pub(crate) fn run(workspace: &Workspace, named: &[&str]) -> Result<()> {
    const STAGES: [&str; 4] = ["check", "build", "tests", "vms"];
    if let Some(unknown) = named.iter().find(|name| !STAGES.contains(name)) {
        bail!("no stage `{unknown}`; there are {}", STAGES.join(", "));
    }
    let wanted = |stage: &str| named.is_empty() || named.contains(&stage);
    let mut stages = Stages::new();
    println!("building in {}", workspace.target.display());
    if wanted("check") {
        check::quick(workspace, &mut stages);
    }
    let mut binary = None;
    let built = stages.run("build", || {
        binary = Some(build::run(workspace, Profile::Release)?);
        Ok(())
    });
    if wanted("check") {
        check::clippy(workspace, &mut stages);
    }
    match binary {
        Some(binary) if built => programs_of(workspace, &binary, &mut stages, &wanted),
        _ => stages.not_run("tests", "build"),
    }
    stages.finish()
}

/// Compiles and runs the test programs.
fn programs_of(workspace: &Workspace, binary: &Path, stages: &mut Stages, wanted: &dyn Fn(&str) -> bool) {
    if !wanted("tests") && !wanted("vms") {
        return;
    }
    let mut programs = Vec::new();
    let compiled = stages.run("compile tests", || {
        programs = compile(workspace)?;
        Ok(())
    });
    let (vms, units): (Vec<_>, Vec<_>) = programs.into_iter().partition(TestProgram::boots_vms);
    for (name, key, programs, limit) in
        [("tests", "tests", units, UNIT_LIMIT), ("tests with VMs", "vms", vms, VM_LIMIT)]
    {
        match (wanted(key), compiled) {
            (false, _) => {}
            (true, false) => stages.not_run(name, "compile tests"),
            (true, true) => {
                stages.run(name, || run_all(&programs, binary, limit));
            }
        }
    }
}

/// Compiles all test programs with one cargo call.
fn compile(workspace: &Workspace) -> Result<Vec<TestProgram>> {
    let _used = workspace.using()?;
    let mut command = workspace.cargo(&["test", "--release", "--workspace", "--locked", "--no-run"]);
    command.args(["--lib", "--bins", "--tests", "--message-format", "json-render-diagnostics"]);
    build::embedded(workspace, Profile::Release).tell(&mut command);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).output().context("cannot start cargo test")?;
    if !output.status.success() {
        bail!("cargo test --no-run: {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    let mut found: Vec<TestProgram> = text.lines().filter_map(test_program).collect();
    if found.is_empty() {
        bail!("cargo built no test programs");
    }
    found.sort_by_key(TestProgram::name);
    Ok(found)
}

/// Reads one of cargo's messages.
fn test_program(line: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let directory = manifest.parent()?.to_owned();
    Some(TestProgram {
        package: directory.file_name()?.to_str()?.to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        executable: PathBuf::from(message["executable"].as_str()?),
        directory,
    })
}

/// Runs test programs one after the other; all of them, whatever fails.
fn run_all(programs: &[TestProgram], binary: &Path, limit: Duration) -> Result<()> {
    let mut failed = Vec::new();
    for program in programs {
        println!("--> {}", program.name());
        let started = Instant::now();
        let outcome =
            stage::run_within(&mut command_of(program, binary), if program.is_matrix() { SLICE_LIMIT } else { limit });
        let took = seconds(started.elapsed());
        match outcome {
            Ok(()) => println!("<-- {}: ok in {took}", program.name()),
            Err(error) => {
                println!("<-- {}: FAILED in {took}: {error:#}", program.name());
                failed.push(program.name());
            }
        }
    }
    if programs.is_empty() {
        bail!("there are none");
    }
    if !failed.is_empty() {
        bail!("{}", failed.join(", "));
    }
    Ok(())
}

/// How a test program is started: as root, in its crate, with nothing to read from.
fn command_of(program: &TestProgram, binary: &Path) -> Command {
    let mut command = if is_root() {
        Command::new(&program.executable)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "--preserve-env"]).arg(&program.executable);
        sudo
    };
    if program.boots_vms() {
        command.args(["--test-threads", VM_THREADS]);
    }
    if let Some(commit) = commit() {
        // Where the kill matrix begins, so that commits share its cases among them.
        command.env("ATOLL_KILL_MATRIX_SEED", commit);
    }
    command.current_dir(&program.directory).stdin(Stdio::null());
    command.env("CARGO_MANIFEST_DIR", &program.directory).env("ATOLL_BIN", binary).env("INSTA_UPDATE", "no");
    command
}

/// The commit that is tested; nothing outside a checkout.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Runs the long test over a thousand cycles.
pub(crate) fn long_test(workspace: &Workspace) -> Result<()> {
    let binary = build::run(workspace, Profile::Release)?;
    let programs = compile(workspace)?;
    let long = programs.iter().find(|program| program.is_long()).context("no long test")?;
    let mut command = command_of(long, &binary);
    // A caller's own count, to replay a seed, goes before.
    if std::env::var_os("ATOLL_LONG_CYCLES").is_none() {
        command.env("ATOLL_LONG_CYCLES", "1000");
    }
    stage::run_within(command.arg("--nocapture"), LONG_LIMIT)
}

/// Runs the whole kill matrix once.
pub(crate) fn whole_kill_matrix(workspace: &Workspace) -> Result<()> {
    let binary = build::run(workspace, Profile::Release)?;
    let programs = compile(workspace)?;
    let matrix = programs.iter().find(|program| program.is_matrix()).context("no kill matrix")?;
    let mut command = command_of(matrix, &binary);
    stage::run_within(command.arg("--nocapture").env("ATOLL_KILL_MATRIX", "all"), MATRIX_LIMIT)
}
