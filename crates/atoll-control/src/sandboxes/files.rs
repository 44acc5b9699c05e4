//! Files of a sandbox, streamed in both directions.
//!
//! How it works: bytes go through as they come; nothing is held whole. The default user is root, as for commands.
//!
//! Deliberately absent: limits on a file's size other than the caller's own.

use atoll_domain::{Principal, validate};
use atoll_guest_client::{FileBody, FileReader, GuestError};

use super::exec::from_file_refusal;
use crate::{Control, ControlError};

const USER: &str = "root";

/// A file that is being read.
#[derive(Debug)]
pub struct FileDownload {
    /// Its bytes, as they come.
    pub reader: FileReader,
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
        self.used(&sandbox.id);
        let written = agent.write_file(path, Some(USER), body).await;
        self.used(&sandbox.id);
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
            Ok(reader) => Ok(FileDownload { reader }),
            Err(ControlError::Guest(error)) => Err(self.why_lost(&sandbox, error).await),
            Err(error) => Err(error),
        }
    }
}
