//! Making what a boot needs: slot, directory, disk, network, control groups.
//!
//! How it works: the journal's first line is on disk before anything else exists; every name follows from it, so whatever a crash
//! leaves is found again. Disk, network and groups do not need each other and are made at the same time.
//!
//! Deliberately absent: undoing. A failure here ends in a release, which knows every name.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use atoll_domain::host::{HostError, SandboxSpec};
use atoll_domain::objects::{Holder, ObjectId};
use atoll_domain::snapshot::Manifest;
use atoll_domain::{Invalid, Shape};
use tokio::task::spawn_blocking;

use super::work::{Context, Finished};
use crate::error::{failed, from_disk, from_keeper, from_net, join_failed};
use crate::journal::{Entry, Journal};
use crate::objects::{DISK, Objects};
use crate::ready::Ready;
use crate::shared::Shared;
use crate::sources::{self, By};
use crate::{Step, admission, goldens, whole};

/// The copies of what the owner brought, in the sandbox's directory.
pub(super) const OWN_KERNEL: &str = "own-kernel";
pub(super) const OWN_ROOTFS: &str = "own-rootfs.ext4";

pub(super) async fn run(context: Context) -> Finished {
    Finished::Prepared(prepare(&context).await)
}

pub(super) async fn prepare(context: &Context) -> Result<(), HostError> {
    let shared = &context.shared;
    let started = Instant::now();
    let ready = context.or_cancelled(shared.ready()).await?;
    context.phase("image", started, |_| {});
    let named = context.spec.snapshot.is_none() && context.spec.own.rootfs.is_none();
    if named && context.spec.template != ready.image.template {
        let known = atoll_disk::TEMPLATES.join(", ");
        return Err(HostError::UnknownTemplate { name: context.spec.template.clone(), known });
    }
    let from = origin(context, &ready).await?;
    let (spec, data) = (context.spec.clone(), shared.data.root().to_owned());
    admission::check(&data, &spec, shared.promised(Some(&spec.id)))?;
    let started = Instant::now();
    let (plan, from) = {
        let (shared, spec, call, dir) = (shared.clone(), spec.clone(), context.call.clone(), context.dir.clone());
        let claimed = spawn_blocking(move || {
            Journal::create(&dir, &Entry::Create { call, spec: spec.clone() }).map_err(|e| failed(&e))?;
            crate::metrics::file::create(&dir).map_err(|e| failed(&e))?;
            let from = rest_on(&shared.objects, from, &spec)?;
            Ok::<_, HostError>((shared.plan(&spec).map_err(from_net)?, from))
        });
        claimed.await.map_err(join_failed)??
    };
    context.phase("claim", started, |facts| Context::note_plan(facts, &plan));
    context.called_off()?;
    let started = Instant::now();
    Step::Make.before();
    let (cache, cow) = (shared.config.cache.clone(), context.dir.join("cow.raw"));
    let source = from.map(|object| shared.objects.path(&object).join(DISK));
    let (own, dir) = (spec.own.clone(), context.dir.clone());
    let disk = spawn_blocking(move || {
        if let Some(kernel) = &own.kernel {
            atoll_disk::take_kernel(Path::new(kernel), &dir.join(OWN_KERNEL))?;
        }
        if let Some(rootfs) = &own.rootfs {
            atoll_disk::take_rootfs(Path::new(rootfs), &dir.join(OWN_ROOTFS))?;
        }
        match source {
            Some(source) => atoll_disk::copy_disk(&source, &cow),
            None => atoll_disk::create_cow(&cache, &cow, spec.shape.disk_mb),
        }
    });
    let network = spawn_blocking(move || atoll_net::apply(&plan));
    let (grouping, of) = (Arc::clone(shared), context.spec.clone());
    let groups = spawn_blocking(move || grouping.groups(&of));
    let (disk, network, groups) = tokio::join!(disk, network, groups);
    disk.map_err(join_failed)?.map_err(from_disk)?;
    network.map_err(join_failed)?.map_err(from_net)?;
    groups.map_err(join_failed)?.map_err(from_keeper)?;
    Step::Make.after();
    context.phase("disk and network", started, |_| {});
    context.called_off()
}

