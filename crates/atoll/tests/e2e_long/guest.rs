//! The programs in the guest, and what is asked of what they leave.
//!
//! How it works: `worker.py` numbers what it does; each number goes, with fresh randomness, into a synced file, one that is not synced, a
//! database and over a connection, and only then into `/dev/shm/ack`. A thread of its counts beside all that, each count once into
//! `/dev/shm/ticks` ([`crate::pace`]). `checker.py` reads all of it back: a process beside it that lives through the same cycles and is
//! asked over a port of the guest's; after a boot, when it is gone, a new one.
//!
//! Deliberately absent: any trust in what the worker says besides its number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_guest_client::{Dial, GuestClient, ProcessEvent, StartRequest};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const WORKER: &str = include_str!("worker.py");
const CHECKER: &str = include_str!("checker.py");
/// Where the checker listens in the guest.
pub(crate) const PORT: u16 = 7001;
/// Longest time of one answer, and of the worker's next step.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What one of the three holds.
#[derive(Debug, Deserialize)]
struct Held {
    first: u64,
    last: u64,
    in_order: bool,
    same: bool,
}

/// What is kept of the worker's ticks.
#[derive(Debug, Deserialize)]
pub(crate) struct Ticks {
    /// How many there were.
    pub(crate) last: u64,
    in_order: bool,
}

/// What was found in a guest.
#[derive(Debug, Deserialize)]
pub(crate) struct Found {
    /// The last number that was acknowledged.
    pub(crate) ack: u64,
    /// Read together with it.
    pub(crate) ticks: Ticks,
    bad: String,
    integrity: String,
    plain: Held,
    durable: Held,
    rows: Held,
    /// Numbers and the randomness drawn for them.
    pub(crate) lines: Vec<(u64, String)>,
}

/// How much must have survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Memory and processes, too.
    All,
    /// What was synced.
    Disk,
}

impl Found {
    /// Whether everything that was acknowledged is there, once and in order.
    pub(crate) fn holds(&self, ack: u64, kept: Kept) -> Result<(), String> {
        let mut faults = Vec::new();
        let mut fault = |wrong: bool, what: &str| {
            if wrong {
                faults.push(what.to_owned());
            }
        };
        fault(self.integrity != "ok", "the database is damaged");
        for (name, held) in [("durable", &self.durable), ("rows", &self.rows)] {
            fault(held.last < ack.max(self.ack), &format!("{name}: acknowledged and lost"));
            fault(held.first > 1 || !held.in_order, &format!("{name}: a number is missing or twice"));
            fault(!held.same, &format!("{name}: a line is not the one that was synced"));
        }
        if kept == Kept::All {
            fault(!self.bad.is_empty(), &format!("the worker says: {}", self.bad.trim()));
            fault(self.ack < ack, "the counter went back");
            fault(self.plain.last < ack.max(self.ack), "plain: acknowledged and lost");
            fault(!self.plain.in_order || !self.plain.same, "plain: a number is missing, twice, or another's");
            fault(!self.ticks.in_order, "ticks: one is missing or twice");
        }
        if faults.is_empty() {
            return Ok(());
        }
        let Self { ack: now, ticks, plain, durable, rows, .. } = self;
        Err(format!(
            "{faults:?}; acknowledged {ack}, now {now}; {ticks:?}, plain {plain:?}, durable {durable:?}, rows {rows:?}"
        ))
    }
}

/// Whether a copy went another way than what it was made of: equal up to a point, never again after it.
pub(crate) fn parted(one: &Found, other: &Found) -> Result<(), String> {
    let mut equal = 0;
    let mut parted = None;
    for (number, drawn) in &one.lines {
        let Some((_, theirs)) = other.lines.iter().find(|(n, _)| n == number) else { continue };
        match (drawn == theirs, parted) {
            (true, None) => equal += 1,
            (true, Some(at)) => return Err(format!("{number} drew the same after they had parted at {at}")),
            (false, None) => parted = Some(number),
            (false, Some(_)) => {}
        }
    }
    if parted.is_some() { Ok(()) } else { Err(format!("they never parted: {equal} lines equal")) }
}

/// The way into a guest.
pub(crate) struct Guest {
    /// Its agent.
    pub(crate) agent: GuestClient,
    /// Opens a stream to [`PORT`].
    pub(crate) checker: Arc<dyn Dial>,
}

