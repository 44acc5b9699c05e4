//! `cargo xtask check`: everything that can be said about the source without running it.
//!
//! How it works: the quick checks come first, clippy last. Clippy uses the same profile as the binary and the tests, so
//! that build scripts and procedural macros are compiled once for all three.
//!
//! Deliberately absent: checks that need the network (licences, advisories).

use anyhow::Result;

use crate::stage::{self, Stages};
use crate::workspace::Workspace;
use crate::{check_deps, files, placement};

/// Runs the checks (clippy only if everything is wanted), tells every failure.
pub(crate) fn run(workspace: &Workspace, everything: bool) -> Result<()> {
    let mut stages = Stages::new();
    quick(workspace, &mut stages);
    if everything {
        clippy(workspace, &mut stages);
    }
    stages.finish()
}

/// What takes seconds.
pub(crate) fn quick(workspace: &Workspace, stages: &mut Stages) {
    stages.run("format", || stage::run(&mut workspace.cargo(&["fmt", "--all", "--check"])));
    stages.run("file rules", || files::run(&workspace.root));
    stages.run("placement", || placement::run(&workspace.root));
    stages.run("crate directions", || check_deps::run(workspace));
}

/// Lints of the compiler and of clippy, all targets, warnings are errors.
pub(crate) fn clippy(workspace: &Workspace, stages: &mut Stages) {
    stages.run("clippy", || {
        let _used = workspace.using()?;
        let mut command = workspace.cargo(&["clippy", "--release", "--workspace", "--all-targets", "--locked"]);
        stage::run(command.args(["--", "-D", "warnings"]))
    });
}
