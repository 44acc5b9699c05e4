//! Writes what a sandbox sent below one directory, and nowhere else.
//!
//! How it works: bytes come as they come and are taken block by block. Every path is opened by the kernel beneath the target and through
//! no link (openat2), so that neither `..` nor a link that the same archive made leads out; a link whose own target leads out is refused
//! as well, because somebody would follow it later. The first entry that tries ends everything.
//!
//! Deliberately absent: owners, setuid bits, devices. Everything belongs to whoever asked.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::header::{Block, Entry, Kind, read};
use super::{ArchiveError, BLOCK};

/// Permission bits that are kept.
const MODES: u32 = 0o777;

/// An archive that is being written out.
#[derive(Debug)]
pub(crate) struct Unpack {
    target: OwnedFd,
    buffer: Vec<u8>,
    state: State,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Bytes of content so far.
    pub(crate) content: u64,
}

#[derive(Debug)]
enum State {
    /// A block is next.
    Header,
    /// A long name or link target of so many bytes is next.
    Text { link: bool, bytes: usize },
    /// Content is next.
    Content { out: File, path: PathBuf, entry: Entry, left: u64 },
    /// Padding behind content.
    Padding(usize),
    /// Nothing more is looked at.
    End,
}

impl Unpack {
    /// Writes below a directory, which is made if it is not there.
    pub(crate) fn into(target: &Path) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::Write { path: target.display().to_string(), source };
        fs::create_dir_all(target).map_err(failed)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let target = open(target, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let (long_name, long_link) = (None, None);
        Ok(Self { target, buffer: Vec::new(), state: State::Header, long_name, long_link, content: 0 })
    }

