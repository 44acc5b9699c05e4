//! `atoll cp`: files and folders, both ways.
//!
//! How it works: one side is `ID:PATH`. A file goes through the API's own file routes; what is downloaded gets its name only when it is
//! whole. A folder goes as an archive through the sandbox's `tar`, in one stream; what comes out of a sandbox is written beneath the
//! target and nowhere else ([`crate::archive`]). `-` is standard input or output. A target that is a directory takes the source
//! under its own name. A bar on a terminal, nothing otherwise.
//!
//! Deliberately absent: owners (everything belongs to whoever asked), and copying from one sandbox to another.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use atoll_api::{ErrorCode, ExecRequest, FileKind, StreamStart};
use atoll_client::{Client, ExecEvent, ExecStream, INPUT};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use crate::archive::{Piece, Unpack, pack};
use crate::args::{CopyArgs, Global};
use crate::failure::{Refusal, refused};
use crate::terminal::Input;
use crate::{connect, output};

/// Pieces that are read ahead.
const AHEAD: usize = 8;
/// Most of what `tar` in the sandbox says that is kept.
const COMPLAINT: usize = 2000;
/// How long a `tar` that nobody reads has to end.
const END: Duration = Duration::from_secs(3);

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    Standard,
    Here(PathBuf),
    There { sandbox: String, path: String },
}

impl Side {
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Standard;
        }
        match text.split_once(':') {
            // A path with a colon is told apart by a slash before it: `./a:b`.
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains('/') => {
                Self::There { sandbox: sandbox.to_owned(), path: path.to_owned() }
            }
            _ => Self::Here(PathBuf::from(text)),
        }
    }
}

/// Copies a file or folder into a sandbox or out of it.
pub(crate) async fn copy(client: &Client, global: &Global, args: &CopyArgs) -> Result<()> {
    let bar = bar(global.quiet);
    let done = match (Side::parse(&args.source), Side::parse(&args.target)) {
        (Side::There { .. }, Side::There { .. }) => {
            return Err(Refusal::Usage("one side is in a sandbox, the other is here".into()).into());
        }
        (Side::There { sandbox, path }, target) => {
            let id = connect::resolve(client, &sandbox).await?;
            download(client, &id, &path, target, &bar).await
        }
        (source, Side::There { sandbox, path }) => {
            let id = connect::resolve(client, &sandbox).await?;
            upload(client, &id, source, &path, &bar).await
        }
        _ => return Err(Refusal::Usage("one side must name a sandbox: ID:PATH".into()).into()),
    };
    bar.finish_and_clear();
    done
}

fn bar(quiet: bool) -> ProgressBar {
    if quiet || !output::stderr_is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::no_length();
    match ProgressStyle::with_template("{bytes} {bytes_per_sec:.dim} {elapsed:.dim}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

async fn upload(client: &Client, id: &str, source: Side, path: &str, bar: &ProgressBar) -> Result<()> {
    let path = if path.is_empty() { "." } else { path };
    let Side::Here(local) = source else {
        let input = Input::stdin().context("standard input cannot be read")?;
        let pieces = stream::try_unfold(input, |mut input| async move {
            let bytes = input.read().await?;
            Ok((!bytes.is_empty()).then_some((bytes, input)))
        });
        return Ok(client.write_file(id, path, counted(pieces, bar)).await?);
    };
    let meta = tokio::fs::metadata(&local).await.map_err(|error| missing(&local, &error))?;
    if meta.is_dir() {
        let name = local.canonicalize().ok().and_then(|whole| whole.file_name().map(OsStr::to_owned));
        let target = target_there(client, id, path, name.as_deref()).await?;
        return upload_folder(client, id, local, &target, bar).await;
    }
    let target = target_there(client, id, path, local.file_name()).await?;
    let file = tokio::fs::File::open(&local).await.with_context(|| format!("cannot read {}", local.display()))?;
    bar.set_length(meta.len());
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut buffer = vec![0; 256 * 1024];
        let n = tokio::io::AsyncReadExt::read(&mut file, &mut buffer).await?;
        buffer.truncate(n);
        Ok((n > 0).then(|| (Bytes::from(buffer), file)))
    });
    client.write_file(id, &target, counted(pieces, bar)).await?;
    keep_executable(client, id, &target, &meta).await
}

