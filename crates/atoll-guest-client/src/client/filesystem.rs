//! Calls about the file tree: looking at it, changing it, watching it.
//!
//! How it works: Connect calls of `filesystem.Filesystem`, each with the user in `Authorization: Basic`; watching is a
//! stream or a watcher that is polled.
//!
//! Deliberately absent: contents.

use atoll_proto::filesystem as fs;

use super::GuestClient;
use crate::{Change, Entry, GuestError, WatchStream, Watcher};

impl GuestClient {
    /// What is at a path; of a symbolic link, what it leads to.
    pub async fn stat(&self, path: &str, user: Option<&str>) -> Result<Entry, GuestError> {
        let message = fs::StatRequest { path: path.to_owned(), ..Default::default() };
        let answer: fs::StatResponse = self.call("/filesystem.Filesystem/Stat", user, &message).await?;
        entry(answer.entry.into_option())
    }

    /// What is in a directory, down to `depth` levels.
    pub async fn list_dir(&self, path: &str, depth: u32, user: Option<&str>) -> Result<Vec<Entry>, GuestError> {
        let message = fs::ListDirRequest { path: path.to_owned(), depth, ..Default::default() };
        let answer: fs::ListDirResponse = self.call("/filesystem.Filesystem/ListDir", user, &message).await?;
        Ok(answer.entries.into_iter().map(Entry::from_wire).collect())
    }

    /// Makes a directory and its parents. `AlreadyExists` when it is there.
    pub async fn make_dir(&self, path: &str, user: Option<&str>) -> Result<Entry, GuestError> {
        let message = fs::MakeDirRequest { path: path.to_owned(), ..Default::default() };
        let answer: fs::MakeDirResponse = self.call("/filesystem.Filesystem/MakeDir", user, &message).await?;
        entry(answer.entry.into_option())
    }

    /// Moves a file or directory.
    pub async fn mv(&self, source: &str, destination: &str, user: Option<&str>) -> Result<Entry, GuestError> {
        let message =
            fs::MoveRequest { source: source.to_owned(), destination: destination.to_owned(), ..Default::default() };
        let answer: fs::MoveResponse = self.call("/filesystem.Filesystem/Move", user, &message).await?;
        entry(answer.entry.into_option())
    }

    /// Removes a file or a whole directory. What is not there is no error.
    pub async fn remove(&self, path: &str, user: Option<&str>) -> Result<(), GuestError> {
        let message = fs::RemoveRequest { path: path.to_owned(), ..Default::default() };
        self.call::<fs::RemoveResponse>("/filesystem.Filesystem/Remove", user, &message).await.map(drop)
    }

    /// Watches a directory, and if `recursive` everything below it, as a stream.
    pub async fn watch_dir(&self, path: &str, recursive: bool, user: Option<&str>) -> Result<WatchStream, GuestError> {
        let message = fs::WatchDirRequest { path: path.to_owned(), recursive, ..Default::default() };
        let request = self.stream_request("/filesystem.Filesystem/WatchDir", user);
        let envelopes = self.open(request, &message).await?;
        Ok(WatchStream::new(envelopes, self.limits.clone()))
    }

    /// Watches a directory for somebody who polls. It lasts until [`Self::remove_watcher`].
    pub async fn create_watcher(&self, path: &str, recursive: bool, user: Option<&str>) -> Result<Watcher, GuestError> {
        let message = fs::CreateWatcherRequest { path: path.to_owned(), recursive, ..Default::default() };
        let answer: fs::CreateWatcherResponse =
            self.call("/filesystem.Filesystem/CreateWatcher", user, &message).await?;
        Ok(Watcher(answer.watcher_id))
    }

    /// What a watcher has seen since it was last asked.
    pub async fn watcher_events(&self, watcher: &Watcher) -> Result<Vec<Change>, GuestError> {
        let message = fs::GetWatcherEventsRequest { watcher_id: watcher.0.clone(), ..Default::default() };
        let answer: fs::GetWatcherEventsResponse =
            self.call("/filesystem.Filesystem/GetWatcherEvents", None, &message).await?;
        Ok(answer.events.into_iter().filter_map(Change::from_wire).collect())
    }

    /// Ends a watcher.
    pub async fn remove_watcher(&self, watcher: &Watcher) -> Result<(), GuestError> {
        let message = fs::RemoveWatcherRequest { watcher_id: watcher.0.clone(), ..Default::default() };
        self.call::<fs::RemoveWatcherResponse>("/filesystem.Filesystem/RemoveWatcher", None, &message).await.map(drop)
    }
}

fn entry(entry: Option<fs::EntryInfo>) -> Result<Entry, GuestError> {
    entry.map(Entry::from_wire).ok_or_else(|| GuestError::protocol("an answer without its entry"))
}
