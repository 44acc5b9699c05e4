//! Making what a boot needs: slot, directory, disk, network, control groups.
//!
//! How it works: the journal's first line is on disk before anything else exists; every name follows from it, so whatever a crash
//! leaves is found again. Disk, network and groups do not need each other and are made at the same time.
//!
//! Deliberately absent: undoing. A failure here ends in a release, which knows every name.

use std::time::Instant;

use atoll_domain::host::HostError;
use tokio::task::spawn_blocking;

use super::work::{Context, Finished};
use crate::error::{failed, from_disk, from_keeper, from_net, join_failed};
use crate::journal::{Entry, Journal};
use crate::{Step, admission};

pub(super) async fn run(context: Context) -> Finished {
    Finished::Prepared(prepare(&context).await)
}

async fn prepare(context: &Context) -> Result<(), HostError> {
    let shared = &context.shared;
    let started = Instant::now();
    let ready = context.or_cancelled(shared.ready()).await?;
    context.phase("image", started, |_| {});
    if context.spec.template != ready.image.template {
        let known = atoll_disk::TEMPLATES.join(", ");
        return Err(HostError::UnknownTemplate { name: context.spec.template.clone(), known });
    }
    let (spec, data) = (context.spec.clone(), shared.data.root().to_owned());
    admission::check(&data, spec.shape, shared.promised_mb(&spec.id))?;
    let started = Instant::now();
    let plan = {
        let (shared, spec, call, dir) = (shared.clone(), spec.clone(), context.call.clone(), context.dir.clone());
        let claimed = spawn_blocking(move || {
            Journal::create(&dir, &Entry::Create { call, spec: spec.clone() }).map_err(|e| failed(&e))?;
            crate::metrics::file::create(&dir).map_err(|e| failed(&e))?;
            shared.plan(&spec).map_err(from_net)
        });
        claimed.await.map_err(join_failed)??
    };
    context.phase("claim", started, |facts| Context::note_plan(facts, &plan));
    context.called_off()?;
    let started = Instant::now();
    Step::Make.before();
    let (cache, cow) = (shared.config.cache.clone(), context.dir.join("cow.raw"));
    let disk = spawn_blocking(move || atoll_disk::create_cow(&cache, &cow, spec.shape.disk_mb));
    let network = spawn_blocking(move || atoll_net::apply(&plan));
    let (instance, id, shape) = (shared.net.instance.clone(), context.spec.id.clone(), context.spec.shape);
    let groups = spawn_blocking(move || atoll_keeper::cgroup::prepare(&instance, &id, shape.vcpus, shape.memory_mb));
    let (disk, network, groups) = tokio::join!(disk, network, groups);
    disk.map_err(join_failed)?.map_err(from_disk)?;
    network.map_err(join_failed)?.map_err(from_net)?;
    groups.map_err(join_failed)?.map_err(from_keeper)?;
    Step::Make.after();
    context.phase("disk and network", started, |_| {});
    context.called_off()
}