/// A script stays one.
async fn keep_executable(client: &Client, id: &str, target: &str, meta: &std::fs::Metadata) -> Result<()> {
    let mode = std::os::unix::fs::MetadataExt::mode(meta) & 0o777;
    if mode & 0o111 == 0 {
        return Ok(());
    }
    let args = vec![format!("{mode:o}"), "--".into(), target.to_owned()];
    let ended = client.exec(id, &ExecRequest { cmd: "chmod".into(), args, ..ExecRequest::default() }).await?;
    if ended.exit_code != 0 {
        output::hint(&format!("warning: the mode of {target} could not be set: {}", ended.stderr.trim()));
    }
    Ok(())
}

fn counted(
    pieces: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    bar: &ProgressBar,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let bar = bar.clone();
    pieces.inspect_ok(move |bytes| bar.inc(bytes.len() as u64))
}

fn missing(path: &Path, error: &std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::NotFound(format!("{} is not there", path.display())).into(),
        _ => anyhow::anyhow!("cannot read {}: {error}", path.display()),
    }
}

/// Where in the sandbox something goes: into a directory under its own name, else to the path itself.
async fn target_there(client: &Client, id: &str, path: &str, name: Option<&OsStr>) -> Result<String> {
    let is_directory = path.ends_with('/')
        || match client.stat(id, path).await {
            Ok(entry) => entry.kind == FileKind::Directory,
            Err(error) if error.code() == Some(ErrorCode::NotFound) => false,
            Err(error) => return Err(error.into()),
        };
    match name.and_then(OsStr::to_str).filter(|_| is_directory) {
        Some(name) => Ok(format!("{}/{name}", path.trim_end_matches('/'))),
        None if is_directory => bail!("name the target: this source has no name that the sandbox could use"),
        None => Ok(path.to_owned()),
    }
}

async fn upload_folder(client: &Client, id: &str, local: PathBuf, target: &str, bar: &ProgressBar) -> Result<()> {
    let (sender, mut pieces) = mpsc::channel::<Piece>(AHEAD);
    let packing = tokio::task::spawn_blocking(move || pack(&local, &mut |piece| sender.blocking_send(piece).is_ok()));
    // The folder may be new, and so may be those above it.
    let script = "mkdir -p -- \"$1\" && exec tar -xpf - -C \"$1\"";
    let mut tar = Tar::start(client, id, sh(script, target), true).await?;
    while let Some(piece) = pieces.recv().await {
        tar.feed(&piece.bytes).await?;
        bar.inc(piece.content);
    }
    let left_out = packing.await.context("packing failed")??;
    tar.close_input().await?;
    while tar.next().await?.is_some() {}
    for path in left_out {
        output::hint(&format!("warning: {} is no file, folder or link and was left out", path.display()));
    }
    Ok(())
}

fn sh(script: &str, argument: &str) -> StreamStart {
    let args = ["-c", script, "sh", argument].map(str::to_owned).to_vec();
    StreamStart { cmd: "sh".into(), args, backpressure: true, ..StreamStart::default() }
}

/// `tar` in the sandbox.
struct Tar {
    stream: ExecStream,
    complaint: String,
    ended: bool,
}

impl Tar {
    async fn start(client: &Client, id: &str, start: StreamStart, stdin: bool) -> Result<Self> {
        let mut stream = client.exec_stream(id, StreamStart { stdin, ..start }).await?;
        match stream.next().await? {
            ExecEvent::Started { .. } => Ok(Self { stream, complaint: String::new(), ended: false }),
            ExecEvent::Error(error) => Err(refused(error)),
            _ => bail!("the sandbox's tar did not start"),
        }
    }

    /// Sends it input; what it says meanwhile is heard.
    async fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(INPUT) {
            if self.takes_more().await? {
                self.stream.input(piece).await?;
            }
        }
        Ok(())
    }

    /// Closes its input behind what was sent.
    async fn close_input(&mut self) -> Result<()> {
        if self.takes_more().await? {
            self.stream.close_input().await?;
        }
        Ok(())
    }

    /// Waits until it takes more, for as long as the sandbox lives: a disk that stands still for a minute is no reason to lose a copy. One
    /// that has ended well needs no more.
    async fn takes_more(&mut self) -> Result<bool> {
        while !self.ended
            && let Some(event) = self.stream.next().now_or_never()
        {
            self.hear(event?)?;
        }
        while !self.ended
            && let Some(event) = self.stream.room().await?
        {
            self.hear(event)?;
        }
        Ok(!self.ended)
    }

    /// Its next output; none when it ended well.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.ended {
            let event = self.stream.next().await?;
            if let Some(bytes) = self.hear(event)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn hear(&mut self, event: ExecEvent) -> Result<Option<Bytes>> {
        match event {
            ExecEvent::Stdout(bytes) => return Ok(Some(bytes)),
            ExecEvent::Stderr(bytes) if self.complaint.len() < COMPLAINT => {
                let text = String::from_utf8_lossy(&bytes);
                self.complaint.extend(text.chars().filter(|c| !c.is_control() || *c == '\n').take(COMPLAINT));
            }
            ExecEvent::Stderr(_) | ExecEvent::Started { .. } => {}
            ExecEvent::Gap(bytes) => bail!("{bytes} bytes were lost on the way: this side is too slow"),
            ExecEvent::Error(error) => return Err(refused(error)),
            ExecEvent::Exit(0) => self.ended = true,
            ExecEvent::Exit(127) => bail!("the sandbox has no `tar`, which copies folders"),
            ExecEvent::Exit(code) => bail!("tar in the sandbox ended with {code}: {}", self.complaint.trim()),
        }
        Ok(None)
    }
}

