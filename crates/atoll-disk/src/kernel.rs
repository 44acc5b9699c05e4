//! The guests' kernel: Debian's cloud kernel, unpacked from its package.
//!
//! How it works: a private apt state (nothing of the machine's is touched) finds and downloads the package that
//! `linux-image-cloud-amd64` stands for; `dpkg-deb -x` unpacks it; the ELF image comes out of the bzImage (PVH boots it in
//! half the time); of the modules only those that a guest needs are kept, in load order.
//!
//! Deliberately absent: building kernels, installing the package. A newer package in Debian replaces nothing here: the
//! newest kernel in the cache is used, and snapshots keep their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::apt::{Source, machine_sources};
use crate::command::Tool;
use crate::image::write;
use crate::{Cache, DiskError, Progress, ProgressEvent};

/// Part of the key: raised when the steps or the list of modules change.
const RECIPE_VERSION: &str = "1";
const APT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// A kernel image larger than this is refused.
const MAX_VMLINUX: usize = 512 << 20;

/// In load order; each may be built in instead.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio-rng",
    "overlay",
];

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The key of the artefact.
    pub key: String,
    /// BLAKE3 of `vmlinux`.
    pub digest: String,
    /// The release, as `uname -r` prints it in the guest.
    pub release: String,
    /// The uncompressed ELF image.
    pub vmlinux: PathBuf,
    /// Modules in load order.
    pub modules: Vec<PathBuf>,
}

/// The newest kernel in the cache, or a freshly downloaded one.
///
/// # Errors
/// A missing tool, a failed or cancelled download, a package of an unknown form.
pub fn ensure_kernel(cache: &Cache, progress: &dyn Progress) -> Result<Kernel, DiskError> {
    let prefix = format!("{}-r{RECIPE_VERSION}-", std::env::consts::ARCH);
    let mut found = cache.list("kernels").into_iter();
    if let Some((dir, manifest)) = found.find(|(_, m)| m.key.starts_with(&prefix)) {
        progress.event(ProgressEvent::Cached("kernel".into()));
        return open(&dir, &manifest.key, &manifest.about);
    }
    progress.event(ProgressEvent::Started("kernel".into()));
    let started = Instant::now();
    let key = format!("{prefix}debian");
    let (dir, manifest) = cache.ensure("kernels", &key, |dir| build(dir, progress))?;
    progress.event(ProgressEvent::Finished("kernel".into(), started.elapsed().as_secs_f64()));
    open(&dir, &manifest.key, &manifest.about)
}

fn open(dir: &Path, key: &str, release: &str) -> Result<Kernel, DiskError> {
    let modules_dir = dir.join("modules");
    let entries = fs::read_dir(&modules_dir).map_err(DiskError::file("read", &modules_dir))?;
    let mut modules: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    let manifest = dir.join("manifest.json");
    let text = fs::read(&manifest).map_err(DiskError::file("read", &manifest))?;
    let malformed = |why: String| DiskError::Malformed { what: manifest.display().to_string(), why };
    let parsed: crate::Manifest = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    let entry = parsed.files.get("vmlinux").ok_or_else(|| malformed("it has no vmlinux".into()))?;
    Ok(Kernel {
        key: key.into(),
        digest: entry.blake3.clone(),
        release: release.into(),
        vmlinux: dir.join("vmlinux"),
        modules,
    })
}

fn build(dir: &Path, progress: &dyn Progress) -> Result<String, DiskError> {
    let work = dir.join("work");
    fs::create_dir(&work).map_err(DiskError::file("create", &work))?;
    let package = download(&work, progress)?;
    let tree = work.join("tree");
    let words = ["-x".into(), package.display().to_string(), tree.display().to_string()];
    run("dpkg-deb", "dpkg", words.into(), None, progress)?;
    let boot = tree.join("boot");
    let image = only_file(&boot, "vmlinuz-")?;
    let name = image.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let release = name.trim_start_matches("vmlinuz-").to_owned();
    let bzimage = fs::read(&image).map_err(DiskError::file("read", &image))?;
    write(&dir.join("vmlinux"), &extract_vmlinux(&bzimage)?)?;
    keep_modules(&tree.join("lib/modules").join(&release), &dir.join("modules"), progress)?;
    fs::remove_dir_all(&work).map_err(DiskError::file("remove", &work))?;
    Ok(release)
}

/// Downloads the newest cloud kernel package with an apt state of its own.
fn download(work: &Path, progress: &dyn Progress) -> Result<PathBuf, DiskError> {
    let sources = machine_sources();
    if sources.is_empty() {
        return Err(DiskError::Missing(
            "no apt source for Debian in /etc/apt: add one, the guests' kernel is its package".into(),
        ));
    }
    let list = work.join("sources.list");
    let lines: Vec<String> = sources.iter().map(Source::line).collect();
    write(&list, format!("{}\n", lines.join("\n")).as_bytes())?;
    for sub in ["state/lists/partial", "cache/archives/partial", "deb"] {
        let path = work.join(sub);
        fs::create_dir_all(&path).map_err(DiskError::file("create", &path))?;
    }
    write(&work.join("state/status"), b"")?;
    let options = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State={}", work.join("state").display()),
        format!("Dir::State::status={}", work.join("state/status").display()),
        format!("Dir::Cache={}", work.join("cache").display()),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    let with = |rest: &[&str]| -> Vec<String> {
        let flags = options.iter().flat_map(|o| ["-o".to_owned(), o.clone()]);
        flags.chain(rest.iter().map(|word| (*word).to_owned())).collect()
    };
    run("apt-get", "apt", with(&["-qq", "update"]), None, progress)?;
    let depends = run("apt-cache", "apt", with(&["depends", "linux-image-cloud-amd64"]), None, progress)?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-")))
        .ok_or_else(|| DiskError::Missing("Debian's linux-image-cloud-amd64 names no kernel package".into()))?;
    run("apt-get", "apt", with(&["-qq", "download", package]), Some(&work.join("deb")), progress)?;
    only_file(&work.join("deb"), "linux-image-")
}

