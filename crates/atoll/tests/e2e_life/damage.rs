//! What is kept and does not hold what it must is refused before a guest sees it, and stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_control::ports::HostDriver as _;
use atoll_domain::Incarnation;
use atoll_domain::host::{HostError, HostSandboxState, PauseMode};
use atoll_domain::scrub::{Damage, DamageKind};
use atoll_testkit::ids;

use crate::scene::{Sandbox, Scene};

/// A way to spoil a file.
type Spoil = fn(&[u8]) -> Vec<u8>;

const TRUNCATED: Spoil = |bytes| bytes[..bytes.len() - 1].to_vec();
const ALTERED: Spoil = |bytes| {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
};
const EMPTY: Spoil = |_| Vec::new();

fn manifest(bytes: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut file: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    change(&mut file["manifest"]);
    serde_json::to_vec(&file).unwrap()
}

const QUIESCED: Spoil = |bytes| manifest(bytes, |m| m["quiesced"] = (!m["quiesced"].as_bool().unwrap()).into());
const FOREIGN: Spoil = |bytes| manifest(bytes, |m| m["key"] = "0".repeat(32).into());
const NEWER: Spoil = |bytes| manifest(bytes, |m| m["format"] = 1000.into());

/// As after somebody emptied the cache.
const NO_IMAGE: Spoil = |bytes| {
    let mut sources: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    sources["image"] = "/nowhere/rootfs.ext4".into();
    serde_json::to_vec(&sources).unwrap()
};

/// All files below a directory, by what they hold.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            out.insert(path, bytes);
        }
    }
    out
}

async fn refused(sandbox: &Sandbox) -> String {
    let call = ids::call(Incarnation(sandbox.life.0 + 1));
    let request = sandbox.resume_request(PauseMode::Memory);
    match sandbox.host.resume(call, sandbox.id.clone(), request).await {
        Err(HostError::Damaged(why)) => why,
        other => panic!("it must be refused as damaged: {other:?}"),
    }
}

/// A paused sandbox's first memory is made into an image of its own, which nobody changes from then on.
async fn own_base(dir: &Path) -> PathBuf {
    atoll_testkit::eventually("the memory to be flat", || async {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let flat = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("base-");
        let journal = fs::read_to_string(dir.join("journal")).unwrap();
        names.into_iter().find(flat).filter(|_| journal.contains("\"flattened\""))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_sandbox_whose_files_were_spoiled_is_refused_and_stays() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    sandbox.sh("head -c 1000000 /dev/urandom > /dev/shm/a").await;
    let sum = sandbox.sh("sha256sum < /dev/shm/a").await;
    sandbox.pause(PauseMode::Memory).await;
    let dir = scene.directory(&sandbox.id);
    let base = own_base(&dir).await;
    sandbox.resume(PauseMode::Memory).await;
    sandbox.pause(PauseMode::Memory).await;
    let kept = dir.join("generations");
    let generation = fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
    let cases: [(&str, Spoil); 11] = [
        ("state", TRUNCATED),
        ("state", ALTERED),
        ("diff", TRUNCATED),
        ("diff", ALTERED),
        ("diff", EMPTY),
        ("manifest.json", TRUNCATED),
        ("manifest.json", EMPTY),
        ("manifest.json", QUIESCED),
        ("manifest.json", FOREIGN),
        ("manifest.json", NEWER),
        ("manifest.json", |_| vec![b' '; 100_000]),
    ];
    let whole = files(&kept);
    for (at, (name, spoil)) in cases.into_iter().enumerate() {
        let path = generation.join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, spoil(&good)).unwrap();
        let before = files(&kept);
        println!("case {at}, {name}: {}", refused(&sandbox).await);
        assert!(files(&kept) == before, "case {at}, {name}: what is kept was touched");
        let facts = sandbox.host.inspect(sandbox.id.clone()).await.unwrap();
        assert_eq!((facts.state, facts.vmm_pid), (HostSandboxState::Paused, None));
        fs::write(&path, good).unwrap();
    }
    assert!(files(&kept) == whole);
    let good = fs::read(&base).unwrap();
    for spoil in [ALTERED, TRUNCATED] {
        fs::write(&base, spoil(&good)).unwrap();
        println!("base: {}", refused(&sandbox).await);
        assert!(files(&kept) == whole, "what is kept was touched");
    }
    // The same bytes, though the file looks another: it is read, and taken.
    fs::write(&base, good).unwrap();
    sandbox.resume(PauseMode::Memory).await;
    assert_eq!(sandbox.sh("sha256sum < /dev/shm/a").await, sum);
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_whose_files_were_spoiled_starts_nothing() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    sandbox.template("t1").await;
    let object = scene.objects().remove(0);
    let request = || {
        let mut request = ids::request(&ids::sandbox());
        request.spec.snapshot = Some("t1".into());
        request.inherited = Some(sandbox.request.secrets.token.clone());
        request
    };
    let refused = async |what: &str| {
        let made = scene.host.create(ids::call(Incarnation::FIRST), request()).await;
        println!("{what}: {made:?}");
        assert!(matches!(made, Err(HostError::Damaged(_))), "{what}: {made:?}");
    };
    let cases: [(&str, Spoil); 8] = [
        ("memory.raw", ALTERED),
        ("memory.raw", TRUNCATED),
        ("state", ALTERED),
        ("manifest.json", FOREIGN),
        ("manifest.json", NEWER),
        ("manifest.json", TRUNCATED),
        ("sources.json", TRUNCATED),
        ("sources.json", NO_IMAGE),
    ];
    for (name, spoil) in cases {
        let path = object.join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, spoil(&good)).unwrap();
        refused(name).await;
        fs::write(&path, good).unwrap();
    }
    // Too large to be held in memory.
    let disk = object.join("disk.raw");
    flip(&disk);
    refused("an altered disk").await;
    flip(&disk);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - 4096).unwrap();
    refused("a truncated disk").await;
    file.set_len(length).unwrap();
    scene.host.create(ids::call(Incarnation::FIRST), request()).await.unwrap();
    assert_eq!(sandbox.sh("echo on").await, "on");
    drop(sandbox);
    scene.end().await;
}