    /// Takes what came.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::End => return Ok(()),
                State::Content { out, path, left, .. } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    out.write_all(&bytes[..n]).map_err(failed(path))?;
                    *left -= n as u64;
                    self.content += n as u64;
                    bytes = &bytes[n..];
                    if *left == 0 {
                        self.finish_file()?;
                    }
                }
                State::Padding(left) => {
                    let n = (*left).min(bytes.len());
                    *left -= n;
                    bytes = &bytes[n..];
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::Header => {
                    if let Some(block) = self.gather(&mut bytes, BLOCK) {
                        self.header(&block)?;
                    }
                }
                State::Text { link, bytes: length } => {
                    let (link, length) = (*link, *length);
                    if let Some(text) = self.gather(&mut bytes, length.next_multiple_of(BLOCK)) {
                        let text = text[..length].split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
                        *(if link { &mut self.long_link } else { &mut self.long_name }) = Some(text);
                        self.state = State::Header;
                    }
                }
            }
        }
        Ok(())
    }

    /// The archive is over.
    pub(crate) fn finish(self) -> Result<u64, ArchiveError> {
        match self.state {
            State::End => Ok(self.content),
            State::Header if self.buffer.is_empty() && self.long_name.is_none() => Ok(self.content),
            _ => Err(ArchiveError::Cut),
        }
    }

    /// Collects a fixed number of bytes.
    fn gather(&mut self, bytes: &mut &[u8], length: usize) -> Option<Vec<u8>> {
        let n = (length - self.buffer.len()).min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        *bytes = &bytes[n..];
        (self.buffer.len() == length).then(|| std::mem::take(&mut self.buffer))
    }

    fn header(&mut self, block: &[u8]) -> Result<(), ArchiveError> {
        let block: &[u8; BLOCK] = block.try_into().map_err(|_| ArchiveError::Malformed("a block is short"))?;
        let text = |link, bytes| State::Text { link, bytes: usize::try_from(bytes).unwrap_or(BLOCK) };
        match read(block)? {
            Block::End => self.state = State::End,
            Block::LongName(bytes) => self.state = text(false, bytes),
            Block::LongLink(bytes) => self.state = text(true, bytes),
            Block::Entry(mut entry) => {
                if let Some(name) = self.long_name.take() {
                    entry.name = name;
                }
                if let (Kind::Symlink(target) | Kind::Hardlink(target), Some(long)) =
                    (&mut entry.kind, self.long_link.take())
                {
                    *target = long;
                }
                self.entry(entry)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), ArchiveError> {
        let path = inside(&entry.name)?;
        if path.as_os_str().is_empty() {
            // The folder itself.
            return Ok(());
        }
        match &entry.kind {
            Kind::Directory => self.directory(&path, entry.mode),
            Kind::File => {
                let out = self.create(&path)?;
                let left = entry.size;
                self.state = State::Content { out, path, entry, left };
                if left == 0 { self.finish_file() } else { Ok(()) }
            }
            Kind::Symlink(target) => self.symlink(&path, target),
            Kind::Hardlink(target) => self.copy(&path, target, entry.mode),
        }
    }

    fn finish_file(&mut self) -> Result<(), ArchiveError> {
        let State::Content { out, path, entry, .. } = std::mem::replace(&mut self.state, State::Header) else {
            return Ok(());
        };
        fchmod(&out, mode(entry.mode)).map_err(|errno| failed(&path)(errno.into()))?;
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(entry.modified));
        if let Some(modified) = modified {
            out.set_modified(modified).map_err(failed(&path))?;
        }
        let padding = usize::try_from(entry.size.next_multiple_of(BLOCK as u64) - entry.size).unwrap_or(0);
        if padding > 0 {
            self.state = State::Padding(padding);
        }
        Ok(())
    }

    /// Opens beneath the target, through no link.
    fn open(&self, path: &Path, flags: OFlag, mode: Mode) -> Result<OwnedFd, ArchiveError> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
        openat2(&self.target, path, how).map_err(|errno| match errno {
            Errno::ELOOP | Errno::EXDEV => escapes(path.as_os_str().as_bytes()),
            other => failed(path)(other.into()),
        })
    }

    fn parent(&self, path: &Path) -> Result<OwnedFd, ArchiveError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        // An archive need not name a directory before what is in it.
        let mut made = PathBuf::new();
        for part in parent.components() {
            made.push(part);
            self.directory(&made, 0o755)?;
        }
        self.open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
    }

    fn directory(&self, path: &Path, bits: u32) -> Result<(), ArchiveError> {
        let there = OFlag::O_PATH | OFlag::O_DIRECTORY;
        if self.open(path, there, Mode::empty()).is_ok() {
            return Ok(());
        }
        let parent = self.parent(path)?;
        let name = path.file_name().unwrap_or_default();
        // Its owner must be able to fill it.
        match mkdirat(&parent, name, mode(bits | 0o700)) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => self.open(path, there, Mode::empty()).map(drop),
            Err(errno) => Err(failed(path)(errno.into())),
        }
    }

    fn create(&self, path: &Path) -> Result<File, ArchiveError> {
        let parent = self.parent(path)?;
        remove(&parent, path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(self.open(path, flags, Mode::from_bits_truncate(0o600))?.into())
    }

    fn symlink(&self, path: &Path, target: &[u8]) -> Result<(), ArchiveError> {
        if !stays_inside(path, target) {
            return Err(escapes(&[path.as_os_str().as_bytes(), b" -> ", target].concat()));
        }
        let parent = self.parent(path)?;
        remove(&parent, path)?;
        let name = path.file_name().unwrap_or_default();
        symlinkat(OsStr::from_bytes(target), &parent, name).map_err(|errno| failed(path)(errno.into()))
    }

    /// A second name of a file that came before: a copy, so that no name outside can be meant.
    fn copy(&self, path: &Path, source: &[u8], bits: u32) -> Result<(), ArchiveError> {
        let source = inside(source)?;
        let mut from: File = self.open(&source, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?.into();
        if !from.metadata().map_err(failed(&source))?.is_file() {
            return Err(ArchiveError::Refused(path.display().to_string()));
        }
        let mut out = self.create(path)?;
        io::copy(&mut from, &mut out).map_err(failed(path))?;
        fchmod(&out, mode(bits)).map_err(|errno| failed(path)(errno.into()))
    }
}

/// Removes a file or link that is in the way; a directory stays and is an error later.
fn remove(parent: &OwnedFd, path: &Path) -> Result<(), ArchiveError> {
    match unlinkat(parent, path.file_name().unwrap_or_default(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT | Errno::EISDIR | Errno::EPERM) => Ok(()),
        Err(errno) => Err(failed(path)(errno.into())),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.display().to_string();
    move |source| ArchiveError::Write { path, source }
}

fn escapes(name: &[u8]) -> ArchiveError {
    let shown: String = String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(200).collect();
    ArchiveError::Escapes(shown)
}

fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits & MODES)
}

/// A name as a path below the target.
fn inside(name: &[u8]) -> Result<PathBuf, ArchiveError> {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return Err(escapes(name)),
        }
    }
    Ok(path)
}