fn run(
    program: &str,
    package: &'static str,
    args: Vec<String>,
    cwd: Option<&Path>,
    progress: &dyn Progress,
) -> Result<String, DiskError> {
    let tool = Tool { program, package, args, envs: vec![], cwd, limit: APT_LIMIT, contained: false };
    tool.run(progress)
}

fn only_file(dir: &Path, prefix: &str) -> Result<PathBuf, DiskError> {
    let entries = fs::read_dir(dir).map_err(DiskError::file("read", dir))?;
    let mut found = entries.flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
    found.find(named).ok_or_else(|| DiskError::Missing(format!("the kernel package holds no {prefix}…")))
}

/// Copies the wanted modules as `NN-name.ko`, so that their names' order is the load order.
fn keep_modules(modules: &Path, to: &Path, progress: &dyn Progress) -> Result<(), DiskError> {
    fs::create_dir(to).map_err(DiskError::file("create", to))?;
    let builtin = fs::read_to_string(modules.join("modules.builtin")).unwrap_or_default();
    for (index, name) in MODULES.iter().enumerate() {
        let file = format!("{name}.ko");
        if builtin.lines().any(|line| line.ends_with(&format!("/{file}"))) {
            continue;
        }
        let source = find_file(modules, &file)?
            .ok_or_else(|| DiskError::Missing(format!("the kernel package holds no module {file}")))?;
        let target = to.join(format!("{index:02}-{file}"));
        fs::copy(&source, &target).map_err(DiskError::file("copy", &source))?;
        // Smaller archives boot sooner; a machine without `strip` only boots a little later.
        let args = vec!["--strip-debug".into(), target.display().to_string()];
        match run("strip", "binutils", args, None, progress) {
            Ok(_) | Err(DiskError::MissingTool { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn find_file(dir: &Path, name: &str) -> Result<Option<PathBuf>, DiskError> {
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(DiskError::file("read", &dir))?.flatten() {
            let kind = entry.file_type().map_err(DiskError::file("read", entry.path()))?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if entry.file_name() == name {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

/// Takes the ELF image out of a bzImage whose payload is an LZ4 legacy stream, as Debian's is.
///
/// # Errors
/// [`DiskError::Malformed`] when it is no bzImage, or compressed otherwise.
pub fn extract_vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, DiskError> {
    let bad = |why: &str| DiskError::Malformed { what: "kernel image".into(), why: why.into() };
    let u32_at = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = bzimage.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if bzimage.get(0x202..0x206) != Some(b"HdrS") {
        return Err(bad("it is no bzImage"));
    }
    let setup_sectors = usize::from(bzimage.get(0x1f1).copied().unwrap_or(0).max(1));
    let start = u32_at(0x248).and_then(|offset| offset.checked_add((setup_sectors + 1) * 512));
    let payload = start
        .zip(u32_at(0x24c))
        .and_then(|(start, length)| bzimage.get(start..start.checked_add(length)?))
        .ok_or_else(|| bad("its payload lies outside of it"))?;
    // The last four bytes are the uncompressed length, appended by the kernel's build.
    let body = payload.strip_prefix(&[0x02, 0x21, 0x4c, 0x18]).ok_or_else(|| bad("its payload is not LZ4"))?;
    let (mut blocks, tail) =
        body.split_at_checked(body.len().saturating_sub(4)).ok_or_else(|| bad("it is cut short"))?;
    let length = usize::try_from(u32::from_le_bytes(tail.try_into().unwrap_or_default())).unwrap_or(usize::MAX);
    if length > MAX_VMLINUX {
        return Err(bad("it unpacks to more than 512 MiB"));
    }
    let mut out = Vec::with_capacity(length);
    let mut block = vec![0; 8 << 20];
    while blocks.len() > 4 {
        let (size, rest) = blocks.split_at(4);
        let size = usize::try_from(u32::from_le_bytes(size.try_into().unwrap_or_default())).unwrap_or(usize::MAX);
        let (data, rest) = rest.split_at_checked(size).ok_or_else(|| bad("a block is cut short"))?;
        let n = lz4_flex::block::decompress_into(data, &mut block).map_err(|_| bad("a block does not unpack"))?;
        out.extend_from_slice(&block[..n]);
        if out.len() > length {
            return Err(bad("it unpacks to more than it says"));
        }
        blocks = rest;
    }
    if out.starts_with(b"\x7fELF") && out.len() == length {
        Ok(out)
    } else {
        Err(bad("what it unpacks to is no whole ELF image"))
    }
}