/// What a command printed; it must end well.
pub(crate) async fn sh(guest: &GuestClient, command: &str) -> Result<String, String> {
    let start = StartRequest {
        cmd: "sh".into(),
        args: vec!["-c".into(), command.into()],
        timeout: Some(Duration::from_secs(120)),
        ..StartRequest::default()
    };
    let mut stream = guest.start(&start).await.map_err(|e| format!("{e:?}"))?;
    let mut out = Vec::new();
    while let Some(event) = stream.next().await.map_err(|e| format!("{e:?}"))? {
        match event {
            ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) => out.extend_from_slice(&bytes),
            ProcessEvent::Ended { exit_code, .. } => {
                let text = String::from_utf8_lossy(&out).trim().to_owned();
                return if exit_code == 0 { Ok(text) } else { Err(format!("ended with {exit_code}: {text}")) };
            }
            _ => {}
        }
    }
    Err("the stream ended without an end".into())
}

/// Starts worker and checker; the worker takes up where the disk is.
pub(crate) async fn work(guest: &Guest) -> Result<(), String> {
    let write =
        format!("cat > /root/worker.py <<'EOF'\n{WORKER}\nEOF\ncat > /root/checker.py <<'EOF'\n{CHECKER}\nEOF\nsync");
    sh(&guest.agent, &write).await?;
    let start = format!(
        "for words in worker.py 'checker.py serve {PORT}'; do \
         nohup python3 /root/$words >/dev/null 2>>/dev/shm/bad </dev/null & done"
    );
    sh(&guest.agent, &start).await.map(drop)
}

/// What the checker answers.
async fn ask(guest: &Guest, question: &str) -> Result<String, String> {
    let talk = async {
        let mut stream = guest.checker.dial().await?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer =
        tokio::time::timeout(LIMIT, talk).await.map_err(|_| format!("the checker is silent at {question:?}"))?;
    match answer {
        Ok(answer) if !answer.is_empty() => Ok(answer),
        Ok(_) => Err(format!("the checker said nothing to {question:?}")),
        Err(error) => Err(format!("the checker at {question:?}: {error}")),
    }
}

/// The last number that was acknowledged, 0 before the first, and what the worker complains of.
async fn told(guest: &Guest) -> Result<(u64, String), String> {
    let answer = ask(guest, "ack").await?;
    let (number, bad) = answer.split_once(' ').ok_or_else(|| format!("the checker said {answer:?}"))?;
    Ok((number.parse().map_err(|_| format!("/dev/shm/ack holds {number:?}"))?, bad.trim().to_owned()))
}

/// The last number that was acknowledged, by the agent's way; 0 before the first.
pub(crate) async fn acknowledged(guest: &Guest) -> Result<u64, String> {
    let told = sh(&guest.agent, "cat /dev/shm/ack 2>/dev/null || echo 0").await?;
    let number = told.split_whitespace().next().and_then(|word| word.parse().ok());
    number.ok_or_else(|| format!("/dev/shm/ack holds {told:?}"))
}

/// Waits until more than this is acknowledged; answers how much. One that says why it cannot is not waited for.
pub(crate) async fn progress(guest: &Guest, after: u64) -> Result<u64, String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let why = match told(guest).await {
            Ok((now, _)) if now > after => return Ok(now),
            Ok((now, bad)) if !bad.is_empty() => return Err(format!("the worker stands still at {now}: {bad}")),
            Ok((now, _)) => format!("the worker stands still at {now}, after {after}"),
            // It may only be starting.
            Err(why) => why,
        };
        if Instant::now() > deadline {
            return Err(why);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Reads everything back.
pub(crate) async fn look(guest: &Guest, since: u64) -> Result<Found, String> {
    let told = ask(guest, &format!("look {since}")).await?;
    serde_json::from_str(&told).map_err(|e| format!("the checker: {e}: {told}"))
}

/// The same after a boot, before anything works again.
pub(crate) async fn look_at_disk(guest: &Guest, since: u64) -> Result<Found, String> {
    let told = sh(&guest.agent, &format!("python3 /root/checker.py once {since}")).await?;
    serde_json::from_str(&told).map_err(|e| format!("the checker: {e}: {told}"))
}
