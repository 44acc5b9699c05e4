//! What a newer Atoll wrote is refused for its form, though the key that signed it is this instance's own.
//!
//! How it works: a manifest of the next form is what this one writes, with another number and the signature that goes with it, made with
//! the key of the data directory. The same manifest in this form is signed by the same hand and taken.
//!
//! Deliberately absent: manifests whose signature does not fit ([`crate::damage`]).

use std::fs;
use std::path::{Path, PathBuf};

use atoll_control::ports::HostDriver as _;
use atoll_domain::Incarnation;
use atoll_domain::host::{HostError, HostSandboxState, PauseMode};
use atoll_domain::snapshot::{FORMAT, Manifest};
use atoll_testkit::ids;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::Ed25519KeyPair;

use crate::scene::{Sandbox, Scene};

/// The key of a sandbox's data directory.
fn key(scene: &Scene, sandbox: &Sandbox) -> Ed25519KeyPair {
    let data = scene.directory(&sandbox.id).ancestors().nth(2).unwrap().to_owned();
    Ed25519KeyPair::from_pkcs8(&fs::read(data.join("keys/snapshot.pk8")).unwrap()).unwrap()
}

/// Writes a manifest again, in this form.
fn write_as(path: &Path, key: &Ed25519KeyPair, format: u32) {
    let file: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut manifest: Manifest = serde_json::from_value(file["manifest"].clone()).unwrap();
    manifest.format = format;
    let signature = STANDARD.encode(key.sign(&manifest.signing_input()).as_ref());
    let file = serde_json::json!({"manifest": manifest, "signature": signature});
    fs::write(path, serde_json::to_vec(&file).unwrap()).unwrap();
}

fn is_newer<T: std::fmt::Debug>(what: &str, answer: Result<T, HostError>) {
    println!("{what}: {answer:?}");
    match answer {
        Err(HostError::Damaged(why)) => assert!(why.contains("newer Atoll"), "{what}: {why}"),
        other => panic!("{what}: {other:?}"),
    }
}

/// The manifest of what is kept of a paused sandbox.
fn kept(scene: &Scene, sandbox: &Sandbox) -> PathBuf {
    let mut generations = fs::read_dir(scene.directory(&sandbox.id).join("generations")).unwrap();
    generations.next().unwrap().unwrap().path().join("manifest.json")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_sandbox_of_a_newer_form_neither_goes_on_nor_becomes_a_template() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    sandbox.sh("head -c 1000000 /dev/urandom > /dev/shm/a").await;
    let sum = sandbox.sh("sha256sum < /dev/shm/a").await;
    // Of one that is not quiesced there is no template in any form.
    for round in 0..20 {
        if sandbox.pause(PauseMode::Memory).await.quiesced {
            break;
        }
        assert!(round < 19, "its agent never answered in time");
        sandbox.resume(PauseMode::Memory).await;
    }
    let (manifest, key) = (kept(&scene, &sandbox), key(&scene, &sandbox));
    write_as(&manifest, &key, FORMAT + 1);
    let newer = fs::read(&manifest).unwrap();
    let call = ids::call(Incarnation(sandbox.life.0 + 1));
    let request = sandbox.resume_request(PauseMode::Memory);
    is_newer("a resume", scene.host.resume(call, sandbox.id.clone(), request).await);
    let template = atoll_domain::host::MakeTemplate { template: "t1".into() };
    is_newer("a template", scene.host.make_template(sandbox.call(), sandbox.id.clone(), template).await);
    assert_eq!(scene.objects().len(), 0, "something was made of it");
    let facts = scene.host.inspect(sandbox.id.clone()).await.unwrap();
    assert_eq!((facts.state, facts.vmm_pid), (HostSandboxState::Paused, None));
    assert_eq!(fs::read(&manifest).unwrap(), newer, "what is kept was touched");
    // The hand that signed is no reason.
    write_as(&manifest, &key, FORMAT);
    sandbox.template("t1").await;
    sandbox.resume(PauseMode::Memory).await;
    assert_eq!(sandbox.sh("sha256sum < /dev/shm/a").await, sum);
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_of_a_newer_form_starts_nothing() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    sandbox.template("t1").await;
    let (manifest, key) = (scene.objects().remove(0).join("manifest.json"), key(&scene, &sandbox));
    let create = async || {
        let mut request = ids::request(&ids::sandbox());
        request.spec.snapshot = Some("t1".into());
        request.inherited = Some(sandbox.request.secrets.token.clone());
        scene.host.create(ids::call(Incarnation::FIRST), request).await
    };
    write_as(&manifest, &key, FORMAT + 1);
    is_newer("a create", create().await);
    assert_eq!((scene.sandboxes(), scene.objects().len()), (1, 1), "something is left of what was refused");
    write_as(&manifest, &key, FORMAT);
    create().await.unwrap();
    drop(sandbox);
    scene.end().await;
}
