//! Base images of templates, made of Debian's packages.
//!
//! How it works: mmdebstrap fills a directory, `mke2fs -d` turns it into an ext4 image without a mount. The image is
//! only ever read, so it has no journal and little slack. Its key is a digest of the recipe in `images/`, so a changed
//! recipe is a new image and the old one stays for what rests on it.
//!
//! Deliberately absent: reproducible bytes (two builds of a recipe on two days hold other package versions; the manifest
//! names each by its BLAKE3).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::apt::{SUITE, Source, machine_sources};
use crate::command::Tool;
use crate::{Cache, DiskError, Progress, ProgressEvent};

/// The templates that Atoll brings, without their aliases.
pub const TEMPLATES: &[&str] = &["base"];

const PACKAGES: &str = include_str!("../../../images/base/packages.txt");
const CUSTOMIZE: &str = include_str!("../../../images/base/customize.sh");
/// Part of the key: raised when the steps below change.
const RECIPE_VERSION: &str = "1";
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
const MKFS_LIMIT: Duration = Duration::from_secs(120);
/// Trees that are only weight in a sandbox.
const LEFT_OUT: &[&str] = &["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// A finished base image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The template's name, never an alias.
    pub template: String,
    /// The key of the artefact.
    pub key: String,
    /// BLAKE3 of the image file.
    pub digest: String,
    /// The image file.
    pub path: PathBuf,
    /// Its apparent size in bytes.
    pub bytes: u64,
}

/// The name behind an alias.
///
/// # Errors
/// [`DiskError::UnknownTemplate`] with the known names.
pub fn resolve_template(name: &str) -> Result<&'static str, DiskError> {
    match name {
        "base" | "minimal" => Ok("base"),
        _ => Err(DiskError::UnknownTemplate { name: name.to_owned(), known: "base, minimal".into() }),
    }
}

/// The image of a template, built if it is not in the cache.
///
/// # Errors
/// An unknown name, a missing tool, a failed or cancelled build.
pub fn ensure_template(cache: &Cache, name: &str, progress: &dyn Progress) -> Result<Image, DiskError> {
    let template = resolve_template(name)?;
    let key = recipe_key();
    let label = format!("image {template}");
    let started = Instant::now();
    let cached = cache.find("images", &key).is_some();
    progress.event(if cached { ProgressEvent::Cached(label.clone()) } else { ProgressEvent::Started(label.clone()) });
    let (dir, manifest) = cache.ensure("images", &key, |dir| build(dir, progress))?;
    let entry = manifest
        .files
        .get("base.ext4")
        .ok_or_else(|| DiskError::Malformed { what: format!("image {key}"), why: "it has no base.ext4".into() })?;
    if !cached {
        progress.event(ProgressEvent::Finished(label, started.elapsed().as_secs_f64()));
    }
    Ok(Image {
        template: template.into(),
        digest: entry.blake3.clone(),
        bytes: entry.bytes,
        path: dir.join("base.ext4"),
        key,
    })
}

fn recipe_key() -> String {
    let mut hasher = blake3::Hasher::new();
    for part in ["base", RECIPE_VERSION, SUITE, std::env::consts::ARCH, PACKAGES, CUSTOMIZE] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn build(dir: &Path, progress: &dyn Progress) -> Result<String, DiskError> {
    let sources = machine_sources();
    if sources.is_empty() {
        return Err(DiskError::Missing(format!(
            "no apt source for Debian {SUITE} in /etc/apt: add one, the base image is made of its packages"
        )));
    }
    let tree = dir.join("tree");
    let script = dir.join("customize.sh");
    let list = dir.join("sources.list");
    write(&script, CUSTOMIZE.as_bytes())?;
    let lines: Vec<String> = sources.iter().map(Source::line).collect();
    write(&list, format!("{}\n", lines.join("\n")).as_bytes())?;
    bootstrap(&tree, &script, &list, progress)?;
    make_filesystem(&tree, &dir.join("base.ext4"), progress)?;
    for leftover in [&script, &list] {
        fs::remove_file(leftover).map_err(DiskError::file("remove", leftover))?;
    }
    fs::remove_dir_all(&tree).map_err(DiskError::file("remove", &tree))?;
    Ok(format!("template base of Debian {SUITE}"))
}

fn bootstrap(tree: &Path, script: &Path, list: &Path, progress: &dyn Progress) -> Result<(), DiskError> {
    let packages: Vec<&str> =
        PACKAGES.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let mut args = vec![
        "--mode=root".to_owned(),
        "--variant=apt".to_owned(),
        "--format=directory".to_owned(),
        format!("--include={}", packages.join(",")),
        format!("--customize-hook=sh {} \"$1\"", script.display()),
    ];
    args.extend(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    args.extend([SUITE.to_owned(), tree.display().to_string(), list.display().to_string()]);
    let tool = Tool {
        program: "mmdebstrap",
        package: "mmdebstrap",
        args,
        envs: vec![("DEBIAN_FRONTEND", "noninteractive")],
        cwd: None,
        limit: BUILD_LIMIT,
        contained: true,
    };
    tool.run(progress).map(drop)
}

fn make_filesystem(tree: &Path, image: &Path, progress: &dyn Progress) -> Result<(), DiskError> {
    let (bytes, entries) = measure(tree)?;
    // A tenth for block groups and directories, then to a whole MiB.
    let size = (bytes + bytes / 10 + (32 << 20)).next_multiple_of(1 << 20);
    let inodes = entries + entries / 10 + 1024;
    let file = fs::File::create(image).map_err(DiskError::file("create", image))?;
    file.set_len(size).map_err(DiskError::file("size", image))?;
    let options = "lazy_itable_init=1,nodiscard,root_owner=0:0";
    let words = ["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal,^metadata_csum,^resize_inode", "-E", options];
    let mut args: Vec<String> = words.into_iter().map(str::to_owned).collect();
    args.extend(["-N".into(), inodes.to_string(), "-L".into(), "atoll-base".into()]);
    args.extend(["-d".into(), tree.display().to_string(), image.display().to_string()]);
    let tool = Tool {
        program: "mke2fs",
        package: "e2fsprogs",
        args,
        envs: vec![],
        cwd: None,
        limit: MKFS_LIMIT,
        contained: false,
    };
    tool.run(progress).map(drop)
}

/// Bytes (in whole blocks) and number of files below a directory.
fn measure(dir: &Path) -> Result<(u64, u64), DiskError> {
    let (mut bytes, mut entries) = (0, 0);
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(DiskError::file("read", &dir))? {
            let entry = entry.map_err(DiskError::file("read", &dir))?;
            let meta = entry.metadata().map_err(DiskError::file("read", entry.path()))?;
            bytes += meta.len().next_multiple_of(4096);
            entries += 1;
            if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok((bytes, entries))
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    fs::write(path, bytes).map_err(DiskError::file("write", path))
}
