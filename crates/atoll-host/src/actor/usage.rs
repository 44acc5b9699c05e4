//! What a guest says that it uses.
//!
//! How it works: every five seconds the agent is asked for memory and disk, with a short deadline; the answer stands in the next samples
//! ([`crate::metrics`]). The actor polls it beside the keeper's words, and while a template is made of the running VM.
//!
//! Deliberately absent: belief. The figures are the guest's own; and a use: this is our own poll.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use atoll_domain::SandboxId;
use atoll_domain::host::SandboxSecrets;
use tokio::time::timeout;

use super::vmm;
use crate::dial::Sockets;
use crate::metrics::{GuestUsage, Metrics};

const EVERY: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(3);

/// A future that never ends: it asks again and again.
pub(super) struct Usage(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Usage {
    /// Of nobody.
    pub(super) fn none() -> Self {
        Self(Box::pin(std::future::pending()))
    }

    pub(super) fn new(
        metrics: Arc<Metrics>,
        id: SandboxId,
        sockets: Sockets,
        secrets: Option<Arc<SandboxSecrets>>,
    ) -> Self {
        Self(Box::pin(ask(metrics, id, sockets, secrets)))
    }
}

impl Future for Usage {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

async fn ask(metrics: Arc<Metrics>, id: SandboxId, sockets: Sockets, secrets: Option<Arc<SandboxSecrets>>) {
    let agent = vmm::agent(&sockets, secrets.as_deref().map(|secrets| &secrets.token));
    loop {
        tokio::time::sleep(EVERY).await;
        let usage = match timeout(LIMIT, agent.metrics()).await {
            Ok(Ok(said)) => Some(GuestUsage { mem_bytes: said.mem_used, disk_bytes: said.disk_used }),
            // A guest that is busy or frozen: its samples are without it.
            _ => None,
        };
        metrics.note_guest(&id, usage);
    }
}
