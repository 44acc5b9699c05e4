//! How long a lost stream is tried again.
//!
//! How it works: the time begins with the loss and ends as soon as anything is heard again; between two tries is a pause that doubles. A
//! host that takes its sandboxes over lets a stream in and then refuses it: such a try is one of many, not the end.
//!
//! Deliberately absent: the tries themselves.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// What is left of the time for tries.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    until: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, until: None, pause: FIRST_PAUSE }
    }

    /// The stream goes on: the next loss has the whole time.
    pub(crate) fn heard(&mut self) {
        *self = Self::new(self.limit);
    }

    /// Whether nothing was tried since it was heard.
    pub(crate) fn is_fresh(&self) -> bool {
        self.until.is_none()
    }

    /// Waits for the next try; `false` when there is to be none.
    pub(crate) async fn another(&mut self) -> bool {
        let until = *self.until.get_or_insert(Instant::now() + self.limit);
        if Instant::now() + self.pause > until {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_time_begins_with_a_loss_and_is_whole_again_once_something_is_heard() {
        let mut patience = Patience::new(Duration::from_secs(1));
        for _ in 0..2 {
            assert!(patience.is_fresh());
            let mut tries = 0;
            while patience.another().await {
                tries += 1;
                assert!(!patience.is_fresh());
            }
            // After 100, 200 and 400 ms; on a slow machine not all of them.
            assert!((1..=3).contains(&tries), "{tries}");
            patience.heard();
        }
    }
}
