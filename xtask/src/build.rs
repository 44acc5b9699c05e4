//! `cargo xtask build`: the one binary, with the static keeper and guest agent inside.
//!
//! How it works: keeper and guest are built first, without shared libraries (musl where that target is installed, else
//! glibc with `crt-static`, which needs nothing that Rust does not bring), copied to `target/embed/PROFILE/`, and named to
//! `crates/atoll/build.rs` by two variables. The result is renamed into place, so that a running Atoll keeps its file.
//!
//! Deliberately absent: stripping and packing beyond what the profiles say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::stage;
use crate::workspace::Workspace;

/// What the binary is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Demo and tests: debug assertions on, no LTO.
    Release,
    /// Shipping and figures.
    Dist,
}

impl Profile {
    /// Reads `release` or `dist`.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        match name {
            "release" => Ok(Self::Release),
            "dist" => Ok(Self::Dist),
            other => bail!("profile `{other}` is not known; use release or dist"),
        }
    }

    /// Cargo's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }

    /// The profile of keeper and guest.
    fn of_static(self) -> &'static str {
        match self {
            Self::Release => "static",
            Self::Dist => "static-dist",
        }
    }
}

/// The two programs that the binary carries.
#[derive(Debug, Clone)]
pub(crate) struct Embedded {
    keeper: PathBuf,
    guest: PathBuf,
}

impl Embedded {
    /// Tells a cargo command where they are; without it cargo would build a binary that carries nothing.
    pub(crate) fn tell(&self, command: &mut Command) {
        command.env("ATOLL_EMBED_KEEPER", &self.keeper).env("ATOLL_EMBED_GUEST", &self.guest);
    }
}

/// Builds everything; answers the path of the binary in the clone.
pub(crate) fn run(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let _used = workspace.using()?;
    let embedded = static_parts(workspace, profile)?;
    let binary = workspace.root.join("target").join(profile.name()).join("atoll");
    let build = || {
        let arguments = ["build", "--profile", profile.name(), "--package", "atoll", "--bin", "atoll"];
        let mut command = workspace.cargo(&arguments);
        embedded.tell(&mut command);
        stage::run(&mut command)
    };
    workspace.built(build, || place(&workspace.target.join(profile.name()).join("atoll"), &binary))?;
    Ok(binary)
}

/// Builds keeper and guest agent without shared libraries.
fn static_parts(workspace: &Workspace, profile: Profile) -> Result<Embedded> {
    let target = static_target()?;
    let build = || {
        let mut command = workspace.cargo(&["build", "--profile", profile.of_static(), "--target", &target]);
        command.args(["--package", "atoll-keeper", "--package", "atoll-guest", "--bins"]);
        stage::run(command.env("RUSTFLAGS", "-C target-feature=+crt-static"))
    };
    let embedded = embedded(workspace, profile);
    let from = workspace.target.join(&target).join(profile.of_static());
    workspace.built(build, || {
        place(&from.join("atoll-keeper"), &embedded.keeper)?;
        place(&from.join("atoll-guest"), &embedded.guest)
    })?;
    Ok(embedded)
}

/// The guest agent that a build of the profile carries.
pub(crate) fn embedded_guest(workspace: &Workspace, profile: Profile) -> PathBuf {
    embedded(workspace, profile).guest
}

/// Where keeper and guest agent of a profile lie.
pub(crate) fn embedded(workspace: &Workspace, profile: Profile) -> Embedded {
    let dir = workspace.root.join("target/embed").join(profile.name());
    Embedded { keeper: dir.join("atoll-keeper"), guest: dir.join("atoll-guest") }
}

/// The target whose programs need no shared library.
fn static_target() -> Result<String> {
    let host = host_target()?;
    let musl = host.replace("-gnu", "-musl");
    let libraries = Path::new(rustc(&["--print", "sysroot"])?.trim()).join("lib/rustlib").join(&musl).join("lib");
    Ok(if libraries.is_dir() { musl } else { host })
}

/// The target that this machine is.
pub(crate) fn host_target() -> Result<String> {
    let version = rustc(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(arguments).output().context("cannot start rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies a file unless the same content is there already (a newer time would rebuild what embeds it).
fn place(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if from == to || fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let dir = to.parent().context("a file lies in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let temporary = dir.join(format!(".placed-{}", std::process::id()));
    fs::copy(from, &temporary).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("cannot replace {}", to.display()))
}
