//! One data directory for each instance id.
//!
//! How it works: control groups, namespaces and tables are named by the instance's id, and a copy of a data directory bears the same. So
//! besides the directory's lock one on `<dir>/instances/<id>` is held, beside the machine's slots; the file says which directory the id
//! belongs to. It stays as long as slots of the id are claimed: VMs outlive their Atoll, and whoever starts next must know whose they are.
//! A directory that was moved takes it over, and so does one that was put in the place of another. After the machine's restart there is no file
//! and no VM, and whoever starts first has the id.
//!
//! Deliberately absent: a new id for a copy. Which of the two is one, and what becomes of what it holds, is its owner's to say.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use atoll_domain::InstanceId;
use atoll_net::Slots;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use crate::StartError;
use crate::data_dir::{instance_of, lock_patiently};

/// Held as long as this Atoll uses the id.
#[derive(Debug)]
pub(crate) struct Held {
    file: Flock<File>,
    path: PathBuf,
    instance: InstanceId,
    slots: Slots,
}

impl Drop for Held {
    fn drop(&mut self) {
        // What cannot be seen is taken for there. The directory may have been wiped, and a file be there that is another's.
        let unused = self.slots.of_instance(&self.instance).is_ok_and(|claimed| claimed.is_empty());
        if unused && matches!(is_at(&self.file, &self.path), Ok(true)) {
            // One that stays names a directory without VMs, and keeps nobody out.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes an id for a data directory. Blocks for a moment if another Atoll has it.
///
/// # Errors
/// An Atoll on another directory runs under the id, or VMs of another directory may; what the file system says.
pub(crate) fn hold(slots: &Slots, instance: &InstanceId, root: &Path) -> Result<Held, StartError> {
    let own = Owner::of(root).map_err(StartError::file("read", root))?;
    let dir = slots.dir().join("instances");
    // Closed to others: whoever can open the file can hold its lock.
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(StartError::file("create", &dir))?;
    let path = dir.join(instance.as_str());
    let file = lock(&path, instance, &own)?;
    let before = Owner::read(&file).map_err(StartError::file("read", &path))?;
    // Only who holds the lock claims slots of the id, so none comes up meanwhile.
    if let Some(before) = before
        && before.is_elsewhere(&own, instance)
        && !slots.of_instance(instance)?.is_empty()
    {
        let (path, other) = (own.directory, before.directory);
        return Err(StartError::InstanceLives { path, other, instance: instance.clone() });
    }
    own.write(&file).map_err(StartError::file("write", &path))?;
    Ok(Held { file, path, instance: instance.clone(), slots: slots.clone() })
}

fn lock(path: &Path, instance: &InstanceId, own: &Owner) -> Result<Flock<File>, StartError> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(StartError::file("open", path))?;
        let file = lock_patiently(file).map_err(|held| runs(&held, instance, own))?;
        // Its last holder may have removed it meanwhile: then the next one would lock another.
        if is_at(&file, path).map_err(StartError::file("read", path))? {
            return Ok(file);
        }
    }
}

/// Whether a file is what lies at its path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The refusal by a file that another holds.
fn runs(held: &File, instance: &InstanceId, own: &Owner) -> StartError {
    // Without the names the refusal is still right.
    let (other, pid) = match Owner::read(held) {
        Ok(Some(owner)) => (owner.directory.display().to_string(), owner.pid.to_string()),
        _ => ("another directory".to_owned(), "unknown".to_owned()),
    };
    StartError::InstanceRuns { path: own.directory.clone(), other, instance: instance.clone(), pid }
}

/// Whose an id is: the first line of its file.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    /// Without links.
    directory: PathBuf,
    /// By these it is known where it was moved to, or is seen through another mount.
    dev: u64,
    ino: u64,
    /// The Atoll that used it last.
    pid: u32,
}

impl Owner {
    fn of(root: &Path) -> io::Result<Self> {
        let directory = fs::canonicalize(root)?;
        let found = fs::metadata(&directory)?;
        Ok(Self { directory, dev: found.dev(), ino: found.ino(), pid: std::process::id() })
    }

    /// None where nothing was written yet, or nothing that can be understood.
    fn read(mut file: &File) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text.split(|byte| *byte == b'\n').next().and_then(|line| serde_json::from_slice(line).ok()))
    }

    /// In place, because the lock is this file's. What a longer one leaves behind the first line until it is cut off is not read.
    fn write(&self, file: &File) -> io::Result<()> {
        let mut text = serde_json::to_vec(self).map_err(io::Error::other)?;
        text.push(b'\n');
        file.write_all_at(&text, 0)?;
        file.set_len(text.len() as u64)
    }

    /// Whether this is another directory, which is still there.
    fn is_elsewhere(&self, own: &Self, instance: &InstanceId) -> bool {
        let same = self.directory == own.directory || (self.dev, self.ino) == (own.dev, own.ino);
        let there = || match instance_of(&self.directory) {
            Ok(found) => found.as_ref() == Some(instance),
            // What cannot be read may well be it.
            Err(_) => true,
        };
        !same && there()
    }
}

