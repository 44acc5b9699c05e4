//! From a request to a running process.
//!
//! How it works: its names are claimed, or its operation has made a process already and that is the answer. User,
//! directory, environment and candidates of the program are settled then; last pipes or a terminal, a group, the fork,
//! and a task that owns the child.
//!
//! Deliberately absent: a shell.

use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use tokio::io::{AsyncReadExt, Interest, unix::AsyncFd};

use super::{
    child::{self, Child},
    input::Input,
    launch::{self, Launch, Stage},
    record::{Config, Names, Record},
    ring::Source,
    table::{Claim, Table},
    tend::{self, Output, Tended},
};
use crate::{cgroup::Group, error::AgentError, paths, settings::Settings, users::User};

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to start.
pub(crate) struct Request {
    pub(crate) config: Config,
    pub(crate) user: User,
    pub(crate) names: Names,
    pub(crate) stdin: bool,
    /// Columns and rows.
    pub(crate) terminal: Option<(u16, u16)>,
    /// When the whole process group is killed.
    pub(crate) deadline: Option<Instant>,
}

/// A process, and whether an earlier request of the same operation has started it.
pub(crate) struct Started {
    pub(crate) record: Arc<Record>,
    pub(crate) before: bool,
}

/// Starts a process and leaves a task behind that owns it.
pub(crate) async fn start(table: &Arc<Table>, settings: &Settings, request: Request) -> Result<Started, AgentError> {
    match table.claim(&request.names).await? {
        Claim::Known(record) => Ok(Started { record, before: true }),
        // Held until the process is in the table, or is not.
        Claim::New(_claimed) => {
            let record = make(table, settings, request).await?;
            Ok(Started { record, before: false })
        }
    }
}

async fn make(table: &Arc<Table>, settings: &Settings, request: Request) -> Result<Arc<Record>, AgentError> {
    let room = table.admit(settings.output_bytes())?;
    let environment = environment(settings, &request);
    let cwd = directory(settings, &request)?;
    let stdio = Stdio::open(&request)?;
    let group = table.groups.make()?;
    let launch = Launch {
        candidates: candidates(&request.config.cmd, &environment)?,
        arguments: arguments(&request.config)?,
        environment: strings(environment.iter().map(|(key, value)| format!("{key}={value}")))?,
        cwd: string(cwd.to_string_lossy().into_owned())?,
        uid: request.user.uid,
        gid: request.user.gid,
        groups: request.user.groups.clone(),
        stdio: stdio.child,
        terminal: request.terminal.is_some(),
        cgroup: group.as_ref().map(Group::entry).transpose()?,
    };
    let (child, pid) = run(&launch, &request.config, &cwd).await?;
    drop(launch);
    let record = Arc::new(Record::new(pid, request.names, request.config, stdio.input, room));
    table.add(Arc::clone(&record));
    table.tasks.spawn(tend::tend(Tended {
        table: Arc::clone(table),
        record: Arc::clone(&record),
        child,
        outputs: stdio.outputs,
        deadline: request.deadline,
        group,
    }));
    Ok(record)
}

/// Forks and waits until the program runs or has said why not.
async fn run(launch: &Launch, config: &Config, cwd: &Path) -> Result<(Child, u32), AgentError> {
    let failed = |source| AgentError::io("starting a process", source);
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
    let pid = launch::fork(launch, &write).map_err(failed)?;
    drop(write);
    let child = Child::new(pid);
    let mut report = Vec::new();
    let outcome = match tokio::net::unix::pipe::Receiver::from_owned_fd(read) {
        Ok(read) => read.take(launch::REPORT as u64).read_to_end(&mut report).await.map(drop),
        Err(error) => Err(error),
    };
    let problem = match outcome {
        Ok(()) => launch::failure(&report).map(|(stage, error)| explain(stage, error, config, cwd)),
        Err(error) => Some(failed(error)),
    };
    match (problem, child, u32::try_from(pid)) {
        (None, Ok(child), Ok(id)) => Ok((child, id)),
        (problem, child, _) => {
            // It is ending by itself, or nobody could own it.
            let _ = child::signal_group(pid.unsigned_abs(), libc::SIGKILL);
            child::reap(pid);
            Err(problem.unwrap_or_else(|| failed(child.err().unwrap_or_else(|| io::Error::other("bad pid")))))
        }
    }
}

