//! Files of a sandbox.
//!
//! How it works: bytes are streamed in both directions and never held whole.
//!
//! Deliberately absent: folders (the command line packs them).

use std::pin::Pin;
use std::time::Duration;

use atoll_api::{EntryResponse, FileEntry, PathRequest, ReadFileRequest};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use reqwest::Method;
use reqwest::multipart::{Form, Part};

use crate::client::QUICK;
use crate::{Client, ClientError};

/// A transfer takes as long as its bytes do; this only ends one that is forgotten.
const TRANSFER_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A file's bytes as they come.
pub type Download = Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>>;

impl Client {
    /// What is at a path.
    ///
    /// # Errors
    /// Not running, nothing there.
    pub async fn stat(&self, id: &str, path: &str) -> Result<FileEntry, ClientError> {
        let request = PathRequest { path: path.to_owned() };
        let answer: EntryResponse = self.post(&["sandboxes", id, "files", "stat"], &request, QUICK).await?;
        Ok(answer.entry)
    }

    /// Writes a file, making its parents.
    ///
    /// # Errors
    /// Not running, a path that cannot be written, a full disk.
    pub async fn write_file(
        &self,
        id: &str,
        path: &str,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), ClientError> {
        let part = Part::stream(reqwest::Body::wrap_stream(body)).file_name("file");
        let form = Form::new().text("path", path.to_owned()).part("file", part);
        let request = self.request(Method::POST, &["sandboxes", id, "files", "stream", "write"], TRANSFER_LIMIT);
        self.send(request.multipart(form)).await.map(drop)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Not running, no such file, a directory.
    pub async fn read_file(&self, id: &str, path: &str) -> Result<Download, ClientError> {
        let request = self.request(Method::POST, &["sandboxes", id, "files", "stream", "read"], TRANSFER_LIMIT);
        let response = self.send(request.json(&ReadFileRequest { path: path.to_owned() })).await?;
        let client = self.clone();
        Ok(Box::pin(response.bytes_stream().map(move |chunk| chunk.map_err(|error| client.why(error)))))
    }
}
