//! What a scrub names, and what it does not.
//!
//! How it works: objects and a paused sandbox are small files with real manifests; one byte of each file is spoiled in turn.
//!
//! Deliberately absent: VMs (e2e_life spoils what real ones left).

use std::os::unix::fs::FileExt as _;

use atoll_domain::objects::Holder;
use atoll_domain::record::Paused;
use atoll_domain::snapshot::{FORMAT, Origin, Parts};
use atoll_domain::{Incarnation, Shape};

use super::*;
use crate::journal::{Entry, Journal};
use crate::samples;

const SHAPE: Shape = Shape { vcpus: 1, memory_mb: 1, disk_mb: 1 };

struct Kit {
    dir: tempfile::TempDir,
    signer: Arc<Signer>,
    objects: Objects,
    stopping: CancellationToken,
}

impl Kit {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let signer = Arc::new(Signer::open(dir.path()).unwrap());
        let objects = Objects::open(dir.path(), Arc::clone(&signer), |_| true).unwrap();
        std::fs::create_dir(dir.path().join("sandboxes")).unwrap();
        for (name, byte) in [("image", 1), ("kernel", 2), ("initrd", 3)] {
            std::fs::write(dir.path().join(name), vec![byte; 5000]).unwrap();
        }
        Self { dir, signer, objects, stopping: CancellationToken::new() }
    }

    fn sources(&self, base: Base) -> Sources {
        let [image, kernel, initrd] = ["image", "kernel", "initrd"].map(|name| self.dir.path().join(name));
        let origin =
            Origin { kernel: digest(&kernel), base: digest(&image), agent: Digest([0; 32]), agent_version: "1".into() };
        Sources { image, kernel, initrd, base, origin }
    }

    fn seal(&self, path: &Path, id: &str, parts: Parts, sources: &Sources) {
        let manifest = Manifest {
            format: FORMAT,
            id: id.into(),
            created_at: 1,
            shape: SHAPE,
            template: "base".into(),
            platform: samples::platform(),
            origin: sources.origin.clone(),
            parts,
            quiesced: true,
            copyable: true,
            key: self.signer.id().into(),
        };
        generation::seal(path, &manifest, &self.signer).unwrap();
    }

    fn object(&self, holders: &[Holder]) -> (ObjectId, PathBuf) {
        let (id, path) = self.objects.make(holders[0].clone()).unwrap();
        holders[1..].iter().for_each(|holder| self.objects.hold(&id, holder.clone()).unwrap());
        let sources = self.sources(Base::Object { id: id.clone() });
        std::fs::write(path.join(SOURCES), serde_json::to_vec(&sources).unwrap()).unwrap();
        let part = |name: &str, byte: u8| {
            std::fs::write(path.join(name), vec![byte; 200_000]).unwrap();
            Some(Part { bytes: 200_000, digest: digest(&path.join(name)) })
        };
        let (state, memory_base) = (part(STATE, 4), part(MEMORY, 5));
        std::fs::write(path.join(DISK), vec![6; 200_000]).unwrap();
        let disk = Digest(atoll_disk::disk_digest(&path.join(DISK)).unwrap().0);
        let disk = Some(Part { bytes: 200_000, digest: disk });
        self.seal(&path, &id.0, Parts { state, memory_base, memory_diff: None, disk }, &sources);
        (id, path)
    }

    /// A paused sandbox on a memory image of its own.
    fn paused(&self, id: &SandboxId) -> PathBuf {
        let dir = self.dir.path().join("sandboxes").join(id.as_str());
        let journal = Journal::create(&dir, &samples::create(id)).unwrap();
        std::fs::write(dir.join("base-1.raw"), vec![7; 200_000]).unwrap();
        let base = Base::Own { file: "base-1.raw".into(), digest: digest(&dir.join("base-1.raw")), stamp: None };
        let sources = self.sources(base);
        let path = generation::create(&dir, "g").unwrap();
        std::fs::write(path.join(STATE), vec![8; 5000]).unwrap();
        let state = Some(Part { bytes: 5000, digest: digest(&path.join(STATE)) });
        self.seal(&path, "g", Parts { state, memory_base: None, memory_diff: None, disk: None }, &sources);
        let paused = Paused { at: 1, generation: Some("g".into()), quiesced: true, bytes: 1, memory_lost: false };
        let kept = Kept { paused, sources, diff: false, by_host: false, cause: None };
        journal.write(&Entry::Paused(Box::new(kept))).unwrap();
        dir
    }

    fn scrub(&self) -> Scrubbed {
        let sandboxes = self.dir.path().join("sandboxes");
        Scrub::new(&self.objects, &self.signer, &sandboxes, &self.stopping).run().unwrap()
    }

    /// Who is named while one byte of a file is another.
    fn named(&self, path: &Path) -> Vec<(DamageKind, String)> {
        flip(path);
        let scrubbed = self.scrub();
        flip(path);
        let name = path.file_name().unwrap().to_str().unwrap();
        // A path that was altered shows in what it named.
        let says = |damage: &Damage| [SOURCES, "image", "kernel"].contains(&name) || damage.reason.contains(name);
        assert!(scrubbed.damaged.iter().all(says), "{scrubbed:?}");
        scrubbed.damaged.into_iter().map(|damage| (damage.kind, damage.id)).collect()
    }
}

