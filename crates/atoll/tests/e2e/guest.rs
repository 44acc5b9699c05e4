//! A sandbox of a test, and short words for what tests do with it.
//!
//! How it works: [`Guest`] is made over the API and is destroyed by [`Guest::end`]; one that a failing test leaves goes with its server.
//!
//! Deliberately absent: hiding statuses. What must fail is asked through the client itself.

use std::sync::Arc;

use atoll_api::{CreateSandboxRequest, ExecRequest, ExecResponse, Sandbox};
use atoll_client::{Client, ClientError};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::server::{Server, shared};

/// Seconds that a command may take on a machine under load.
pub(crate) const PATIENCE: i64 = 120;

/// A running sandbox.
pub(crate) struct Guest {
    pub(crate) server: Arc<Server>,
    pub(crate) client: Client,
    pub(crate) sandbox: Sandbox,
}

/// The smallest sandbox that carries Python.
pub(crate) fn small() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(256), disk_mb: Some(512), ..Default::default() }
}

/// A request that runs a program.
pub(crate) fn program(command: &[&str]) -> ExecRequest {
    ExecRequest {
        cmd: command[0].to_owned(),
        args: command[1..].iter().map(|arg| (*arg).to_owned()).collect(),
        timeout_sec: Some(PATIENCE),
        ..Default::default()
    }
}

impl Guest {
    /// A small one on the shared server.
    pub(crate) async fn new() -> Self {
        Self::on(shared(), &small()).await
    }

    pub(crate) async fn on(server: Arc<Server>, request: &CreateSandboxRequest) -> Self {
        let client = server.client();
        Self::with(server, client, request).await
    }

    pub(crate) async fn with(server: Arc<Server>, client: Client, request: &CreateSandboxRequest) -> Self {
        let sandbox = client.create(request).await;
        let sandbox = sandbox.unwrap_or_else(|error| panic!("create: {error:?}\n{}", server.log()));
        server.note(&sandbox.id);
        Self { server, client, sandbox }
    }

    pub(crate) fn id(&self) -> &str {
        &self.sandbox.id
    }

    pub(crate) async fn try_exec(&self, request: &ExecRequest) -> Result<ExecResponse, ClientError> {
        self.client.exec(self.id(), request).await
    }

    pub(crate) async fn exec(&self, command: &[&str]) -> ExecResponse {
        self.try_exec(&program(command)).await.unwrap_or_else(|error| panic!("{command:?}: {error:?}"))
    }

    /// What a shell line prints; it must end well.
    pub(crate) async fn sh(&self, line: &str) -> String {
        let done = self.exec(&["bash", "-c", line]).await;
        assert_eq!(done.exit_code, 0, "{line}: {}{}", done.stdout, done.stderr);
        done.stdout.trim_end().to_owned()
    }

    /// What a Python program prints; it must end well.
    pub(crate) async fn python(&self, program: &str) -> String {
        let done = self.exec(&["python3", "-c", program]).await;
        assert_eq!(done.exit_code, 0, "{program}: {}{}", done.stdout, done.stderr);
        done.stdout.trim_end().to_owned()
    }

    pub(crate) async fn write(&self, path: &str, bytes: &[u8]) -> Result<(), ClientError> {
        let body = futures_util::stream::iter([Ok(Bytes::copy_from_slice(bytes))]);
        self.client.write_file(self.id(), path, body).await
    }

    pub(crate) async fn read(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let download = self.client.read_file(self.id(), path).await?;
        download.map(|chunk| chunk.map(|chunk| chunk.to_vec())).try_concat().await
    }

    pub(crate) async fn end(self) {
        self.client.destroy(self.id()).await.unwrap();
    }
}
