//! What a newer Atoll wrote is refused for its form, and memory of another machine for that, though the key that signed it is this
//! instance's own.
//!
//! How it works: a manifest of the next form, or of another machine, is what this host wrote, with another value and the signature that
//! goes with it, made with the key of the data directory. The same manifest in this form is signed by the same hand and taken.
//!
//! Deliberately absent: manifests whose signature does not fit ([`crate::damage`]), and goldens ([`crate::goldens`]).

use std::fs;
use std::path::{Path, PathBuf};

use atoll_control::ports::HostDriver as _;
use atoll_domain::Incarnation;
use atoll_domain::host::{HostError, HostSandboxState, PauseMode, SandboxFacts};
use atoll_domain::snapshot::{Accelerator, Digest, FORMAT, Manifest, MemoryReason, Platform};
use atoll_testkit::ids;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::Ed25519KeyPair;

use crate::damage::files;
use crate::scene::{Sandbox, Scene};

/// The key of a scene's data directory.
pub(crate) fn key(scene: &Scene) -> Ed25519KeyPair {
    Ed25519KeyPair::from_pkcs8(&fs::read(scene.root().join("keys/snapshot.pk8")).unwrap()).unwrap()
}

fn read(path: &Path) -> Manifest {
    let file: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    serde_json::from_value(file["manifest"].clone()).unwrap()
}

/// Writes a manifest again, with a change and the signature that goes with it.
pub(crate) fn write_as(path: &Path, key: &Ed25519KeyPair, change: impl FnOnce(&mut Manifest)) {
    let mut manifest = read(path);
    change(&mut manifest);
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

/// A create from the template that was made of a sandbox.
async fn copy(scene: &Scene, of: &Sandbox) -> Result<SandboxFacts, HostError> {
    let mut request = ids::request(&ids::sandbox());
    request.spec.snapshot = Some("t1".into());
    request.inherited = Some(of.request.secrets.token.clone());
    scene.host.create(ids::call(Incarnation::FIRST), request).await
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
    let (manifest, key) = (kept(&scene, &sandbox), key(&scene));
    write_as(&manifest, &key, |manifest| manifest.format = FORMAT + 1);
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
    write_as(&manifest, &key, |manifest| manifest.format = FORMAT);
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
    let (manifest, key) = (scene.objects().remove(0).join("manifest.json"), key(&scene));
    write_as(&manifest, &key, |manifest| manifest.format = FORMAT + 1);
    is_newer("a create", copy(&scene, &sandbox).await);
    assert_eq!((scene.sandboxes(), scene.objects().len()), (1, 1), "something is left of what was refused");
    write_as(&manifest, &key, |manifest| manifest.format = FORMAT);
    copy(&scene, &sandbox).await.unwrap();
    drop(sandbox);
    scene.end().await;
}

/// Machines whose memory is of no use on this one, each other in one thing, and why.
fn others(here: &Platform) -> Vec<(Platform, MemoryReason)> {
    let vmm = MemoryReason::Vmm { was: "qemu 0.1.2".into(), is: format!("qemu {}", here.vmm_version) };
    let (accelerator, was, is) = match here.accelerator {
        Accelerator::Kvm => (Accelerator::Tcg, "tcg", "kvm"),
        Accelerator::Tcg => (Accelerator::Kvm, "kvm", "tcg"),
    };
    let cpu = MemoryReason::CpuModel { was: "another".into(), is: here.cpu_model.clone() };
    let rate = MemoryReason::TscRate { was: 2 * here.tsc_khz, is: here.tsc_khz };
    vec![
        (Platform { vmm_version: "0.1.2".into(), vmm_series: "0.1".into(), ..here.clone() }, vmm),
        (Platform { accelerator, ..here.clone() }, MemoryReason::Accelerator { was: was.into(), is: is.into() }),
        (Platform { cpu_model: "another".into(), ..here.clone() }, cpu),
        (Platform { tsc_khz: 2 * here.tsc_khz, ..here.clone() }, rate),
        (Platform { devices: Digest([7; 32]), ..here.clone() }, MemoryReason::Devices),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_another_machine_is_refused_for_that_and_the_disk_boots() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    let boot = sandbox.sh("echo kept > /root/file; sync; cat /proc/sys/kernel/random/boot_id").await;
    sandbox.template("t1").await;
    sandbox.pause(PauseMode::Memory).await;
    let (manifest, template) = (kept(&scene, &sandbox), scene.objects().remove(0).join("manifest.json"));
    let generation = manifest.parent().unwrap();
    // Its base and its diff become one first; from then on nothing touches it by itself.
    let flat = || async { (!generation.join("diff").exists()).then_some(()) };
    atoll_testkit::eventually("base and diff to be one", flat).await;
    let key = key(&scene);
    for (other, reason) in others(&read(&manifest).platform) {
        for path in [&manifest, &template] {
            write_as(path, &key, |manifest| manifest.platform = other.clone());
        }
        let before = files(generation);
        let call = ids::call(Incarnation(sandbox.life.0 + 1));
        let request = sandbox.resume_request(PauseMode::Memory);
        let refused = scene.host.resume(call, sandbox.id.clone(), request).await;
        assert_eq!(refused, Err(HostError::MemoryUnusable(reason.clone())), "a resume");
        assert!(files(generation) == before, "{reason}: what is kept was touched");
        let facts = scene.host.inspect(sandbox.id.clone()).await.unwrap();
        assert_eq!((facts.state, facts.vmm_pid), (HostSandboxState::Paused, None));
        let refused = copy(&scene, &sandbox).await;
        assert_eq!(refused, Err(HostError::MemoryUnusable(reason)), "a create");
        assert_eq!((scene.sandboxes(), scene.objects().len()), (1, 1), "something is left of what was refused");
    }
    sandbox.resume(PauseMode::Disk).await;
    assert_eq!(sandbox.sh("cat /root/file").await, "kept");
    assert_ne!(sandbox.sh("cat /proc/sys/kernel/random/boot_id").await, boot, "it boots");
    drop(sandbox);
    scene.end().await;
}