fn digest(path: &Path) -> Digest {
    Digest(digest_of_while(&File::open(path).unwrap(), &|| true).unwrap().0.0)
}

fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn running(id: &SandboxId) -> Holder {
    Holder::Running { sandbox: id.clone(), incarnation: Incarnation::FIRST }
}

#[test]
fn one_byte_of_any_file_names_whom_it_harms_and_nobody_else() {
    let kit = Kit::new();
    let (one, two) = (SandboxId::from_random([1; 16]), SandboxId::from_random([2; 16]));
    let (template, golden) = (Holder::Template { id: "t".into() }, Holder::Golden { name: "g".into() });
    let (_, shared) = kit.object(&[template, running(&one)]);
    let (_, kept) = kit.object(&[golden]);
    let unfinished = kit.object(&[Holder::Step { id: "s".into() }]).1;
    let paused = kit.paused(&two);
    let clean = kit.scrub();
    assert!(clean.damaged.is_empty(), "{clean:?}");
    // Five files of three objects, three of the sandbox; image and kernel once.
    assert_eq!(clean.files, 3 * 5 + 3 + 2);
    assert!(clean.bytes > 10 * 200_000 && clean.bytes < 10 * 200_000 + 60_000, "{clean:?}");
    let (t, g) = ((DamageKind::Template, "t".to_owned()), (DamageKind::Golden, "g".to_owned()));
    let [s1, s2] = [&one, &two].map(|id| (DamageKind::Sandbox, id.to_string()));
    for name in [MANIFEST, MEMORY] {
        assert_eq!(kit.named(&shared.join(name)), [t.clone(), s1.clone()], "{name}");
    }
    for name in [STATE, DISK, SOURCES] {
        assert_eq!(kit.named(&shared.join(name)), std::slice::from_ref(&t), "{name}");
    }
    for name in [MANIFEST, MEMORY, STATE, DISK, SOURCES] {
        assert_eq!(kit.named(&kept.join(name)), std::slice::from_ref(&g), "{name}");
        assert!(kit.named(&unfinished.join(name)).is_empty(), "it is nobody's yet: {name}");
    }
    for name in ["base-1.raw", "generations/g/state", "generations/g/manifest.json"] {
        assert_eq!(kit.named(&paused.join(name)), std::slice::from_ref(&s2), "{name}");
    }
    for name in ["image", "kernel"] {
        assert_eq!(kit.named(&kit.dir.path().join(name)), [t.clone(), g.clone(), s2.clone()], "{name}");
    }
    assert_eq!(kit.scrub(), clean, "it changed nothing");
    for name in ["base-1.raw", "generations/g/state"] {
        let path = paused.join(name);
        std::fs::rename(&path, kit.dir.path().join("away")).unwrap();
        assert_eq!(kit.scrub().damaged.len(), 1, "{name} is not there");
        std::fs::rename(kit.dir.path().join("away"), &path).unwrap();
    }
}

#[test]
fn what_was_removed_or_ends_is_no_damage() {
    let kit = Kit::new();
    let holder = Holder::Template { id: "t".into() };
    let (id, _) = kit.object(std::slice::from_ref(&holder));
    let two = SandboxId::from_random([2; 16]);
    let dir = kit.paused(&two);
    let sandboxes = kit.dir.path().join("sandboxes");
    let mut scrub = Scrub::new(&kit.objects, &kit.signer, &sandboxes, &kit.stopping);
    kit.objects.release(&holder).unwrap();
    scrub.object(&id).unwrap();
    assert!(scrub.done.damaged.is_empty(), "its template was deleted: {:?}", scrub.done);
    flip(&dir.join("base-1.raw"));
    assert_eq!(kit.scrub().damaged.len(), 1);
    let tombstone = Entry::Tombstone { reason: "destroyed".into(), tell: false };
    Journal::open(&dir).unwrap().write(&tombstone).unwrap();
    assert!(kit.scrub().damaged.is_empty(), "it is being removed");
}

#[test]
fn a_stop_ends_it() {
    let kit = Kit::new();
    kit.object(&[Holder::Template { id: "t".into() }]);
    kit.stopping.cancel();
    let sandboxes = kit.dir.path().join("sandboxes");
    let stopped = Scrub::new(&kit.objects, &kit.signer, &sandboxes, &kit.stopping).run();
    assert!(matches!(stopped, Err(HostError::Stopping)), "{stopped:?}");
}
