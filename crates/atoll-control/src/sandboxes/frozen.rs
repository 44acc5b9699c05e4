//! Calls that meet user code that stands still.
//!
//! How it works: while a snapshot is taken of a sandbox its agent starts no process and says so; that lasts moments, and nothing has begun.
//! So the call is made again for a few seconds before its asker hears of it.
//!
//! Deliberately absent: every other failure. What may have begun is never done twice.

use std::time::{Duration, Instant};

use atoll_guest_client::{GuestError, Reason};

/// As long as an agent is waited for before a template is made.
const LIMIT: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

/// Makes a call, and again while user code stands still.
pub(crate) async fn thawed<T, F>(call: impl Fn() -> F) -> Result<T, GuestError>
where
    F: Future<Output = Result<T, GuestError>>,
{
    let deadline = Instant::now() + LIMIT;
    loop {
        match call().await {
            Err(error) if error.reason() == Some(Reason::Frozen) && Instant::now() < deadline => {
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use atoll_guest_client::Code;

    use super::*;

    fn refused(reason: Reason) -> GuestError {
        GuestError::Rejected { code: Code::Unavailable, reason: Some(reason), message: String::new() }
    }

    #[tokio::test]
    async fn user_code_that_stands_still_is_waited_for_and_nothing_else_is_asked_twice() {
        let calls = Cell::new(0);
        let call = || async {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Err(refused(Reason::Frozen)) } else { Ok(calls.get()) }
        };
        assert_eq!(thawed(call).await.unwrap(), 3);
        let full = || async {
            calls.set(calls.get() + 1);
            Err::<(), _>(refused(Reason::DiskFull))
        };
        assert!(thawed(full).await.is_err());
        assert_eq!(calls.get(), 4);
    }
}
