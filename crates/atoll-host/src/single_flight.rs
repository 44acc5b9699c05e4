//! Long blocking work that many may need and one does.
//!
//! How it works: whoever asks first starts it as a task of its own; everybody, the first too, only waits for the outcome. An asker that
//! goes away ends nothing, and [`SingleFlight::ended`] awaits the work at a stop. A success is kept; a failure is told to all who wait
//! for it, and the next asker tries again.
//!
//! Deliberately absent: calling the work off. It is given what tells it to stop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_domain::host::HostError;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::error::{join_failed, stopping};

type Outcome<T> = Option<Result<T, HostError>>;

#[derive(Debug)]
enum State<T> {
    Nothing,
    Doing(watch::Receiver<Outcome<T>>),
    Done(T),
}

/// Something that is made at most once at a time, and kept.
#[derive(Debug)]
pub(crate) struct SingleFlight<T> {
    state: Arc<Mutex<State<T>>>,
    tasks: TaskTracker,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State::Nothing)), tasks: TaskTracker::new() }
    }
}

fn held<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    // Every change is one assignment; a panic leaves it whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// What is there already.
    pub(crate) fn now(&self) -> Option<T> {
        match &*held(&self.state) {
            State::Done(value) => Some(value.clone()),
            State::Nothing | State::Doing(_) => None,
        }
    }

    /// Waits for it; `work` is done if nobody does it.
    pub(crate) async fn get(
        &self,
        work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, HostError> {
        let mut outcome = {
            let mut state = held(&self.state);
            match &*state {
                State::Done(value) => return Ok(value.clone()),
                State::Doing(outcome) => outcome.clone(),
                State::Nothing => {
                    let (tell, outcome) = watch::channel(None);
                    *state = State::Doing(outcome.clone());
                    self.start(work, tell);
                    outcome
                }
            }
        };
        let told = outcome.wait_for(Option::is_some).await.map(|told| told.clone());
        // Without an outcome the runtime is going down.
        told.ok().flatten().unwrap_or_else(|| Err(stopping()))
    }

    fn start(&self, work: impl FnOnce() -> Result<T, HostError> + Send + 'static, tell: watch::Sender<Outcome<T>>) {
        let state = Arc::clone(&self.state);
        self.tasks.spawn(async move {
            let made = tokio::task::spawn_blocking(work).await.map_err(join_failed).flatten();
            *held(&state) = made.as_ref().map_or(State::Nothing, |value| State::Done(value.clone()));
            tell.send_replace(Some(made));
        });
    }

    /// Waits until no work is under way.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::mpsc;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// What a future answers when it is polled once.
    fn once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(future).poll(&mut context) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn an_asker_that_goes_away_takes_nothing_along() {
        let flight = SingleFlight::<u32>::default();
        let (release, released) = mpsc::sync_channel::<()>(1);
        let work = move || {
            released.recv().expect("the test lets it go on");
            Ok(7)
        };
        // Polled once: the work is under way; then the asker is dropped.
        assert!(once(&mut Box::pin(flight.get(work))).is_none());
        let mut second = Box::pin(flight.get(|| panic!("it is being made")));
        assert!(once(&mut second).is_none());
        release.send(()).unwrap();
        assert_eq!(tokio::time::timeout(LIMIT, second).await.unwrap(), Ok(7));
        assert_eq!(flight.now(), Some(7));
    }

    #[tokio::test]
    async fn a_failure_is_told_and_tried_again() {
        let flight = SingleFlight::<u32>::default();
        let failed = || Err(HostError::Failed("no mirror".into()));
        assert_eq!(flight.get(failed).await, Err(HostError::Failed("no mirror".into())));
        assert!(matches!(flight.get(|| panic!("of a test")).await, Err(HostError::Failed(_))));
        assert_eq!(flight.get(|| Ok(1)).await, Ok(1));
        assert_eq!(flight.get(|| panic!("it is there")).await, Ok(1));
    }

    #[tokio::test]
    async fn a_stop_waits_for_the_work() {
        let flight = SingleFlight::<u32>::default();
        let (release, released) = mpsc::sync_channel::<()>(1);
        let work = move || {
            released.recv().expect("the test lets it go on");
            Ok(1)
        };
        assert!(once(&mut Box::pin(flight.get(work))).is_none());
        let mut ended = Box::pin(flight.ended());
        assert!(once(&mut ended).is_none());
        release.send(()).unwrap();
        tokio::time::timeout(LIMIT, ended).await.unwrap();
        assert_eq!(flight.now(), Some(1));
    }
}