/// Makes one byte in the middle of a file another; the same again makes it what it was.
fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

async fn damaged(scene: &Scene) -> Vec<Damage> {
    let scrubbed = scene.host.scrub().await.unwrap();
    println!("{scrubbed:?}");
    scrubbed.damaged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_names_exactly_what_was_spoiled() {
    let scene = Scene::with_goldens("1x256").await;
    let golden = || async { scene.objects().pop().filter(|_| scene.sandboxes() == 0) };
    let golden = atoll_testkit::patiently(atoll_testkit::BOOTS, "a golden", golden).await;
    let mut sandbox = scene.create(|request| request.spec.cold = true).await;
    sandbox.template("t1").await;
    let template = scene.objects().into_iter().find(|path| *path != golden).unwrap();
    sandbox.pause(PauseMode::Memory).await;
    let dir = scene.directory(&sandbox.id);
    let base = own_base(&dir).await;
    sandbox.resume(PauseMode::Memory).await;
    sandbox.pause(PauseMode::Memory).await;
    let generation = fs::read_dir(dir.join("generations")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(damaged(&scene).await, []);
    let of_object = ["manifest.json", "memory.raw", "state", "disk.raw", "sources.json"];
    let mut cases = Vec::new();
    for (object, kind, id) in [(&golden, DamageKind::Golden, "base-1x256-"), (&template, DamageKind::Template, "t1")] {
        cases.extend(of_object.map(|name| (object.join(name), kind, id)));
    }
    let of_sandbox = ["manifest.json", "state", "diff"].map(|name| generation.join(name));
    cases.extend(of_sandbox.into_iter().chain([base]).map(|path| (path, DamageKind::Sandbox, sandbox.id.as_str())));
    for (path, kind, id) in cases {
        flip(&path);
        let found = damaged(&scene).await;
        flip(&path);
        assert_eq!(found.len(), 1, "{}: {found:?}", path.display());
        assert!(found[0].kind == kind && found[0].id.starts_with(id), "{}: {found:?}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap();
        // One byte of a path, in the file that names them, is another file that is not there.
        assert!(found[0].reason.contains(name) || name == "sources.json", "{found:?}");
    }
    assert_eq!(damaged(&scene).await, [], "it is all there again");
    sandbox.resume(PauseMode::Memory).await;
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_resumed_and_removed_while_it_is_scrubbed_is_no_damage() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    let (host, over) = (scene.host.clone(), Arc::new(AtomicBool::new(false)));
    let until = Arc::clone(&over);
    let scrubs = tokio::spawn(async move {
        let (mut count, mut found) = (0, Vec::new());
        while !until.load(Ordering::SeqCst) {
            found.extend(host.scrub().await.unwrap().damaged);
            count += 1;
        }
        (count, found)
    });
    for round in 0..3 {
        let name = format!("t{round}");
        sandbox.template(&name).await;
        sandbox.pause(PauseMode::Memory).await;
        scene.host.drop_template(name).await.unwrap();
        sandbox.resume(PauseMode::Memory).await;
    }
    scene.host.destroy(sandbox.call(), sandbox.id.clone()).await.unwrap();
    over.store(true, Ordering::SeqCst);
    let (count, found) = scrubs.await.unwrap();
    println!("{count} scrubs");
    assert!(count > 0 && found.is_empty(), "{found:?}");
    drop(sandbox);
    scene.end().await;
}
