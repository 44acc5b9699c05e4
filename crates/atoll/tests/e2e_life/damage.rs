//! What is kept and does not hold what it must is refused before a guest sees it, and stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use atoll_control::ports::HostDriver as _;
use atoll_domain::Incarnation;
use atoll_domain::host::{HostError, HostSandboxState, PauseMode};
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

/// All files below a directory, by what they hold.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_sandbox_whose_files_were_spoiled_is_refused_and_stays() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    sandbox.sh("head -c 1000000 /dev/urandom > /dev/shm/a").await;
    let sum = sandbox.sh("sha256sum < /dev/shm/a").await;
    sandbox.pause(PauseMode::Memory).await;
    let dir = scene.directory(&sandbox.id);
    // Its first memory is made into an image of its own, which nobody changes from then on.
    let base = atoll_testkit::eventually("the memory to be flat", || async {
        let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        let flat = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("base-");
        let journal = fs::read_to_string(dir.join("journal")).unwrap();
        names.into_iter().find(flat).filter(|_| journal.contains("\"flattened\""))
    })
    .await;
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
    let cases: [(&str, Spoil); 6] = [
        ("memory.raw", ALTERED),
        ("memory.raw", TRUNCATED),
        ("state", ALTERED),
        ("manifest.json", FOREIGN),
        ("manifest.json", NEWER),
        ("manifest.json", TRUNCATED),
    ];
    for (name, spoil) in cases {
        let path = object.join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, spoil(&good)).unwrap();
        let mut request = ids::request(&ids::sandbox());
        request.spec.snapshot = Some("t1".into());
        request.inherited = Some(sandbox.request.secrets.token.clone());
        let made = scene.host.create(ids::call(Incarnation::FIRST), request).await;
        println!("{name}: {made:?}");
        assert!(matches!(made, Err(HostError::Damaged(_))), "{name}: {made:?}");
        fs::write(&path, good).unwrap();
    }
    assert_eq!(sandbox.sh("echo on").await, "on");
    drop(sandbox);
    scene.end().await;
}
