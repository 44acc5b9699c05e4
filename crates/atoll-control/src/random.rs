//! Random bytes from the machine.
//!
//! How it works: the kernel's generator, by `getrandom`.
//!
//! Deliberately absent: a seed: tests that need the same bytes give them.

use crate::ControlError;

/// So many of them.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], ControlError> {
    let mut out = [0; N];
    getrandom::fill(&mut out).map_err(|error| ControlError::Internal(format!("no random bytes: {error}")))?;
    Ok(out)
}

/// As lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