async fn download(client: &Client, id: &str, path: &str, target: Side, bar: &ProgressBar) -> Result<()> {
    let path = if path.is_empty() { "." } else { path };
    let name = Path::new(path).file_name().filter(|name| *name != "..");
    let local = match target {
        Side::Here(local) => local,
        Side::Standard | Side::There { .. } => return to_stdout(client, id, path, bar).await,
    };
    let entry = client.stat(id, path).await?;
    let into = match (local.is_dir() || local.as_os_str().as_encoded_bytes().ends_with(b"/"), name) {
        (true, Some(name)) => local.join(name),
        (true, None) if entry.kind != FileKind::Directory => bail!("name the target: `{path}` has no name of its own"),
        _ => local,
    };
    if entry.kind == FileKind::Directory {
        return download_folder(client, id, path, into, bar).await;
    }
    bar.set_length(entry.size);
    download_file(client, id, path, &into, entry.mode, bar).await
}

async fn to_stdout(client: &Client, id: &str, path: &str, bar: &ProgressBar) -> Result<()> {
    let mut bytes = client.read_file(id, path).await?;
    while let Some(piece) = bytes.next().await {
        let piece = piece?;
        output::write_stdout(&piece)?;
        bar.inc(piece.len() as u64);
    }
    Ok(())
}

async fn download_file(client: &Client, id: &str, path: &str, into: &Path, mode: u32, bar: &ProgressBar) -> Result<()> {
    let parent = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("cannot write {}", into.display());
    let mut bytes = client.read_file(id, path).await?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode & 0o777);
    let mut file =
        tempfile::Builder::new().prefix(".atoll-").permissions(permissions).tempfile_in(parent).with_context(failed)?;
    while let Some(piece) = bytes.next().await {
        let piece = piece?;
        file.write_all(&piece).with_context(failed)?;
        bar.inc(piece.len() as u64);
    }
    // A link at that name is replaced, never followed.
    file.persist(into).with_context(failed)?;
    Ok(())
}

async fn download_folder(client: &Client, id: &str, path: &str, into: PathBuf, bar: &ProgressBar) -> Result<()> {
    let script = "exec tar -cf - --format=gnu -C \"$1\" .";
    let mut tar = Tar::start(client, id, sh(script, path), false).await?;
    let (sender, mut pieces) = mpsc::channel::<Bytes>(AHEAD);
    let counter = bar.clone();
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut unpack = Unpack::into(&into)?;
        while let Some(piece) = pieces.blocking_recv() {
            unpack.take(&piece)?;
            counter.set_position(unpack.content);
        }
        unpack.finish()
    });
    let received = async {
        while let Some(piece) = tar.next().await? {
            if sender.send(piece).await.is_err() {
                // It stopped, and says why below.
                break;
            }
        }
        anyhow::Ok(())
    };
    let received = received.await;
    drop(sender);
    let unpacked = unpacking.await.context("unpacking failed")?;
    if !tar.ended {
        // Nobody reads what it would go on to say; a lost connection is told below.
        tar.stream.end(END).await;
    }
    received?;
    unpacked?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let there = |sandbox: &str, path: &str| Side::There { sandbox: sandbox.into(), path: path.into() };
        assert_eq!(Side::parse("sb1:/a:b"), there("sb1", "/a:b"));
        assert_eq!(Side::parse("sb1:"), there("sb1", ""));
        assert_eq!(Side::parse("-"), Side::Standard);
        assert_eq!(Side::parse("./a:b"), Side::Here("./a:b".into()));
        assert_eq!(Side::parse("/x"), Side::Here("/x".into()));
        assert_eq!(Side::parse("plain"), Side::Here("plain".into()));
    }
}
