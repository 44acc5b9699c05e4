//! The cache: what is built once, what an interrupted build leaves, and whose files are trusted.
//!
//! How it works: in directories of the test's own; "killed" is a child of the test program that ends in the middle of a build.
//!
//! Deliberately absent: what is built (kernels and images: the end-to-end tests).

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use atoll_disk::{Cache, DiskError, Manifest};

const KIND: &str = "images";
const KEY: &str = "abc";
/// Names the cache in which the child begins a build that it does not end.
const CHILD: &str = "ATOLL_TEST_INTERRUPTED_CACHE";

fn open(root: &Path) -> Cache {
    Cache::open(root, None).unwrap()
}

fn build(cache: &Cache, text: &str) -> Result<(std::path::PathBuf, Manifest), DiskError> {
    cache.ensure(KIND, KEY, |dir| {
        fs::write(dir.join("file"), text).unwrap();
        Ok(text.to_owned())
    })
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_there_is_not_built_again_and_many_at_once_build_once() {
    let dir = tempfile::tempdir().unwrap();
    let built = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let made = open(dir.path()).ensure(KIND, KEY, |dir| {
                    built.fetch_add(1, Ordering::Relaxed);
                    fs::write(dir.join("file"), "x").unwrap();
                    Ok("one".into())
                });
                assert_eq!(made.unwrap().1.about, "one");
            });
        }
    });
    assert_eq!(built.into_inner(), 1);
    assert_eq!(names(&dir.path().join(KIND)), [KEY]);
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let failed = cache.ensure(KIND, KEY, |dir| {
        fs::write(dir.join("file"), "half").unwrap();
        Err(DiskError::Missing("a mirror".into()))
    });
    assert!(matches!(failed, Err(DiskError::Missing(_))), "{failed:?}");
    assert!(cache.find(KIND, KEY).is_none() && names(&dir.path().join(KIND)).is_empty());
    assert_eq!(build(&cache, "whole").unwrap().1.about, "whole");
}

/// Not a test of its own: what [`a_build_that_is_killed_is_begun_anew`] starts, and what dies in its middle.
#[test]
fn child_that_is_killed() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let never = open(Path::new(&root)).ensure(KIND, KEY, |dir| {
        fs::write(dir.join("file"), "half").unwrap();
        fs::write(dir.join("manifest.json"), "{}").unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        Ok(String::new())
    });
    unreachable!("{never:?}");
}

#[test]
fn a_build_that_is_killed_is_begun_anew_and_what_it_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let status = child.args(["--exact", "cache::child_that_is_killed"]).env(CHILD, dir.path()).output().unwrap().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    let cache = open(dir.path());
    let left = names(&dir.path().join(KIND));
    assert!(matches!(left.as_slice(), [one] if one.starts_with(".tmp-")), "{left:?}");
    assert!(cache.find(KIND, KEY).is_none() && cache.list(KIND).is_empty(), "half a build looks finished");
    build(&cache, "whole").unwrap();
    assert_eq!(names(&dir.path().join(KIND)), [KEY]);
}

#[test]
fn a_file_that_was_cut_short_or_taken_away_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let (made, manifest) = build(&cache, "whole").unwrap();
    assert_eq!(manifest.files["file"].bytes, 5);
    assert_eq!(manifest.files["file"].blake3, blake3::hash(b"whole").to_hex().to_string());
    for harm in [|file: &Path| fs::write(file, "who").unwrap(), |file: &Path| fs::remove_file(file).unwrap()] {
        harm(&made.join("file"));
        assert!(cache.find(KIND, KEY).is_none());
        build(&cache, "whole").unwrap();
        assert_eq!(fs::read_to_string(made.join("file")).unwrap(), "whole");
    }
}

#[test]
fn ones_own_comes_first_and_behind_it_only_what_root_owns_and_nobody_else_can_write() {
    assert!(nix::unistd::geteuid().is_root(), "this test gives directories away: run it as root");
    let dir = tempfile::tempdir().unwrap();
    let (own, system) = (dir.path().join("own"), dir.path().join("system"));
    build(&open(&system), "root's").unwrap();
    let about = || Cache::open(&own, Some(system.clone())).unwrap().find(KIND, KEY).map(|(_, manifest)| manifest.about);
    assert_eq!(about().as_deref(), Some("root's"));
    for mode in [0o775, 0o757] {
        fs::set_permissions(&system, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(about(), None, "trusted with {mode:o}");
    }
    fs::set_permissions(&system, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&system, Some(65534), None).unwrap();
    assert_eq!(about(), None, "trusted though another owns it");
    chown(&system, Some(0), None).unwrap();
    let both = Cache::open(&own, Some(system.clone())).unwrap();
    // Found behind one's own, so nothing is built.
    assert_eq!(build(&both, "mine").unwrap().1.about, "root's");
    build(&open(&own), "mine").unwrap();
    assert_eq!(about().as_deref(), Some("mine"));
    assert_eq!(both.list(KIND).len(), 2);
}

#[test]
fn a_named_directory_comes_before_all_others() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::discover(Some(&dir.path().join("named")), Some(dir.path()), None).unwrap();
    assert_eq!(cache.root(), dir.path().join("named"));
}
