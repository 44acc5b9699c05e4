//! How long a sandbox may live without being asked for.
//!
//! How it works: two modes that may stand side by side, the earlier one counts. Idle (`timeout_sec`): so long after the last use.
//! Deadline (`end_at`): a moment that only an explicit call moves. Beside them a longest run (`max_lifetime_sec`), counted from the
//! start of this life, so that a resume begins it anew. A [`Timer`] holds all of it as instants of a clock that never jumps
//! (milliseconds of CLOCK_BOOTTIME): a wall clock that is set neither ends nor prolongs anything. A deadline given as a date is
//! turned into such an instant when it is set, and again after a restart of the host agent.
//!
//! Deliberately absent: clocks, and what counts as a use (requests and bytes; never a socket that is merely open, never our own polls).

use serde::{Deserialize, Serialize};

use crate::validate::{Invalid, MAX_TIMEOUT_SEC};

/// What happens to a sandbox whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiry {
    /// Memory and disk go to the host's disk; it can be resumed.
    #[default]
    Pause,
    /// It is destroyed.
    Destroy,
}

impl OnExpiry {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Destroy => "destroy",
        }
    }

    /// Reads a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pause, Self::Destroy].into_iter().find(|what| what.as_str() == text)
    }
}

/// What its owner set for a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Lifetime {
    /// Seconds without a use; 0 for no limit.
    pub timeout_sec: u32,
    /// A moment, in microseconds since 1970 (UTC).
    pub end_at: Option<i64>,
    /// What happens then.
    pub on_expiry: OnExpiry,
    /// Whether the next use of a paused one resumes it.
    pub auto_resume: bool,
    /// Longest run of one life in seconds; 0 for no limit.
    pub max_lifetime_sec: u32,
}

/// Limits with the number of the change that made them. Of two the greater number counts, whichever comes later: a call that was lost
/// on its way and comes again must not undo a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// What they are.
    #[serde(flatten)]
    pub lifetime: Lifetime,
    /// 0 as the sandbox was made; each change is greater than all before it, in whatever life of the sandbox. Absent in what older
    /// versions wrote.
    #[serde(default)]
    pub revision: u64,
}

impl Limits {
    /// Whether these are to take the place of `current`. What is no newer was heard before, or was overtaken.
    pub fn supersede(&self, current: &Self) -> bool {
        self.revision > current.revision
    }
}

/// What a call changes; what is absent stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LifetimeChange {
    /// New idle timeout in seconds.
    pub timeout_sec: Option<i64>,
    /// New deadline in microseconds since 1970; `Some(None)` takes it away.
    pub end_at: Option<Option<i64>>,
    /// New fate.
    pub on_expiry: Option<OnExpiry>,
    /// New answer to a use while paused.
    pub auto_resume: Option<bool>,
    /// New longest run in seconds.
    pub max_lifetime_sec: Option<i64>,
}

impl Lifetime {
    /// Whether one of the limits may pause the sandbox: then what that writes is reserved when it is admitted.
    pub fn may_pause(&self) -> bool {
        let limited = self.timeout_sec > 0 || self.end_at.is_some() || self.max_lifetime_sec > 0;
        limited && self.on_expiry == OnExpiry::Pause
    }

    /// What it is after a change, at the wall clock's `now` in microseconds.
    ///
    /// # Errors
    /// A number out of bounds, a deadline that has passed or lies more than a year ahead.
    pub fn changed(self, change: &LifetimeChange, now: i64) -> Result<Self, Invalid> {
        let mut next = self;
        if let Some(seconds) = change.timeout_sec {
            next.timeout_sec = seconds_of("timeout_sec", seconds)?;
        }
        if let Some(seconds) = change.max_lifetime_sec {
            next.max_lifetime_sec = seconds_of("max_lifetime_sec", seconds)?;
        }
        if let Some(end_at) = change.end_at {
            next.end_at = end_at.map(|at| future("end_at", at, now)).transpose()?;
        }
        next.on_expiry = change.on_expiry.unwrap_or(next.on_expiry);
        next.auto_resume = change.auto_resume.unwrap_or(next.auto_resume);
        Ok(next)
    }
}

