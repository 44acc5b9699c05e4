//! Showing that something takes longer than a blink.
//!
//! How it works: nothing for the first moments, then a line with a clock on a terminal that goes away at the end.
//!
//! Deliberately absent: output that is piped, and `-q`.

use std::future::Future;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

const BLINK: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(120);

/// Awaits something and says what is being waited for.
pub(crate) async fn waiting<T>(what: &str, quiet: bool, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if quiet || !output::stderr_is_terminal() {
        return work.await;
    }
    if let Ok(done) = tokio::time::timeout(BLINK, &mut work).await {
        return done;
    }
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    let done = work.await;
    bar.finish_and_clear();
    done
}
