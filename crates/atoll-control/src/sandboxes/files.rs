//! Files of a sandbox, streamed in both directions.
//!
//! How it works: bytes go through as they come; nothing is held whole. The default user is root, as for commands.
//!
//! Deliberately absent: limits on a file's size other than the caller's own.

use atoll_domain::{Principal, SandboxId, validate};
use atoll_guest_client::{FileBody, FileReader, GuestClient, GuestError};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::exec::from_file_refusal;
use crate::{Control, ControlError};

const USER: &str = "root";

/// A file that is being read.
#[derive(Debug)]
pub struct FileDownload {
    reader: FileReader,
    /// Held as long as bytes flow: it is one of the sandbox's calls.
    agent: GuestClient,
    control: Control,
    sandbox: SandboxId,
}

impl FileDownload {
    /// How many bytes will come, when the agent said so.
    pub fn size(&self) -> Option<u64> {
        self.reader.size()
    }

    /// Its bytes, as they come; each piece is a use of the sandbox.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, GuestError>> + Send {
        let Self { reader, agent, control, sandbox } = self;
        reader.into_stream().inspect(move |_| {
            let _held = &agent;
            control.used(&sandbox);
        })
    }
}

impl Control {
    /// Writes a file, making its parents.
    ///
    /// # Errors
    /// Not running, a path that cannot be written, a full disk.
    pub async fn write_file(
        &self,
        principal: &Principal,
        id: &str,
        path: &str,
        body: FileBody,
    ) -> Result<(), ControlError> {
        validate::path("path", path)?;
        let sandbox = self.running(principal, id).await?;
        let agent = self.agent(&sandbox).await?;
        let in_use = self.in_use(&sandbox.id);
        let written = agent.write_file(path, Some(USER), body).await;
        drop(in_use);
        match written.map_err(|error| from_file_refusal(error, path)) {
            Ok(_) => Ok(()),
            Err(ControlError::Guest(error @ GuestError::Source(_))) => Err(ControlError::Guest(error)),
            Err(ControlError::Guest(error)) => Err(self.why_lost(&sandbox, error).await),
            Err(error) => Err(error),
        }
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Not running, no such file, a directory.
    pub async fn read_file(&self, principal: &Principal, id: &str, path: &str) -> Result<FileDownload, ControlError> {
        validate::path("path", path)?;
        let sandbox = self.running(principal, id).await?;
        let agent = self.agent(&sandbox).await?;
        self.used(&sandbox.id);
        match agent.read_file(path, Some(USER), None).await.map_err(|error| from_file_refusal(error, path)) {
            Ok(reader) => Ok(FileDownload { reader, agent, control: self.clone(), sandbox: sandbox.id }),
            Err(ControlError::Guest(error)) => Err(self.why_lost(&sandbox, error).await),
            Err(error) => Err(error),
        }
    }
}
