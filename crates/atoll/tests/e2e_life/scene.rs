//! A host agent, and sandboxes with programs in them.
//!
//! How it works: the agent runs in this process, on a directory that goes with the scene, and can be ended and begun again on it; what
//! there is on the disk is read from the disk.
//!
//! Deliberately absent: a control plane. A test asks the host itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_control::ports::HostDriver as _;
use atoll_domain::golden::GoldenShape;
use atoll_domain::host::{Call, CreateSandbox, HostError, MakeTemplate, PauseMode, ResumeSandbox, SandboxFacts};
use atoll_domain::record::Paused;
use atoll_domain::{Incarnation, InstanceId, Network, SandboxId};
use atoll_guest_client::{AGENT_PORT, AccessToken, Dial, DialFuture, GuestClient, ProcessEvent, StartRequest};
use atoll_host::{DataDir, HostAgent, HostConfig, OnExit};
use atoll_testkit::ids;

use crate::driver::InProcess;
use crate::embedded;
use crate::host_config::host_config;

/// What goldens may take, in MiB: more than those of a test need.
pub(crate) const GOLDEN_BUDGET_MB: u64 = 2048;

/// The guest agent under another digest: what follows an ELF file is not of it.
pub(crate) fn another_agent() -> &'static [u8] {
    Vec::leak([embedded::GUEST, b"another"].concat())
}

/// A data directory, and the host agent that runs on it.
pub(crate) struct Scene {
    dir: Option<tempfile::TempDir>,
    pub(crate) host: InProcess,
    instance: InstanceId,
}

async fn agent(root: &Path, goldens: &str, golden_budget_mb: u64, guest: &'static [u8]) -> (HostAgent, InstanceId) {
    let (data, lock) = DataDir::open(root).unwrap();
    let instance = data.instance().unwrap();
    let golden_shapes = goldens.split(',').filter(|s| !s.is_empty()).map(|s| GoldenShape::parse(s).unwrap()).collect();
    let config = HostConfig { guest, golden_shapes, golden_budget_mb, ..host_config(root) };
    (HostAgent::start(config, data, lock).await.unwrap(), instance)
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with_goldens("").await
    }

    pub(crate) async fn with_goldens(goldens: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-life-").tempdir().unwrap();
        let (agent, instance) = agent(&dir.path().join("data"), goldens, GOLDEN_BUDGET_MB, embedded::GUEST).await;
        Self { dir: Some(dir), host: InProcess(agent), instance }
    }

    /// Stops the host agent in an orderly way and starts another, with this guest agent and these goldens in so many MiB. Sandboxes made
    /// before must be dropped or given the new one: whoever holds the old agent holds the directory's lock.
    pub(crate) async fn restart_with(
        mut self,
        on_exit: OnExit,
        goldens: &str,
        budget_mb: u64,
        guest: &'static [u8],
    ) -> Self {
        self.host.0.shutdown(on_exit).await;
        let dir = std::mem::take(&mut self.dir);
        let dir = dir.expect("it is there until the scene ends");
        drop(self);
        let (agent, instance) = agent(&dir.path().join("data"), goldens, budget_mb, guest).await;
        Self { dir: Some(dir), host: InProcess(agent), instance }
    }

    /// Ends everything and looks for what is left.
    pub(crate) async fn end(self) {
        self.host.0.shutdown(OnExit::Destroy).await;
        let left = atoll_host::remains(&self.instance, &self.root(), &[]);
        assert!(left.is_empty(), "{left:#?}");
    }

    /// A sandbox that runs.
    pub(crate) async fn create(&self, change: impl FnOnce(&mut CreateSandbox)) -> Sandbox {
        let id = ids::sandbox();
        let mut request = ids::request(&id);
        request.spec.network = Network::None;
        change(&mut request);
        self.host.create(ids::call(Incarnation::FIRST), request.clone()).await.unwrap();
        Sandbox { host: self.host.clone(), id, life: Incarnation::FIRST, request }
    }

    /// Objects on the disk.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root().join("objects")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }

    /// A sandbox's directory.
    pub(crate) fn directory(&self, id: &SandboxId) -> PathBuf {
        self.root().join("sandboxes").join(id.as_str())
    }

    /// Goldens that are kept, by name with their directories: as the journal of objects says.
    pub(crate) fn goldens(&self) -> BTreeMap<String, PathBuf> {
        let objects = self.root().join("objects");
        let text = std::fs::read_to_string(objects.join("journal")).unwrap();
        let mut held = BTreeMap::new();
        // A last line without an end is being written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            if line["holder"]["kind"] != "golden" {
                continue;
            }
            let name = line["holder"]["name"].as_str().unwrap().to_owned();
            match line["step"].as_str() {
                Some("made" | "held") => drop(held.insert(name, objects.join(line["object"].as_str().unwrap()))),
                Some("dropped") => drop(held.remove(&name)),
                _ => {}
            }
        }
        held
    }

    /// Bytes that all objects and sandboxes take on the disk.
    pub(crate) fn allocated(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        fn of(path: &Path) -> u64 {
            // What is replaced at this moment is gone by one of its names.
            let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
            let inner = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| of(&entry.path()));
            meta.blocks() * 512 + inner.sum::<u64>()
        }
        of(&self.root().join("objects")) + of(&self.root().join("sandboxes"))
    }

    /// Directories of sandboxes, a golden's boot among them.
    pub(crate) fn sandboxes(&self) -> usize {
        std::fs::read_dir(self.root().join("sandboxes")).unwrap().count()
    }

    /// The same sandbox, held by this scene's agent after a restart.
    pub(crate) fn again(&self, id: SandboxId, life: Incarnation, request: CreateSandbox) -> Sandbox {
        Sandbox { host: self.host.clone(), id, life, request }
    }

    /// The data directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.as_ref().map(|dir| dir.path().join("data")).unwrap_or_default()
    }
}

