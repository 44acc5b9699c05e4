//! A host whose sandboxes are all one guest agent, an ordinary process.
//!
//! How it works: it answers `HostDriver` from a few fields; a test makes its next call fail or wait, or its agent lie.
//!
//! Deliberately absent: VMs, and the rules of a host's life (the simulated host of atoll-testkit has them).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use atoll_control::ports::HostDriver;
use atoll_domain::SandboxId;
use atoll_domain::host::{
    Call, CreateSandbox, Destroyed, EventSeq, GuestToken, HostCapacity, HostError, HostEvent, HostSandboxState,
    MakeTemplate, PauseMode, ResumeSandbox, Room, SandboxFacts, SandboxSecrets, TemplateFacts,
};
use atoll_domain::metrics::{Joined, Point, Tier};
use atoll_domain::record::Paused;
use atoll_domain::scrub::{Damage, Scrubbed};
use atoll_domain::ttl::Limits;
use atoll_guest_client::GuestStream;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Holds a call of the host until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    reached: CancellationToken,
    opened: CancellationToken,
}

impl Gate {
    async fn pass(&self) {
        self.reached.cancel();
        self.opened.cancelled().await;
    }

    pub(crate) fn reached(&self) -> bool {
        self.reached.is_cancelled()
    }

    pub(crate) fn open(&self) {
        self.opened.cancel();
    }
}

/// What a lying agent says on every connection.
#[derive(Clone, Default)]
pub(crate) struct Lie {
    pub(crate) begin: Vec<u8>,
    /// Again and again, if there is something.
    pub(crate) forever: Vec<u8>,
    /// Then it neither speaks nor closes.
    pub(crate) silent: bool,
}

impl Lie {
    fn stream(self) -> GuestStream {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            // An answer before its request is not taken for one; errors mean that the client has closed.
            let _ = theirs.read(&mut [0; 512]).await;
            let (mut read, mut write) = tokio::io::split(theirs);
            let hear = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
            let mut open = write.write_all(&self.begin).await.is_ok();
            while open && !self.forever.is_empty() {
                open = write.write_all(&self.forever).await.is_ok();
            }
            if self.silent {
                let _ = hear.await;
            } else {
                let _ = write.shutdown().await;
            }
        });
        Box::new(ours)
    }
}

const OLD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"version\":\"0.6.2\",\"protocol\":1}";

/// A stream whose answer is lost if it is that of a start, and an older agent's if it is about that.
fn between(mut agent: TcpStream, lose_start: Arc<AtomicBool>, is_old: bool) -> GuestStream {
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let mut first = vec![0; 64 * 1024];
        let length = theirs.read(&mut first).await.unwrap_or(0);
        first.truncate(length);
        let is_start = first.windows(21).any(|part| part == b"process.Process/Start");
        if is_old && first.starts_with(b"GET /health") {
            let _ = theirs.write_all(OLD.as_bytes()).await;
            return;
        }
        if agent.write_all(&first).await.is_err() {
            return;
        }
        if !is_start || !lose_start.load(Ordering::Relaxed) {
            let _ = tokio::io::copy_bidirectional(&mut agent, &mut theirs).await;
            return;
        }
        lose_start.store(false, Ordering::Relaxed);
        let (mut from_agent, mut to_agent) = agent.split();
        let (mut from_client, _to_client) = tokio::io::split(theirs);
        let rest = async move { tokio::io::copy(&mut from_client, &mut to_agent).await };
        let answered = async move { from_agent.read(&mut [0; 1]).await };
        // It has begun to answer, so the process runs.
        tokio::select! {
            _ = answered => {}
            Err(_) = rest => {}
        }
    });
    Box::new(ours)
}

/// A host whose sandboxes are all the same agent.
pub(crate) struct AgentHost {
    address: String,
    /// What the next call about a sandbox's life fails with.
    pub(crate) fault: Mutex<Option<HostError>>,
    /// Those that are paused.
    paused: Mutex<BTreeMap<SandboxId, SandboxFacts>>,
    /// What the next create waits at.
    pub(crate) gate: Mutex<Option<Gate>>,
    /// What the next connection to the agent waits at.
    pub(crate) stream_gate: Mutex<Option<Gate>>,
    /// What the agent says instead of its answers.
    pub(crate) lie: Mutex<Option<Lie>>,
    /// The next start of a process is carried out, and its answer is lost.
    pub(crate) lose_start: Arc<AtomicBool>,
    /// The agent says that it is one from before operations.
    pub(crate) is_old: AtomicBool,
    /// What a scrub finds.
    pub(crate) damaged: Mutex<Vec<Damage>>,
    /// The id of the template that was made last.
    pub(crate) template: Mutex<String>,
    /// What is left of its machine.
    pub(crate) room: Mutex<Room>,
    /// Kept open, so that the stream of events does not end.
    events: Mutex<Vec<mpsc::Sender<HostEvent>>>,
}

impl AgentHost {
    /// One whose agent listens there.
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            fault: Mutex::default(),
            paused: Mutex::default(),
            gate: Mutex::default(),
            stream_gate: Mutex::default(),
            lie: Mutex::default(),
            lose_start: Arc::default(),
            is_old: AtomicBool::default(),
            damaged: Mutex::default(),
            template: Mutex::default(),
            room: Mutex::new(atoll_testkit::ids::capacity().room),
            events: Mutex::default(),
        }
    }

    fn fault(&self) -> Result<(), HostError> {
        self.fault.lock().unwrap().take().map_or(Ok(()), Err)
    }
}

