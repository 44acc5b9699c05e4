//! The agent: what it is told at its start, and putting its parts together.
//!
//! How it works: the command line becomes [`Options`]; settings, processes and the machine's parts are made once and
//! handed to the server, on a runtime of one thread.
//!
//! Deliberately absent: the boot; PID 1 did that before it started the agent.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use crate::{
    boot::memory,
    cgroup::Groups,
    console,
    error::AgentError,
    http::{self, App},
    process::Table,
    settings::Settings,
};

/// Where the agent listens in a sandbox.
const LISTEN: &str = "0.0.0.0:49983";

/// The command line of `atoll-guest agent`.
pub(crate) struct Options {
    listen: SocketAddr,
    /// Answers without a token and touches nothing of the machine: for tests.
    bare: bool,
    /// The control group for user code of an agent that is no machine's own.
    user_group: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, AgentError> {
        let mut listen = LISTEN.to_owned();
        let (mut bare, mut user_group) = (false, None);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match (argument.as_str(), arguments.as_slice().first()) {
                ("--no-init", _) => bare = true,
                ("--listen", Some(address)) => {
                    listen.clone_from(address);
                    arguments.next();
                }
                ("--user-group", Some(group)) => {
                    user_group = Some(PathBuf::from(group));
                    arguments.next();
                }
                _ => {
                    return Err(AgentError::Invalid(format!(
                        "unknown option `{argument}`; there are --listen ADDRESS:PORT, --no-init, --user-group DIR"
                    )));
                }
            }
        }
        let listen =
            listen.parse().map_err(|_| AgentError::Invalid(format!("--listen `{listen}` is not ADDRESS:PORT")))?;
        Ok(Self { listen, bare, user_group })
    }
}

/// Serves until the process is killed.
pub(crate) fn run(options: Options) -> Result<(), AgentError> {
    // It was executed by a path that says nothing. Only `ps` shows it.
    let _ = nix::sys::prctl::set_name(c"atoll-guest");
    raise_file_limit();
    let failed = |source| AgentError::io("starting the agent", source);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build().map_err(failed)?;
    runtime.block_on(async {
        let groups = match options.user_group {
            Some(group) => Groups::under(group, memory()),
            None if options.bare => Groups::none(),
            None => {
                spare_from_oom();
                Groups::of_machine(memory())
            }
        };
        let app = Arc::new(App::new(
            Arc::new(Settings::new(options.bare)),
            Arc::new(Table::new(groups, memory())),
            !options.bare,
        ));
        let listener = tokio::net::TcpListener::bind(options.listen)
            .await
            .map_err(|error| AgentError::io(format!("listening on {}", options.listen), error))?;
        let address = listener.local_addr().map_err(failed)?;
        console::say(&format!("agent listens on {address}"));
        http::serve(listener, app).await;
        Ok(())
    })
}

/// The kernel kills everything else first when memory runs out.
fn spare_from_oom() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        console::say(&format!("/proc/self/oom_score_adj: {error}"));
    }
}

/// Each process holds several descriptors of the agent.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const WANTED: u64 = 524_288;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, WANTED, WANTED);
    if raised.is_err()
        && let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
    {
        // What the machine allows has to do.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