/// Whether a link at `path` leads to something below the target, whatever is there.
fn stays_inside(path: &Path, target: &[u8]) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for component in Path::new(OsStr::from_bytes(target)).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::header::write;
    use super::super::{Piece, pack};
    use super::*;

    fn entry(name: &str, kind: Kind, content: &str) -> Vec<u8> {
        let size = if kind == Kind::File { content.len() as u64 } else { 0 };
        let mut out = write(&Entry { name: name.into(), kind, mode: 0o4755, modified: 1_000_000, size });
        out.extend_from_slice(content.as_bytes());
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    fn unpack(dir: &Path, archive: &[u8]) -> Result<u64, ArchiveError> {
        let mut unpack = Unpack::into(&dir.join("target"))?;
        // Odd pieces, so that every boundary is crossed.
        for piece in archive.chunks(97) {
            unpack.take(piece)?;
        }
        unpack.finish()
    }

    #[test]
    fn a_folder_comes_back_as_it_was() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let long = "l".repeat(150);
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(from.join("empty")).unwrap();
        fs::write(from.join("a/b").join(&long), vec![9; 700_000]).unwrap();
        fs::write(from.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("b", from.join("a/link")).unwrap();
        let mut archive = Vec::new();
        let left_out = pack(&from, &mut |Piece { bytes, .. }| {
            archive.extend_from_slice(&bytes);
            true
        });
        assert!(left_out.unwrap().is_empty());
        assert_eq!(unpack(dir.path(), &archive).unwrap(), 700_010);
        let to = dir.path().join("target");
        assert_eq!(fs::read(to.join("a/b").join(&long)).unwrap(), vec![9; 700_000]);
        assert_eq!(fs::metadata(to.join("run.sh")).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_link(to.join("a/link")).unwrap(), Path::new("b"));
        assert!(to.join("empty").is_dir());
        let mtime = |path: PathBuf| fs::metadata(path).unwrap().mtime();
        assert_eq!(mtime(to.join("run.sh")), mtime(from.join("run.sh")));
    }

    #[test]
    fn nothing_that_leads_out_is_taken() {
        let link = |to: &str| Kind::Symlink(to.into());
        let hard = |to: &str| Kind::Hardlink(to.into());
        let attacks: Vec<Vec<u8>> = vec![
            entry("../out", Kind::File, "x"),
            entry("a/../../out", Kind::File, "x"),
            entry("/tmp/atoll-out", Kind::File, "x"),
            entry("link", link("/etc/passwd"), ""),
            entry("link", link("../out"), ""),
            entry("a/link", link("../../out"), ""),
            // Within, but then through it.
            [entry("d", Kind::Directory, ""), entry("l", link("d"), ""), entry("l/x", Kind::File, "x")].concat(),
            entry("h", hard("../out"), ""),
            entry("h", hard("/etc/passwd"), ""),
            [entry("l", link("d"), ""), entry("h", hard("l"), "")].concat(),
        ];
        for (number, attack) in attacks.iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("out"), "mine").unwrap();
            let error = unpack(dir.path(), attack).unwrap_err();
            assert!(matches!(error, ArchiveError::Escapes(_)), "attack {number}: {error:?}");
            assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"mine", "attack {number}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "attack {number}");
        }
    }

    #[test]
    fn a_link_that_was_there_is_replaced_and_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        fs::write(dir.path().join("out"), "mine").unwrap();
        std::os::unix::fs::symlink("../out", dir.path().join("target/x")).unwrap();
        unpack(dir.path(), &entry("x", Kind::File, "theirs")).unwrap();
        assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"mine");
        assert_eq!(fs::read(dir.path().join("target/x")).unwrap(), b"theirs");
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(dir.path().join("target/x")).unwrap());
        assert_eq!(mode & 0o7777, 0o755, "no setuid bit comes out of a sandbox");
    }

    #[test]
    fn an_archive_that_ends_early_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let whole = entry("x", Kind::File, &"y".repeat(2000));
        assert!(matches!(unpack(dir.path(), &whole[..1500]), Err(ArchiveError::Cut)));
        assert!(matches!(unpack(dir.path(), b"not an archive"), Err(ArchiveError::Cut)));
        assert!(matches!(unpack(dir.path(), &[7; 512]), Err(ArchiveError::Malformed(_))));
    }
}
