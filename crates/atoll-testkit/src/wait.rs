//! Waiting for conditions instead of for time.
//!
//! How it works: everything that is waited for has a generous deadline, after which the test fails with what it waited for. On a
//! machine under load a pass comes later, not as a failure.
//!
//! Deliberately absent: sleeping for a while and hoping.

use std::future::Future;
use std::time::Duration;

/// How long anything that a test waits for may take.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// The same for emulated boots, of which one may fail and be tried again after a while.
pub const BOOTS: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(5);

/// Awaits something, or fails the test.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_time(DEADLINE, what, future).await
}

async fn within_time<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {what}", limit.as_secs()),
    }
}

/// Asks again until there is an answer, or fails the test.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    patiently(DEADLINE, what, ask).await
}

/// The same with a limit of its own.
pub async fn patiently<T, F: Future<Output = Option<T>>>(limit: Duration, what: &str, mut ask: impl FnMut() -> F) -> T {
    let poll = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_time(limit, what, poll).await
}