impl Drop for Scene {
    /// A test that failed leaves no VM behind; what else is left of it tells what happened.
    fn drop(&mut self) {
        if !std::thread::panicking() || self.dir.is_none() {
            return;
        }
        let root = self.root().display().to_string();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let name = process.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|_| String::from_utf8_lossy(&line).contains(&root)) {
                // Gone meanwhile is what is wanted.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

/// A sandbox of a test.
pub(crate) struct Sandbox {
    pub(crate) host: InProcess,
    pub(crate) id: SandboxId,
    pub(crate) life: Incarnation,
    pub(crate) request: CreateSandbox,
}

#[derive(Debug)]
struct HostDial {
    host: InProcess,
    id: SandboxId,
}

impl Dial for HostDial {
    fn dial(&self) -> DialFuture<'_> {
        Box::pin(async move { self.host.open_stream(self.id.clone(), AGENT_PORT).await.map_err(std::io::Error::other) })
    }
}

impl Sandbox {
    pub(crate) fn call(&self) -> Call {
        ids::call(self.life)
    }

    pub(crate) fn guest(&self) -> GuestClient {
        self.guest_with(AccessToken::new(self.request.secrets.token.expose()))
    }

    /// Its agent, asked with a token that may be another's.
    pub(crate) fn guest_with(&self, token: AccessToken) -> GuestClient {
        let dial = HostDial { host: self.host.clone(), id: self.id.clone() };
        GuestClient::new(Arc::new(dial), Some(token))
    }

    /// What a command printed; it must end well.
    pub(crate) async fn sh(&self, command: &str) -> String {
        let start = StartRequest {
            cmd: "sh".into(),
            args: vec!["-c".into(), command.into()],
            timeout: Some(Duration::from_secs(60)),
            ..StartRequest::default()
        };
        let mut stream = self.guest().start(&start).await.unwrap();
        let mut out = Vec::new();
        while let Some(event) = stream.next().await.unwrap() {
            match event {
                ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) => out.extend_from_slice(&bytes),
                ProcessEvent::Ended { exit_code, .. } => {
                    let text = String::from_utf8_lossy(&out).trim().to_owned();
                    assert_eq!(exit_code, 0, "{command}: {text}");
                    return text;
                }
                _ => {}
            }
        }
        panic!("{command}: the stream ended without an end");
    }

    pub(crate) async fn pause(&self, mode: PauseMode) -> Paused {
        self.host.pause(self.call(), self.id.clone(), mode).await.unwrap()
    }

    /// Pauses it with its user code standing still; an agent that a loaded machine keeps from answering is asked again in another life.
    pub(crate) async fn pause_quiesced(&mut self) {
        for _ in 0..20 {
            if self.pause(PauseMode::Memory).await.quiesced {
                return;
            }
            self.resume(PauseMode::Memory).await;
        }
        panic!("its agent never answered in time");
    }

    pub(crate) fn resume_request(&self, mode: PauseMode) -> ResumeSandbox {
        ResumeSandbox { mode, secrets: self.request.secrets.clone() }
    }

    pub(crate) async fn resume(&mut self, mode: PauseMode) -> SandboxFacts {
        self.life = Incarnation(self.life.0 + 1);
        self.host.resume(self.call(), self.id.clone(), self.resume_request(mode)).await.unwrap()
    }

    pub(crate) async fn template(&self, name: &str) -> atoll_domain::host::TemplateFacts {
        let request = MakeTemplate { template: name.into() };
        // On a machine under load its agent may not answer in time, and then the sandbox is as it was.
        let made = || async {
            match self.host.make_template(self.call(), self.id.clone(), request.clone()).await {
                Err(HostError::AgentBusy) => None,
                made => Some(made.unwrap()),
            }
        };
        atoll_testkit::eventually("a template", made).await
    }
}