fn explain(stage: Stage, error: io::Error, config: &Config, cwd: &Path) -> AgentError {
    let cmd = config.cmd.clone();
    match (stage, error.raw_os_error()) {
        (Stage::Directory, _) => AgentError::BadCwd(cwd.display().to_string()),
        (Stage::Exec, Some(libc::ENOENT | libc::ENOTDIR)) => AgentError::ProgramNotFound(cmd),
        (Stage::Exec, Some(libc::EACCES | libc::ENOEXEC | libc::EISDIR | libc::EPERM)) => {
            AgentError::NotExecutable(cmd)
        }
        (Stage::Exec, Some(libc::E2BIG)) => {
            AgentError::Invalid("arguments and environment are too large to execute".into())
        }
        _ => AgentError::io(format!("starting `{cmd}`: {error}"), error),
    }
}

/// Later entries win: the base, what `/init` set, what the request set.
fn environment(settings: &Settings, request: &Request) -> BTreeMap<String, String> {
    let user = &request.user;
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), user.home.display().to_string()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
    ]);
    if request.terminal.is_some() {
        environment.insert("TERM".to_owned(), "xterm-256color".to_owned());
    }
    environment.extend(settings.envs());
    environment.extend(request.config.envs.clone());
    environment
}

/// A directory that was named must exist; the default one gives way to `/`.
fn directory(settings: &Settings, request: &Request) -> Result<PathBuf, AgentError> {
    let named = request.config.cwd.as_deref().filter(|cwd| !cwd.is_empty());
    if let Some(named) = named {
        return paths::resolve(named, &request.user);
    }
    let default = settings.workdir().unwrap_or_default();
    let default = paths::resolve(&default, &request.user)?;
    Ok(if default.is_dir() { default } else { PathBuf::from("/") })
}

fn candidates(cmd: &str, environment: &BTreeMap<String, String>) -> Result<Vec<CString>, AgentError> {
    if cmd.is_empty() {
        return Err(AgentError::Invalid("process.cmd is empty; name a program".into()));
    }
    if cmd.contains('/') {
        return Ok(vec![string(cmd.to_owned())?]);
    }
    let path = environment.get("PATH").map_or(PATH, String::as_str);
    strings(path.split(':').map(|directory| match directory {
        "" => format!("./{cmd}"),
        directory => format!("{directory}/{cmd}"),
    }))
}

fn arguments(config: &Config) -> Result<Vec<CString>, AgentError> {
    strings(std::iter::once(&config.cmd).chain(&config.args).cloned())
}

fn strings(strings: impl Iterator<Item = String>) -> Result<Vec<CString>, AgentError> {
    strings.map(string).collect()
}

fn string(text: String) -> Result<CString, AgentError> {
    CString::new(text)
        .map_err(|_| AgentError::Invalid("command, argument, environment or directory holds a NUL byte".into()))
}

/// Both sides of a child's descriptors.
struct Stdio {
    child: [OwnedFd; 3],
    input: Input,
    outputs: Vec<Output>,
}

impl Stdio {
    fn open(request: &Request) -> Result<Self, AgentError> {
        let stdio = match request.terminal {
            Some((cols, rows)) => Self::terminal(cols, rows, request.user.uid),
            None => Self::pipes(request.stdin),
        };
        stdio.map_err(|source| AgentError::io("opening a process's descriptors", source))
    }

    fn pipes(stdin: bool) -> io::Result<Self> {
        let (out_read, out_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (err_read, err_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (child_in, input) = if stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            let write = watched(write, Interest::WRITABLE)?;
            (read, Input::pipe(write))
        } else {
            (std::fs::File::open("/dev/null")?.into(), Input::none())
        };
        Ok(Self {
            child: [child_in, out_write, err_write],
            input,
            outputs: vec![
                Output::new(Source::Stdout, Arc::new(watched(out_read, Interest::READABLE)?)),
                Output::new(Source::Stderr, Arc::new(watched(err_read, Interest::READABLE)?)),
            ],
        })
    }

    fn terminal(cols: u16, rows: u16, owner: u32) -> io::Result<Self> {
        let (master, slave) = child::open_terminal(cols, rows, owner)?;
        let master = Arc::new(watched(master, Interest::READABLE | Interest::WRITABLE)?);
        Ok(Self {
            child: [slave.try_clone()?, slave.try_clone()?, slave],
            input: Input::terminal(Arc::clone(&master)),
            outputs: vec![Output::new(Source::Pty, master)],
        })
    }
}

/// Makes a descriptor non-blocking and hands it to the runtime.
fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    child::watched(fd, interest)
}
