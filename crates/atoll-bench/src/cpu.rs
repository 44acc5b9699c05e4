//! Processor time of a process, from `/proc`.
//!
//! How it works: user and system time of `/proc/PID/stat`, in ticks of 10 ms.
//!
//! Deliberately absent: the time of children.

use anyhow::{Context as _, Result};

/// Milliseconds of user and system time, without its children.
pub(crate) fn ms(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name may hold spaces; it ends with the last parenthesis.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} is malformed"))?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |n: usize| fields.get(n).and_then(|text| text.parse::<u32>().ok()).context("a field is missing");
    // utime and stime, in hundredths of a second on every Linux that Atoll runs on.
    Ok(f64::from(field(11)? + field(12)?) * 10.0)
}