fn seconds_of(field: &str, value: i64) -> Result<u32, Invalid> {
    let max = i64::from(MAX_TIMEOUT_SEC);
    u32::try_from(value)
        .ok()
        .filter(|seconds| *seconds <= MAX_TIMEOUT_SEC)
        .ok_or_else(|| Invalid::range(field, value, 0, max, "0 means no limit"))
}

fn future(field: &str, at: i64, now: i64) -> Result<i64, Invalid> {
    let most = now.saturating_add(i64::from(MAX_TIMEOUT_SEC) * 1_000_000);
    if at <= now {
        Err(Invalid::new(field, "out_of_range", "it lies in the past: pause or destroy the sandbox instead"))
    } else if at > most {
        Err(Invalid::new(field, "out_of_range", "it lies more than a year ahead"))
    } else {
        Ok(at)
    }
}

/// Two clocks read at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock, in microseconds since 1970.
    pub wall: i64,
    /// The clock that never jumps, in milliseconds.
    pub steady: u64,
}

/// Why a sandbox's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody used it for `timeout_sec`.
    Idle,
    /// `end_at` has come.
    Deadline,
    /// It ran for `max_lifetime_sec`.
    MaxLifetime,
}

impl Cause {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "nobody used it for its timeout",
            Self::Deadline => "its end_at has come",
            Self::MaxLifetime => "it ran for its maximum lifetime",
        }
    }
}

/// When a sandbox's time is over, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// On the steady clock, in milliseconds.
    pub at: u64,
    /// Which of the limits it is.
    pub cause: Cause,
}

/// The time of one life of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    lifetime: Lifetime,
    born: u64,
    used: u64,
    end: Option<u64>,
}

impl Timer {
    /// Begins a life now: both idle time and longest run start here.
    pub fn begin(lifetime: Lifetime, now: Now) -> Self {
        let (born, used) = (now.steady, now.steady);
        Self { lifetime, born, used, end: lifetime.end_at.map(|at| steady(at, now)) }
    }

    /// Goes on with a life after a restart of the host agent, from what was written down of it on the steady clock.
    pub fn go_on(lifetime: Lifetime, born: u64, used: u64, now: Now) -> Self {
        let born = born.min(now.steady);
        let used = used.clamp(born, now.steady);
        Self { lifetime, born, used, end: lifetime.end_at.map(|at| steady(at, now)) }
    }

    /// What its owner set.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// Notes a use: moves the idle limit alone, and never backwards.
    pub fn used(&mut self, steady: u64) {
        self.used = self.used.max(steady);
    }

    /// Takes a change over. It is a use too: whoever sets a timeout gets the whole of it.
    pub fn set(&mut self, lifetime: Lifetime, now: Now) {
        if lifetime.end_at != self.lifetime.end_at {
            self.end = lifetime.end_at.map(|at| steady(at, now));
        }
        self.lifetime = lifetime;
        self.used(now.steady);
    }

    /// When its time is over, as things stand; `None` for never.
    pub fn due(&self) -> Option<Due> {
        let after = |from: u64, seconds: u32| (seconds > 0).then(|| from.saturating_add(u64::from(seconds) * 1000));
        [
            (self.end, Cause::Deadline),
            (after(self.born, self.lifetime.max_lifetime_sec), Cause::MaxLifetime),
            (after(self.used, self.lifetime.timeout_sec), Cause::Idle),
        ]
        .into_iter()
        .filter_map(|(at, cause)| Some(Due { at: at?, cause }))
        .min_by_key(|due| due.at)
    }

    /// When it is to be destroyed even while it is paused: its deadline, if that is its owner's wish. Nobody uses a paused one and it
    /// does not run, so no other limit comes near.
    pub fn destroyed_at(&self) -> Option<u64> {
        self.end.filter(|_| self.lifetime.on_expiry == OnExpiry::Destroy)
    }

    /// Whether it is over, and why.
    pub fn expired(&self, steady: u64) -> Option<Cause> {
        self.due().filter(|due| due.at <= steady).map(|due| due.cause)
    }
}

/// A date on the steady clock.
fn steady(at: i64, now: Now) -> u64 {
    let away = at.saturating_sub(now.wall) / 1000;
    now.steady.saturating_add_signed(away)
}
