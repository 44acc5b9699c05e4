//! A real guest under a real keeper.

use std::fs::{self, File};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_disk::Silent;
use atoll_guest_client::{
    AGENT_PORT, AccessToken, Dial, GuestClient, GuestStream, InitRequest, ProcessEvent, StartRequest, dial_fn,
};
use atoll_keeper::client::{Connected, KeeperClient};
use atoll_keeper::spec::{Memory, Start};
use tokio::net::TcpSocket;

use crate::scene::{self, PATIENCE, Scene};

pub(crate) const MEMORY_MB: u32 = 256;
pub(crate) const DISK_MB: u32 = 256;

/// A guest that runs, and its keeper.
pub(crate) struct Guest {
    pub(crate) keeper: Child,
    pub(crate) client: KeeperClient,
    pub(crate) connected: Connected,
    pub(crate) agent: GuestClient,
}

/// Kernel, initramfs, base image and an empty disk.
pub(crate) fn prepare(scene: &Scene) -> Start {
    let cache = scene::cache();
    let kernel = atoll_disk::ensure_kernel(&cache, &Silent).unwrap();
    let agent = fs::read(scene::guest_program()).unwrap();
    let initrd = atoll_disk::ensure_initramfs(&cache, &kernel, &agent).unwrap();
    let image = atoll_disk::ensure_template(&cache, "base", &Silent).unwrap();
    std::os::unix::fs::symlink(image.path, scene.path("base.raw")).unwrap();
    atoll_disk::create_cow(&cache, &scene.path("cow.raw"), DISK_MB).unwrap();
    Start::Cold { kernel: kernel.vmlinux, initrd, cmdline: String::new() }
}

fn dial(keeper: KeeperClient) -> Arc<dyn Dial> {
    dial_fn(move || {
        let keeper = keeper.clone();
        async move {
            let mut sockets = keeper.streams(1).await.map_err(std::io::Error::other)?;
            let socket = std::net::TcpStream::from(sockets.remove(0));
            let connecting = TcpSocket::from_std_stream(socket).connect(([172, 16, 0, 2], AGENT_PORT).into());
            let limit = Duration::from_millis(500);
            let stream = tokio::time::timeout(limit, connecting).await.map_err(std::io::Error::other)??;
            Ok(Box::new(stream) as GuestStream)
        }
    })
}

impl Guest {
    /// Starts a keeper with this memory and beginning, and claims it.
    pub(crate) async fn start(
        scene: &Scene,
        memory: Memory,
        start: Start,
        shared: Option<File>,
        claim: u64,
    ) -> (Child, Connected) {
        let tree = atoll_keeper::tree::ensure(scene::cache().root()).unwrap();
        let mut spec = scene.spec(tree, MEMORY_MB, memory, start);
        spec.machine.cow_limit = u64::from(DISK_MB) << 21;
        let mut keeper = scene.start(&spec, shared);
        let connected = scene.claim(&mut keeper, claim).await;
        (keeper, connected)
    }

    /// Waits for the agent of a machine that runs, and tells it who it is.
    pub(crate) async fn reach(keeper: Child, connected: Connected, token: Option<&str>) -> Self {
        let client = connected.client.clone();
        let agent = GuestClient::new(dial(client.clone()), token.map(AccessToken::new));
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = agent.health().await {
            let state = client.state().await.unwrap();
            let console = client.console(0).await.unwrap().1;
            let console = String::from_utf8_lossy(&console).into_owned();
            assert_eq!(state.exited, None, "{}\n{console}", state.vmm_log);
            assert!(Instant::now() < deadline, "no agent: {error}\n{}\n{console}", state.run_state);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        agent.init(&InitRequest { access_token: Some(TOKEN.into()), ..InitRequest::default() }).await.unwrap();
        let agent = agent.with_token(Some(AccessToken::new(TOKEN)));
        Self { keeper, client, connected, agent }
    }

    /// What a shell command prints.
    pub(crate) async fn sh(&self, script: &str) -> String {
        let start = StartRequest {
            cmd: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            user: Some("root".into()),
            ..StartRequest::default()
        };
        let mut stream = self.agent.start(&start).await.unwrap();
        let mut out = Vec::new();
        while let Some(event) = stream.next().await.unwrap() {
            if let ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) = event {
                out.extend(bytes);
            }
        }
        String::from_utf8(out).unwrap().trim().to_owned()
    }

    /// Ends the keeper, and the VM with it.
    pub(crate) fn end(mut self, scene: &Scene) {
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
        scene.wait_until_empty();
    }
}

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
