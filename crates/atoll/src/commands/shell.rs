//! `atoll shell`, and `atoll exec -it`: a program on a terminal in a sandbox.
//!
//! How it works: the terminal here is raw, so that every key, Ctrl-C too, is the guest's; its size follows the window. When the
//! connection is lost the program lives on: it is found again by its tag, from the byte where the output broke off. Keys that
//! are typed meanwhile wait in the terminal.
//!
//! Deliberately absent: a detach key. Closing the window leaves the shell running; `--attach` comes back.

use std::time::Duration;

use anyhow::{Context as _, Result};
use atoll_api::PtyStart;
use atoll_client::{Client, Terminal, TerminalEvent};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::patience::Patience;
use super::variables;
use crate::args::{ExecArgs, Global, ShellArgs};
use crate::failure::{Interrupted, ProgramEnded, Refusal, may_pass, refused};
use crate::terminal::{Input, RawMode, size};
use crate::{connect, output};

const DEFAULT_SIZE: (u16, u16) = (80, 24);
/// How long a lost connection is tried again.
const TRY_FOR: Duration = Duration::from_secs(120);
/// What this side's terminal can do, for the program at the other end.
const PASSED_ON: &[&str] = &["TERM", "COLORTERM", "LANG"];

/// Opens a shell, or comes back to one.
pub(crate) async fn shell(client: &Client, _global: &Global, args: &ShellArgs) -> Result<()> {
    need_terminal("shell")?;
    let id = connect::resolve(client, &args.id).await?;
    let first = match &args.attach {
        Some(tag) => First::Attach(tag.clone()),
        None => First::Start(start(&args.command, &args.env, args.cwd.as_ref(), args.user.as_ref())?),
    };
    session(client, &id, first).await
}

/// Runs a program on a terminal.
pub(crate) async fn exec_on_terminal(client: &Client, id: &str, args: &ExecArgs) -> Result<()> {
    need_terminal("exec -t")?;
    let start = start(&args.command, &args.env, args.cwd.as_ref(), args.user.as_ref())?;
    session(client, id, First::Start(start)).await
}

fn need_terminal(what: &str) -> Result<(), Refusal> {
    if output::stdin_is_terminal() {
        return Ok(());
    }
    Err(Refusal::Usage(format!("`{what}` needs a terminal on standard input; use `atoll exec -i` to pass input on")))
}

fn start(command: &[String], env: &[String], cwd: Option<&String>, user: Option<&String>) -> Result<PtyStart, Refusal> {
    let mut envs = variables(env)?.unwrap_or_default();
    for name in PASSED_ON {
        if let Ok(value) = std::env::var(name) {
            envs.entry((*name).to_owned()).or_insert(value);
        }
    }
    let (cols, rows) = size().unwrap_or(DEFAULT_SIZE);
    let mut words = command.iter().cloned();
    let mut start = PtyStart {
        cols,
        rows,
        envs: Some(envs),
        cwd: cwd.cloned(),
        user: user.cloned(),
        backpressure: true,
        ..PtyStart::default()
    };
    if let Some(program) = words.next() {
        start.cmd = program;
        start.args = words.collect();
    }
    Ok(start)
}

/// How a session begins.
#[derive(Debug)]
enum First {
    Start(PtyStart),
    Attach(String),
}

/// The signals of a session.
struct Signals {
    window: Signal,
    resumed: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be heard");
        Ok(Self {
            window: listen(SignalKind::window_change())?,
            resumed: listen(SignalKind::from_raw(nix::libc::SIGCONT))?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

async fn session(client: &Client, id: &str, first: First) -> Result<()> {
    let mut signals = Signals::listen()?;
    let mut terminal = match &first {
        First::Start(start) => client.terminal(id, start.clone()).await?,
        First::Attach(tag) => client.terminal_reattach(id, tag, 0).await?,
    };
    let mut tag = match first {
        First::Attach(tag) => Some(tag),
        First::Start(_) => None,
    };
    let raw = RawMode::enter().context("the terminal cannot be made raw")?;
    let mut input = Input::stdin().context("standard input cannot be read")?;
    let mut patience = Patience::new(TRY_FOR);
    let ended = loop {
        let lost = match follow(&mut terminal, &mut input, &mut signals, &raw, &mut tag, &mut patience).await {
            Ok(code) => break Ok(code),
            Err(error) => error,
        };
        let again = match &tag {
            Some(tag) if may_pass(&lost) => reconnect(client, id, tag, terminal.offset(), lost, &mut patience).await,
            _ => break Err(lost),
        };
        match again {
            Ok(again) => terminal = again,
            Err(error) => break Err(error),
        }
    };
    drop(raw);
    terminal.close().await;
    match ended {
        Ok(0) => Ok(()),
        Ok(code) => Err(ProgramEnded(code).into()),
        Err(error) => {
            if let Some(tag) = tag {
                output::hint(&format!("come back with: atoll shell {id} --attach {tag}"));
            }
            Err(error)
        }
    }
}

/// Carries keys and output until the program ends.
async fn follow(
    terminal: &mut Terminal,
    input: &mut Input,
    signals: &mut Signals,
    raw: &RawMode,
    tag: &mut Option<String>,
    patience: &mut Patience,
) -> Result<i32> {
    let (mut started, mut open) = (false, true);
    loop {
        tokio::select! {
            event = terminal.next() => match event? {
                TerminalEvent::Started { tag: known } => {
                    *tag = Some(known);
                    started = true;
                    patience.heard();
                    // The window may have changed while nobody was told.
                    resize(terminal).await?;
                }
                TerminalEvent::Output(bytes) => output::write_stdout(&bytes)?,
                TerminalEvent::Gap(bytes) => notice(&format!("[{bytes} bytes of output were lost]")),
                TerminalEvent::Exit(code) => return Ok(code),
                TerminalEvent::Error(error) if !error.fatal => output::hint(&error.data),
                TerminalEvent::Error(error) => return Err(refused(error)),
            },
            keys = input.read(), if started && open => {
                let keys = keys.context("the terminal cannot be read")?;
                open = !keys.is_empty();
                if open {
                    terminal.input(keys).await?;
                }
            }
            _ = signals.window.recv() => resize(terminal).await?,
            _ = signals.resumed.recv() => {
                raw.again().context("the terminal cannot be made raw")?;
                resize(terminal).await?;
            }
            _ = signals.terminate.recv() => return Err(Interrupted.into()),
            _ = signals.hangup.recv() => return Err(Interrupted.into()),
        }
    }
}

async fn resize(terminal: &mut Terminal) -> Result<()> {
    if let Some((cols, rows)) = size() {
        terminal.resize(cols, rows).await?;
    }
    Ok(())
}

async fn reconnect(
    client: &Client,
    id: &str,
    tag: &str,
    offset: u64,
    lost: anyhow::Error,
    patience: &mut Patience,
) -> Result<Terminal> {
    if patience.is_fresh() {
        notice("[the connection was lost, reconnecting]");
    }
    let mut why = lost;
    while patience.another().await {
        match client.terminal_reattach(id, tag, offset).await {
            Ok(terminal) => return Ok(terminal),
            Err(error) if error.is_final() => return Err(error.into()),
            Err(error) => why = error.into(),
        }
    }
    Err(why)
}

/// A line for people while the terminal is raw.
fn notice(text: &str) {
    output::hint(&format!("\r\n{text}\r"));
}
