//! Lines on the console: the only log that a guest has.
//!
//! How it works: lines on standard error, which is the console, with `atoll: ` before each.
//!
//! Deliberately absent: levels, and whatever must stay secret: tokens, contents, arguments.
#![expect(clippy::print_stderr, reason = "standard error is the machine's console")]

/// Says one line.
pub(crate) fn say(line: &str) {
    eprintln!("atoll: {line}");
}

/// Says an error with all its causes.
pub(crate) fn error(error: &dyn std::error::Error) {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        line.push_str(": ");
        line.push_str(&next.to_string());
        cause = next.source();
    }
    eprintln!("atoll: {line}");
}
