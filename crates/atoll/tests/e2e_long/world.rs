//! The host agent's process as the test holds it, and the sandboxes on it.
//!
//! How it works: [`World`] starts, kills and asks it. Answers that never came because it died are [`Failure::Cut`].
//!
//! Deliberately absent: what a cycle does.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atoll_domain::host::{CreateSandbox, GuestToken, HostError, SandboxFacts};
use atoll_domain::{Incarnation, InstanceId, SandboxId};
use atoll_guest_client::{AGENT_PORT, AccessToken, GuestClient, GuestStream, dial_fn};
use atoll_testkit::ids;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::guest::{self, Guest};
use crate::host::{Ask, DIRECTORY, SOCKET};
use crate::pace::Pace;
use crate::plan::Deed;

/// Longest time of one call.
const LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
const SIGKILL: i32 = 9;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The host agent died.
    Cut(String),
    /// It said no.
    Host(HostError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(why) => write!(f, "no answer: {why}"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

/// A sandbox that the test knows.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) id: SandboxId,
    pub(crate) request: CreateSandbox,
}

/// A template that is there.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) name: String,
    pub(crate) token: GuestToken,
    /// What had been acknowledged before it was asked for.
    pub(crate) ack: u64,
}

/// What happened, for the last line.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// How often that happened.
    pub(crate) fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(what, count)| format!("{what} {count}")).collect();
        write!(f, "{}", words.join(", "))
    }
}

/// Everything that the cycles share.
pub(crate) struct World {
    dir: tempfile::TempDir,
    child: Option<Child>,
    /// All ids that there ever were.
    ids: Vec<String>,
    pub(crate) subject: Option<Subject>,
    pub(crate) kept: Option<Kept>,
    pub(crate) tally: Tally,
    /// How the ticks of the sandbox of all cycles go.
    pub(crate) pace: Pace,
    /// How long each step took when it was let alone.
    pub(crate) took: BTreeMap<&'static str, Duration>,
    /// What the cycle's time went into, and when the last part of it began.
    laps: Vec<(&'static str, Duration)>,
    lap_began: Instant,
}

impl World {
    pub(crate) async fn new() -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("atoll-long-").tempdir().map_err(|e| e.to_string())?;
        let mut world = Self {
            dir,
            child: None,
            ids: Vec::new(),
            subject: None,
            kept: None,
            tally: Tally::default(),
            pace: Pace::default(),
            took: BTreeMap::new(),
            laps: Vec::new(),
            lap_began: Instant::now(),
        };
        world.start().await?;
        Ok(world)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the host agent and waits until it answers.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        self.spawn()?;
        self.answers().await
    }

    /// Starts the host agent.
    pub(crate) fn spawn(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log"));
        let log = log.map_err(|e| e.to_string())?;
        let out = log.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
        command.args(["host::host_process", "--exact", "--ignored", "--nocapture"]).env(DIRECTORY, self.dir.path());
        command.stdin(Stdio::piped()).stdout(out).stderr(log);
        self.child = Some(command.spawn().map_err(|e| e.to_string())?);
        Ok(())
    }

    /// Waits until it answers.
    pub(crate) async fn answers(&self) -> Result<(), String> {
        let answers = until("the host agent to answer", || async {
            match self.ask::<Vec<SandboxFacts>>(&Ask::List).await {
                Ok(_) => Ok(()),
                Err(failure) => Err(failure.to_string()),
            }
        });
        answers.await
    }

    /// `kill -9`; answers whether it died of that.
    pub(crate) fn kill(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        // It may have ended already.
        let _ = child.kill();
        child.wait().is_ok_and(|status| status.signal() == Some(SIGKILL))
    }