#[cfg(test)]
mod tests {
    use atoll_domain::SandboxId;

    use super::*;

    /// A machine, an id, and two data directories that bear it.
    struct Scene {
        dir: tempfile::TempDir,
        slots: Slots,
        instance: InstanceId,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let slots = Slots::at(&dir.path().join("run"));
            let scene = Self { dir, slots, instance: InstanceId::from_random([0xaa; 3]) };
            for name in ["one", "two"] {
                fs::create_dir(scene.at(name)).unwrap();
                scene.is_of(name, "aaaaaa");
            }
            scene
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn is_of(&self, name: &str, instance: &str) {
            let text = format!(r#"{{"instance":"{instance}"}}"#);
            fs::write(self.at(name).join("instance.json"), text).unwrap();
        }

        fn hold(&self, name: &str) -> Result<Held, StartError> {
            hold(&self.slots, &self.instance, &self.at(name))
        }

        /// The refusal names both directories and what can be done.
        fn refused(&self, name: &str, other: &str) -> StartError {
            let error = self.hold(name).unwrap_err();
            let text = error.to_string();
            let path = |name: &str| fs::canonicalize(self.at(name)).unwrap().display().to_string();
            for word in [path(name), path(other), "aaaaaa".into(), format!("remove {}/instance.json", path(name))] {
                assert!(text.contains(&word), "`{word}` is not in: {text}");
            }
            error
        }

        fn sandbox() -> SandboxId {
            SandboxId::from_random([1; 16])
        }

        fn claim(&self) {
            let pool = atoll_net::Pool::parse("10.213.0.0/16").unwrap();
            self.slots.claim(&self.instance, &Self::sandbox(), pool).unwrap();
        }

        fn release(&self) {
            self.slots.release(&self.instance, &Self::sandbox()).unwrap();
        }

        fn file(&self) -> PathBuf {
            self.at("run/instances/aaaaaa")
        }
    }

    #[test]
    fn while_one_runs_the_other_is_refused_and_nothing_is_left_of_one_without_vms() {
        let scene = Scene::new();
        let one = scene.hold("one").unwrap();
        let StartError::InstanceRuns { pid, .. } = scene.refused("two", "one") else { panic!("another refusal") };
        assert_eq!(pid, std::process::id().to_string());
        drop(one);
        assert!(!scene.file().exists());
        drop(scene.hold("two").unwrap());
        drop(scene.hold("one").unwrap());
    }

    #[test]
    fn as_long_as_vms_may_live_only_their_own_directory_has_the_id() {
        let scene = Scene::new();
        let one = scene.hold("one").unwrap();
        scene.claim();
        drop(one);
        assert!(matches!(scene.refused("two", "one"), StartError::InstanceLives { .. }));
        drop(scene.hold("one").unwrap());
        assert!(matches!(scene.refused("two", "one"), StartError::InstanceLives { .. }), "it is known again and again");
        scene.release();
        drop(scene.hold("two").unwrap());
    }

    #[test]
    fn a_directory_that_was_moved_keeps_the_id_and_one_that_is_no_more_keeps_nobody_out() {
        let scene = Scene::new();
        scene.claim();
        drop(scene.hold("one").unwrap());
        fs::rename(scene.at("one"), scene.at("moved")).unwrap();
        drop(scene.hold("moved").unwrap());
        assert!(matches!(scene.refused("two", "moved"), StartError::InstanceLives { .. }));
        // Another in its place.
        fs::rename(scene.at("moved"), scene.at("away")).unwrap();
        fs::rename(scene.at("two"), scene.at("moved")).unwrap();
        drop(scene.hold("moved").unwrap());
        // Given an id of its own, and gone.
        scene.is_of("moved", "bbbbbb");
        drop(scene.hold("away").unwrap());
        fs::remove_dir_all(scene.at("away")).unwrap();
        scene.is_of("moved", "aaaaaa");
        drop(scene.hold("moved").unwrap());
    }

    #[test]
    fn a_file_that_says_nothing_is_taken_and_a_longer_line_leaves_nothing_behind() {
        let scene = Scene::new();
        scene.claim();
        let long = "long".repeat(40);
        fs::create_dir(scene.at(&long)).unwrap();
        scene.is_of(&long, "aaaaaa");
        drop(scene.hold(&long).unwrap());
        fs::write(scene.file(), "").unwrap();
        drop(scene.hold("one").unwrap());
        assert!(matches!(scene.refused(&long, "one"), StartError::InstanceLives { .. }));
        fs::remove_dir_all(scene.at("one")).unwrap();
        drop(scene.hold(&long).unwrap());
        fs::remove_dir_all(scene.at(&long)).unwrap();
        drop(scene.hold("two").unwrap());
        let text = fs::read_to_string(scene.file()).unwrap();
        assert!(text.ends_with("}\n") && !text.contains("longlong"), "{text}");
    }
}