fn facts(id: SandboxId) -> SandboxFacts {
    SandboxFacts {
        id,
        incarnation: atoll_domain::Incarnation::FIRST,
        state: HostSandboxState::Running,
        directory: "/data/sandboxes/one".into(),
        keeper_pid: Some(11),
        vmm_pid: Some(12),
        netns: Some("atoll-one".into()),
        interface: Some("at-one".into()),
        host_ip: Some("10.11.0.2".into()),
        guest_ip: Some("169.254.0.21".into()),
        uid: Some(70_000),
        paused: None,
        limits: Limits::default(),
        phases: Vec::new(),
    }
}

impl HostDriver for AgentHost {
    fn create(&self, _: Call, request: CreateSandbox) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        Box::pin(async move {
            let gate = self.gate.lock().unwrap().take();
            if let Some(gate) = gate {
                gate.pass().await;
            }
            self.fault().map(|()| facts(request.spec.id))
        })
    }

    fn pause(&self, call: Call, id: SandboxId, mode: PauseMode) -> BoxFuture<'_, Result<Paused, HostError>> {
        Box::pin(async move {
            self.fault()?;
            let generation = (mode == PauseMode::Memory).then(|| "g".to_owned());
            let paused =
                Paused { at: 1_700_000_000_000_000, generation, quiesced: true, bytes: 4096, memory_lost: false };
            let paused_facts = SandboxFacts {
                incarnation: call.incarnation,
                state: HostSandboxState::Paused,
                paused: Some(paused.clone()),
                ..facts(id.clone())
            };
            self.paused.lock().unwrap().insert(id, paused_facts);
            Ok(paused)
        })
    }

    fn resume(&self, call: Call, id: SandboxId, _: ResumeSandbox) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        Box::pin(async move {
            self.fault()?;
            self.paused.lock().unwrap().remove(&id);
            Ok(SandboxFacts { incarnation: call.incarnation, ..facts(id) })
        })
    }

    fn make_template(
        &self,
        _: Call,
        _: SandboxId,
        request: MakeTemplate,
    ) -> BoxFuture<'_, Result<TemplateFacts, HostError>> {
        Box::pin(async move {
            self.fault()?;
            self.template.lock().unwrap().clone_from(&request.template);
            let shape = atoll_domain::Shape { vcpus: 1, memory_mb: 512, disk_mb: 5120 };
            Ok(TemplateFacts { template: request.template, shape, bytes: 8192, stood_still_micros: 1500 })
        })
    }

    fn drop_template(&self, _: String) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async { self.fault() })
    }

    fn templates(&self) -> BoxFuture<'_, Result<Vec<String>, HostError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn set_lifetime(&self, _: SandboxId, _: Limits) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async { self.fault() })
    }

    fn touch(&self, _: Vec<SandboxId>) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async { Ok(()) })
    }

    fn destroy(&self, _: Call, _: SandboxId) -> BoxFuture<'_, Result<Destroyed, HostError>> {
        Box::pin(async move { self.fault().map(|()| Destroyed::Done) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxFacts>, HostError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn inspect(&self, id: SandboxId) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        Box::pin(async move { Ok(self.paused.lock().unwrap().get(&id).cloned().unwrap_or_else(|| facts(id))) })
    }

    fn secrets(&self, _: SandboxId) -> BoxFuture<'_, Result<SandboxSecrets, HostError>> {
        Box::pin(async { Ok(SandboxSecrets { token: GuestToken::from_random([1; 32]), envs: BTreeMap::new() }) })
    }

    fn console(&self, _: SandboxId) -> BoxFuture<'_, Result<Vec<u8>, HostError>> {
        Box::pin(async { Ok(b"[    0.1] kernel\r\natoll: agent listens\r\n\xff\x1b[2J\r\n".to_vec()) })
    }

    fn metrics(&self, _: SandboxId, _: Tier) -> BoxFuture<'_, Result<Vec<Point>, HostError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn flush_metrics(&self, _: SandboxId) -> BoxFuture<'_, Result<Vec<Joined>, HostError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn watch(&self, _: EventSeq) -> BoxFuture<'_, Result<mpsc::Receiver<HostEvent>, HostError>> {
        let (send, receive) = mpsc::channel(1);
        self.events.lock().unwrap().push(send);
        Box::pin(async { Ok(receive) })
    }

    fn latest_event(&self) -> BoxFuture<'_, Result<EventSeq, HostError>> {
        Box::pin(async { Ok(EventSeq(0)) })
    }

    fn acknowledge(&self, _: EventSeq) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async { Ok(()) })
    }

    fn scrub(&self) -> BoxFuture<'_, Result<Scrubbed, HostError>> {
        Box::pin(async {
            self.fault()?;
            Ok(Scrubbed { files: 12, bytes: 34_567, damaged: self.damaged.lock().unwrap().clone() })
        })
    }

    fn open_stream(&self, _: SandboxId, _: u16) -> BoxFuture<'_, Result<GuestStream, HostError>> {
        let address = self.address.clone();
        if let Some(lie) = self.lie.lock().unwrap().clone() {
            return Box::pin(async { Ok(lie.stream()) });
        }
        let gate = self.stream_gate.lock().unwrap().take();
        let lose_start = Arc::clone(&self.lose_start);
        let is_old = self.is_old.load(Ordering::Relaxed);
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.pass().await;
            }
            let stream = TcpStream::connect(address).await.map_err(|e| HostError::Unavailable(e.to_string()))?;
            if is_old || lose_start.load(Ordering::Relaxed) {
                return Ok(between(stream, lose_start, is_old));
            }
            Ok(Box::new(stream) as GuestStream)
        })
    }

    fn capacity(&self) -> BoxFuture<'_, Result<HostCapacity, HostError>> {
        let room = *self.room.lock().unwrap();
        Box::pin(async move { Ok(HostCapacity { room, ..atoll_testkit::ids::capacity() }) })
    }
}
