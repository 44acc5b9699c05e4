//! Doing what was asked once, however often it is asked.
//!
//! How it works: a request under an idempotency key is remembered for a day, by its keyed digest and by what it makes. The same request again
//! answers what came of the first; another one under the same key is refused; while the first is under way the second waits outside.
//! A first that failed gives its key back.
//!
//! Keys age by a time of their own ([`Keys`]): within a process by the clock that never jumps, from where the newest key stands. While no Atoll
//! ran no time passed for them, as nobody can tell how long that was if the wall clock was set: a key that is forgotten too early
//! lets something be done twice, one that is kept too long does no harm.
//!
//! Deliberately absent: remembering answers; they are written anew from what was made.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use atoll_domain::{Invalid, Principal};
use atoll_store::{KeptRequest, KeyPlace};

use crate::ports::Clock;
use crate::{Control, ControlError};

/// How long a key is remembered, in microseconds.
const REMEMBERED: i64 = 24 * 3600 * 1_000_000;
/// How long what was asked for may be under way, in microseconds; the agent's own deadlines are shorter.
const UNDER_WAY: i64 = 60 * 1_000_000;
/// The same of what an earlier Atoll began, since this one's start: an agent may just be starting it.
const CUT_OFF: i64 = 5 * 1_000_000;
const MAX_KEY: usize = 255;

/// The key under which requests are digested: what a request holds (variables, which may be secrets) cannot be guessed from the
/// database without it. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct RequestKey([u8; 32]);

impl RequestKey {
    /// From 256 random bits.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A name that says nothing of what it names.
    pub(crate) fn name(&self, of: &str) -> String {
        self.digest(of)
    }

    fn digest(&self, request: &str) -> String {
        blake3::keyed_hash(&self.0, request.as_bytes()).to_hex().to_string()
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestKey(..)")
    }
}

/// A request that is to be carried out once. Its `Debug` shows only the client's key.
#[derive(Clone, PartialEq, Eq)]
pub struct Once {
    key: String,
    request: String,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Once {
    /// Under a client's key; `request` is all that was asked for, in a form that is the same for the same request.
    ///
    /// # Errors
    /// A key that is none.
    pub fn new(key: &str, request: String) -> Result<Self, Invalid> {
        if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
            let detail = format!("a key has 1 to {MAX_KEY} visible ASCII characters");
            return Err(Invalid::new("Idempotency-Key", "malformed", detail));
        }
        Ok(Self { key: key.to_owned(), request })
    }
}

/// Whether something was made now or by an earlier request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<T> {
    /// What was made.
    pub value: T,
    /// By an earlier request.
    pub replayed: bool,
}

impl<T> Done<T> {
    pub(crate) fn now(value: T) -> Self {
        Self { value, replayed: false }
    }

    pub(crate) fn before(value: T) -> Self {
        Self { value, replayed: true }
    }
}

/// A key that a request was made under.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) place: KeyPlace,
    digest: String,
}

impl Claim {
    /// What is to be kept.
    pub(crate) fn kept(&self, subject: &str, at: i64) -> KeptRequest {
        KeptRequest { digest: self.digest.clone(), subject: subject.to_owned(), outcome: None, at }
    }
}

/// The time of keys, and the requests under them that this process carries out.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Their time as this process began, and the steady clock then.
    began: (i64, i64),
    /// When this process began to carry out what has no outcome yet, on the steady clock.
    under_way: Mutex<HashMap<KeyPlace, i64>>,
}

impl Keys {
    /// From the newest key; where there is none the wall clock is as good as any.
    pub(crate) fn new(newest: Option<i64>, clock: &dyn Clock) -> Self {
        let began = (newest.unwrap_or_else(|| clock.now_micros()), clock.steady_micros());
        Self { began, under_way: Mutex::default() }
    }

    fn now(&self, steady: i64) -> i64 {
        let (keys, began) = self.began;
        keys.saturating_add(steady - began)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<KeyPlace, i64>> {
        // Under it entries are only put in and taken out.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is asked for under a new key upon this process; answers false when it is under way here.
    pub(crate) fn begin(&self, place: &KeyPlace, steady: i64) -> bool {
        let mut under_way = self.under_way();
        let free = under_way.get(place).is_none_or(|begun| steady - begun >= UNDER_WAY);
        if free {
            under_way.insert(place.clone(), steady);
        }
        free
    }

    /// Whether it is under way here.
    pub(crate) fn is_busy(&self, place: &KeyPlace, steady: i64) -> bool {
        self.under_way().get(place).is_some_and(|begun| steady - begun < UNDER_WAY)
    }

    /// The same of a key without an outcome, whose first request may still be at work: for as long as this process's own may take,
    /// or, if an earlier one began it, until its agent has either started it or never will.
    pub(crate) fn begin_again(&self, place: &KeyPlace, steady: i64) -> bool {
        let own = self.under_way().contains_key(place);
        (own || steady - self.began.1 >= CUT_OFF) && self.begin(place, steady)
    }

    /// It has an outcome, or gave its key back.
    pub(crate) fn end(&self, place: &KeyPlace) {
        self.under_way().remove(place);
    }
}

impl Control {
    /// The time by which keys age.
    pub(crate) fn key_time(&self) -> i64 {
        self.keys().now(self.steady())
    }

    /// Since when keys count.
    pub(crate) fn remembered_since(&self) -> i64 {
        self.key_time().saturating_sub(REMEMBERED)
    }

    /// Looks a key up: the claim to make, and what an earlier request under it was about.
    pub(crate) async fn claim(
        &self,
        principal: &Principal,
        route: String,
        once: Once,
    ) -> Result<(Claim, Option<KeptRequest>), ControlError> {
        let team = principal.team().ok_or(ControlError::Forbidden { who: "the system" })?.clone();
        let claim =
            Claim { place: KeyPlace { team, route, key: once.key }, digest: self.request_key().digest(&once.request) };
        let kept = self.store().kept_request(&claim.place, self.remembered_since()).await?;
        if kept.as_ref().is_some_and(|kept| kept.digest != claim.digest) {
            return Err(ControlError::OtherRequest);
        }
        Ok((claim, kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_nothing_without_its_key() {
        let (one, other) = (RequestKey::new([1; 32]), RequestKey::new([2; 32]));
        assert_eq!(one.digest("a"), one.digest("a"));
        assert_ne!(one.digest("a"), one.digest("b"));
        assert_ne!(one.digest("a"), other.digest("a"));
        assert_ne!(one.digest("a"), blake3::hash(b"a").to_hex().to_string());
        let once = Once::new("k", "{\"envs\":{\"TOKEN\":\"hunter2\"}}".into()).unwrap();
        assert!(!format!("{once:?} {one:?}").contains("hunter2"));
    }
}
