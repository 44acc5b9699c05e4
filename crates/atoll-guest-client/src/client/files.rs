//! Calls that move the contents of files.
//!
//! How it works: plain HTTP on `/files`: the path and the user in the query, the content as the body, piece by piece.
//!
//! Deliberately absent: forms and packed bodies; the agent takes both, this side has no use for them.

use http::{Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{GuestClient, finish, full};
use crate::{
    FileBody, FileReader, GuestError, ReadRange, WrittenFile, connect,
    http1::{Deadlines, exchange_within},
};

impl GuestClient {
    /// Reads a file, or a part of it, as `user` (`None`: the agent's default).
    pub async fn read_file(
        &self,
        path: &str,
        user: Option<&str>,
        range: Option<ReadRange>,
    ) -> Result<FileReader, GuestError> {
        let mut request = self.request(Method::GET, &files_target(path, user), None);
        if let Some(range) = range {
            let last = range.last.map(|last| last.to_string()).unwrap_or_default();
            request = request.header(header::RANGE, format!("bytes={}-{last}", range.start));
        }
        let mut exchange = self.send(request, full(Vec::new())).await?;
        connect::expect_ok(&mut exchange, &self.limits).await?;
        Ok(FileReader::new(exchange, self.limits.clone()))
    }

    /// Writes a file as `user` (`None`: the agent's default), making its parents.
    pub async fn write_file(&self, path: &str, user: Option<&str>, body: FileBody) -> Result<WrittenFile, GuestError> {
        let request = self
            .request(Method::POST, &files_target(path, user), None)
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let request = finish(request, body.0)?;
        let deadlines = Deadlines { silence: self.limits.idle, whole: Some(self.limits.transfer) };
        let exchange = exchange_within(&*self.dial, &self.limits, request, deadlines).await?;
        let written: Vec<WrittenFile> = self.json_of(exchange).await?;
        written.into_iter().next().ok_or_else(|| GuestError::protocol("an answer to a write that names no file"))
    }
}

fn files_target(path: &str, user: Option<&str>) -> String {
    let path = utf8_percent_encode(path, NON_ALPHANUMERIC);
    match user {
        None => format!("/files?path={path}"),
        Some(user) => format!("/files?path={path}&username={}", utf8_percent_encode(user, NON_ALPHANUMERIC)),
    }
}