    /// Waits for a process that was asked to stop.
    pub(crate) async fn gone(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // Waiting closes its standard input, which it would take for the end of the test.
        let open = child.stdin.take();
        let ended = tokio::task::spawn_blocking(move || child.wait());
        let status = ended.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        drop(open);
        if status.success() { Ok(()) } else { Err(format!("the host agent ended with {status}")) }
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, Failure> {
        call(self.dir.path().join(SOCKET), ask).await.map(|(answer, _)| answer)
    }

    /// The same, able to go on while something else is done to the world.
    pub(crate) fn asking(&self, ask: Ask) -> tokio::task::JoinHandle<Result<serde_json::Value, Failure>> {
        let socket = self.dir.path().join(SOCKET);
        tokio::spawn(async move { call(socket, &ask).await.map(|(answer, _)| answer) })
    }

    pub(crate) fn guest(&self, subject: &Subject) -> Guest {
        let dial = |port| {
            let (socket, id) = (self.dir.path().join(SOCKET), subject.id.clone());
            dial_fn(move || {
                let (socket, ask) = (socket.clone(), Ask::Stream(id.clone(), port));
                async move {
                    let opened = call::<serde_json::Value>(socket, &ask).await;
                    let (_, stream) = opened.map_err(|failure| std::io::Error::other(failure.to_string()))?;
                    Ok(Box::new(stream) as GuestStream)
                }
            })
        };
        let token = AccessToken::new(subject.request.secrets.token.expose());
        Guest { agent: GuestClient::new(dial(AGENT_PORT), Some(token)), checker: dial(guest::PORT) }
    }

    /// What a new sandbox is asked for; from a template, if one is named.
    pub(crate) fn wanted(&mut self, from: Option<&Kept>) -> Subject {
        let id = ids::sandbox();
        self.ids.push(id.to_string());
        let mut request = ids::request(&id);
        if let Some(kept) = from {
            request.spec.snapshot = Some(kept.name.clone());
            request.inherited = Some(kept.token.clone());
        }
        Subject { id, request }
    }

    pub(crate) async fn create(&self, subject: &Subject) -> Result<(), String> {
        let ask = Ask::Create(ids::call(Incarnation::FIRST), subject.request.clone());
        self.ask::<SandboxFacts>(&ask).await.map(drop).map_err(|e| format!("create: {e}"))
    }

    pub(crate) async fn list(&self) -> Result<Vec<SandboxFacts>, String> {
        self.ask(&Ask::List).await.map_err(|e| format!("list: {e}"))
    }

    pub(crate) async fn templates(&self) -> Result<Vec<String>, String> {
        self.ask(&Ask::Templates).await.map_err(|e| format!("templates: {e}"))
    }

    /// Directories of objects.
    pub(crate) fn objects(&self) -> usize {
        let entries = std::fs::read_dir(self.data().join("objects")).map(|e| e.flatten().collect::<Vec<_>>());
        entries.unwrap_or_default().iter().filter(|entry| entry.path().is_dir()).count()
    }

    /// Waits for the worker to have done more.
    pub(crate) async fn progress(&self, subject: &Subject, after: u64) -> Result<u64, String> {
        guest::progress(&self.guest(subject), after).await
    }

    /// Looks at the sandbox of all cycles: all that was acknowledged is there, and its ticks go as time does.
    pub(crate) async fn look(&mut self, subject: &Subject, ack: u64) -> Result<(), String> {
        let asked = Instant::now();
        let found = guest::look(&self.guest(subject), ack).await?;
        found.holds(ack, guest::Kept::All)?;
        self.pace.follow(subject.id.as_str(), &found, asked)
    }

    pub(crate) fn note(&mut self, deed: Deed, took: Duration) {
        self.took.insert(name(deed), took);
    }

    /// Says that a part of a cycle is over.
    pub(crate) fn lap(&mut self, what: &'static str) {
        self.laps.push((what, self.lap_began.elapsed()));
        self.lap_began = Instant::now();
    }

    /// What the time went into since this was asked last.
    pub(crate) fn laps(&mut self) -> String {
        self.lap_began = Instant::now();
        let word = |(what, took): (&str, Duration)| format!("{what} {:.1}", took.as_secs_f32());
        std::mem::take(&mut self.laps).into_iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// When to strike.
    pub(crate) fn moment(&self, deed: Deed, share: u32) -> Duration {
        self.took.get(name(deed)).copied().unwrap_or(Duration::from_secs(1)) * share / 1000
    }

    pub(crate) fn last_log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Ends everything and looks for what is left.
    pub(crate) async fn end(mut self) -> Result<(), String> {
        let dropped = async {
            for template in self.templates().await? {
                self.ask::<()>(&Ask::DropTemplate(template)).await.map_err(|e| e.to_string())?;
            }
            self.ask::<serde_json::Value>(&Ask::Stop { destroy: true }).await.map_err(|e| e.to_string())
        };
        dropped.await?;
        self.gone().await?;
        let text = std::fs::read_to_string(self.data().join("instance.json")).map_err(|e| e.to_string())?;
        let file: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let instance = file["instance"].as_str().unwrap_or_default().to_owned();
        let instance = InstanceId::try_from(instance).map_err(|e| e.to_string())?;
        let left = atoll_host::remains(&instance, &self.data(), &self.ids);
        match (left.is_empty(), self.objects()) {
            (true, 0) => Ok(()),
            (_, objects) => Err(format!("{left:#?}, {objects} objects")),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its standard input ends, so it ends its sandboxes; it is waited for, so that nothing is left.
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

fn name(deed: Deed) -> &'static str {
    match deed {
        Deed::Pause => "pause",
        Deed::Resume => "resume",
        Deed::Snapshot => "snapshot",
        Deed::Create => "create",
        Deed::Adopt => "adopt",
    }
}

async fn call<T: DeserializeOwned>(socket: PathBuf, ask: &Ask) -> Result<(T, BufReader<UnixStream>), Failure> {
    let cut = |why: &dyn fmt::Display| Failure::Cut(why.to_string());
    let mut text = serde_json::to_vec(ask).map_err(|e| cut(&e))?;
    text.push(b'\n');
    let talk = async {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        stream.write_all(&text).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        Ok::<_, std::io::Error>((line, stream))
    };
    let talked = tokio::time::timeout(LIMIT, talk).await.map_err(|_| cut(&format!("{ask:?} took too long")))?;
    let (line, stream) = talked.map_err(|e| cut(&e))?;
    if line.is_empty() {
        return Err(cut(&"the connection ended"));
    }
    let answer: Result<T, HostError> = serde_json::from_str(&line).map_err(|e| cut(&e))?;
    answer.map(|answer| (answer, stream)).map_err(Failure::Host)
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> Result<T, String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(why) if Instant::now() > deadline => return Err(format!("waited for {what}: {why}")),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
