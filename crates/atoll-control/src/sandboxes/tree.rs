//! The file tree of a sandbox: list, look, make, move, remove.
//!
//! How it works: one call of the agent each, as root. Removing what is not there is an error here, as it is to the shell.
//!
//! Deliberately absent: watching; the agent offers it on its own wire.

use atoll_domain::record::Sandbox;
use atoll_domain::{Invalid, Principal, validate};
use atoll_guest_client::{Code, Entry, GuestClient, GuestError};

use super::exec::{DEFAULT_USER, from_file_refusal};
use crate::{Control, ControlError};

/// Deepest listing.
const MAX_DEPTH: u32 = 32;

impl Control {
    /// What is in a directory, down to `depth` levels; absent and 0 mean 1.
    ///
    /// # Errors
    /// Not running, no such directory.
    pub async fn list_files(
        &self,
        principal: &Principal,
        id: &str,
        path: &str,
        depth: Option<i64>,
    ) -> Result<Vec<Entry>, ControlError> {
        let depth = match depth {
            None | Some(0) => 1,
            Some(n) => u32::try_from(n)
                .ok()
                .filter(|n| *n <= MAX_DEPTH)
                .ok_or_else(|| Invalid::range("depth", n, 1, MAX_DEPTH.into(), "0 means 1"))?,
        };
        let (sandbox, agent) = self.tree(principal, id, path).await?;
        self.outcome(&sandbox, path, agent.list_dir(path, depth, Some(DEFAULT_USER)).await).await
    }

    /// What is at a path.
    ///
    /// # Errors
    /// Not running, nothing there.
    pub async fn stat_file(&self, principal: &Principal, id: &str, path: &str) -> Result<Entry, ControlError> {
        let (sandbox, agent) = self.tree(principal, id, path).await?;
        self.outcome(&sandbox, path, agent.stat(path, Some(DEFAULT_USER)).await).await
    }

    /// Makes a directory and its parents.
    ///
    /// # Errors
    /// Not running, something is there already.
    pub async fn make_directory(&self, principal: &Principal, id: &str, path: &str) -> Result<Entry, ControlError> {
        let (sandbox, agent) = self.tree(principal, id, path).await?;
        self.outcome(&sandbox, path, agent.make_dir(path, Some(DEFAULT_USER)).await).await
    }

    /// Moves a file or directory.
    ///
    /// # Errors
    /// Not running, nothing there, a destination that cannot be.
    pub async fn move_file(
        &self,
        principal: &Principal,
        id: &str,
        source: &str,
        destination: &str,
    ) -> Result<Entry, ControlError> {
        validate::path("source", source)?;
        validate::path("destination", destination)?;
        let (sandbox, agent) = self.tree(principal, id, source).await?;
        self.outcome(&sandbox, source, agent.mv(source, destination, Some(DEFAULT_USER)).await).await
    }

    /// Removes a file, or a directory with all that is in it.
    ///
    /// # Errors
    /// Not running, nothing there.
    pub async fn remove_file(&self, principal: &Principal, id: &str, path: &str) -> Result<(), ControlError> {
        let (sandbox, agent) = self.tree(principal, id, path).await?;
        self.outcome(&sandbox, path, remove(&agent, path).await).await
    }

    /// What every call about the tree begins with.
    async fn tree(&self, principal: &Principal, id: &str, path: &str) -> Result<(Sandbox, GuestClient), ControlError> {
        validate::path("path", path)?;
        let sandbox = self.running(principal, id).await?;
        let agent = self.agent(&sandbox).await?;
        self.used(&sandbox.id);
        Ok((sandbox, agent))
    }

    /// What the agent's answer means for the caller.
    async fn outcome<T>(
        &self,
        sandbox: &Sandbox,
        path: &str,
        answer: Result<T, GuestError>,
    ) -> Result<T, ControlError> {
        match answer.map_err(|error| from_file_refusal(error, path)) {
            Err(ControlError::Guest(error)) => Err(self.why_lost(sandbox, error).await),
            other => other,
        }
    }
}

async fn remove(agent: &GuestClient, path: &str) -> Result<(), GuestError> {
    if let Err(error) = agent.stat(path, Some(DEFAULT_USER)).await
        && (error.code() != Some(Code::NotFound) || !is_dangling_link(agent, path).await?)
    {
        return Err(error);
    }
    agent.remove(path, Some(DEFAULT_USER)).await
}

/// Whether a path that leads nowhere is a link: then its directory names it.
async fn is_dangling_link(agent: &GuestClient, path: &str) -> Result<bool, GuestError> {
    let (parent, name) = match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => (".", path),
    };
    match agent.list_dir(parent, 1, Some(DEFAULT_USER)).await {
        Ok(entries) => Ok(entries.iter().any(|entry| entry.name == name)),
        Err(error) if error.code() == Some(Code::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