/// Holds the object that the sandbox starts from. A golden that was dropped since it was chosen is no reason to fail: then it boots.
fn rest_on(objects: &Objects, from: Option<ObjectId>, spec: &SandboxSpec) -> Result<Option<ObjectId>, HostError> {
    let Some(object) = from else { return Ok(None) };
    match objects.hold(&object, crate::shared::rests(&spec.id)) {
        Ok(()) => Ok(Some(object)),
        Err(HostError::Damaged(why)) if spec.snapshot.is_none() => {
            tracing::info!(sandbox.id = %spec.id, why, "a golden was dropped meanwhile; the sandbox boots");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The object that the sandbox starts from: its template's, or a golden's.
async fn origin(context: &Context, ready: &Arc<Ready>) -> Result<Option<ObjectId>, HostError> {
    let (shared, spec, ready) = (context.shared.clone(), context.spec.clone(), Arc::clone(ready));
    let found = spawn_blocking(move || match &spec.snapshot {
        Some(id) => {
            let object = shared.objects.of(&Holder::Template { id: id.clone() });
            let gone = || HostError::UnknownTemplate { name: id.clone(), known: String::new() };
            let object = object.ok_or_else(gone)?;
            let manifest = shared.objects.manifest(&object)?;
            fits(&manifest, spec.shape)?;
            startable(&shared, &object, &manifest)?;
            Ok(Some(object))
        }
        None => Ok(goldens::of(&shared, &ready, &spec).filter(|object| is_whole(&shared, object))),
    });
    found.await.map_err(join_failed)?
}

/// What its VM needs besides memory and device state is there.
fn startable(shared: &Shared, object: &ObjectId, manifest: &Manifest) -> Result<(), HostError> {
    let path = shared.objects.path(object);
    whole::disk(&path, manifest)?;
    let sources = whole::sources(&path, object, manifest)?;
    let places = [("the cache", shared.config.cache.root()), ("the template's directory", path.as_path())];
    sources::there(&sources, By::Restore, &places)
}

/// Of a golden: one that is damaged is no reason to fail, where there is an image to boot from.
fn is_whole(shared: &Shared, golden: &ObjectId) -> bool {
    let checked = shared.objects.manifest(golden).and_then(|manifest| startable(shared, golden, &manifest));
    if let Err(error) = &checked {
        tracing::error!(object = %golden.0, %error, "a golden cannot be restored; the sandbox boots");
    }
    checked.is_ok()
}

/// A copy has the processors and the memory of what it is a copy of, and a disk that is no smaller.
fn fits(manifest: &Manifest, shape: Shape) -> Result<(), HostError> {
    let of = manifest.shape;
    let equal = |field: &str, asked: u32, is: u32| {
        let differs = || HostError::Invalid(Invalid::new(field, "out_of_range", format!("the template has {is}")));
        if asked == is { Ok(()) } else { Err(differs()) }
    };
    equal("vcpus", shape.vcpus, of.vcpus)?;
    equal("memory_mb", shape.memory_mb, of.memory_mb)?;
    if shape.disk_mb < of.disk_mb {
        let detail = format!("the template's disk has {} MiB, and a disk does not shrink", of.disk_mb);
        return Err(HostError::Invalid(Invalid::new("disk_mb", "out_of_range", detail)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use atoll_domain::ttl::Lifetime;
    use atoll_domain::{Network, SandboxId};

    use super::*;
    use crate::signing::Signer;

    #[test]
    fn a_golden_that_was_dropped_since_it_was_chosen_means_a_boot_and_a_template_does_not() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("keys")).unwrap();
        let signer = Arc::new(Signer::open(&data.path().join("keys")).unwrap());
        let objects = Objects::open(data.path(), signer, |_| true).unwrap();
        let golden = Holder::Golden { name: "g".into() };
        let (object, _) = objects.make(golden.clone()).unwrap();
        let mut spec = SandboxSpec {
            id: SandboxId::from_random([1; 16]),
            template: "base".into(),
            shape: Shape { vcpus: 1, memory_mb: 256, disk_mb: 1024 },
            network: Network::None,
            default_user: "root".into(),
            lifetime: Lifetime::default(),
            snapshot: None,
            cold: false,
            own: atoll_domain::host::OwnFiles::default(),
        };
        assert_eq!(rest_on(&objects, Some(object.clone()), &spec).unwrap(), Some(object.clone()));
        objects.release(&crate::shared::rests(&spec.id)).unwrap();
        objects.release(&golden).unwrap();
        assert_eq!(rest_on(&objects, Some(object.clone()), &spec).unwrap(), None);
        spec.snapshot = Some("t".into());
        assert!(matches!(rest_on(&objects, Some(object), &spec), Err(HostError::Damaged(_))));
    }
}
