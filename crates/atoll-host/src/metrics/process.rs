//! What a process uses, by `/proc/PID/stat`.
//!
//! How it works: the file is opened once and read again at each sample. It stays that of the process for which it was opened: after its
//! end a read fails, even when the number has gone to another. One read holds CPU time of all threads and resident pages; their units
//! are in the auxiliary vector.
//!
//! Deliberately absent: anything of its children; a VMM has none.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The units of `/proc`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Units {
    /// Of CPU time.
    pub(super) ticks_per_second: u32,
    /// Bytes of a page.
    pub(super) page: u64,
}

impl Units {
    /// This machine's; the usual ones where it does not say.
    pub(super) fn of_machine() -> Self {
        const PAGE_SIZE: u64 = 6;
        const CLOCK_TICKS: u64 = 17;
        let vector = std::fs::read("/proc/self/auxv").unwrap_or_default();
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        let value = |key: u64| {
            vector.chunks_exact(16).find(|pair| word(&pair[..8]) == key).map(|pair| word(&pair[8..])).filter(|v| *v > 0)
        };
        Self {
            ticks_per_second: value(CLOCK_TICKS).and_then(|ticks| u32::try_from(ticks).ok()).unwrap_or(100),
            page: value(PAGE_SIZE).unwrap_or(4096),
        }
    }
}

/// What a process has used, and uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// User and system time since its start.
    pub(super) ticks: u64,
    /// Resident bytes.
    pub(super) resident: u64,
}

/// A process that is looked at.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    stat: File,
}

impl Process {
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, stat: File::open(format!("/proc/{pid}/stat"))? })
    }

    /// What it uses; nothing once it has ended.
    pub(super) fn usage(&self, units: Units) -> Option<Usage> {
        let mut buffer = [0; 1024];
        let length = self.stat.read_at(&mut buffer, 0).ok()?;
        parse(std::str::from_utf8(&buffer[..length]).ok()?, units)
    }
}

/// Reads the line; a program may have any name, so fields count from its closing parenthesis.
fn parse(stat: &str, units: Units) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = |skip: usize| fields.nth(skip)?.parse::<u64>().ok();
    let ticks = number(10)?.checked_add(number(0)?)?;
    let resident = number(8)?.checked_mul(units.page)?;
    (state != "Z").then_some(Usage { ticks, resident })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_count_from_the_last_parenthesis() {
        let units = Units { ticks_per_second: 100, page: 4096 };
        let line =
            "42 (a ) b (c) S 1 42 42 0 -1 4194304 1 2 3 4 700 77 9 9 20 0 3 0 555 1000000 25 18446744073709551615 1";
        let usage = parse(line, units).unwrap();
        assert_eq!((usage.ticks, usage.resident), (777, 25 * 4096));
        assert!(parse(&line.replace(" S 1 ", " Z 1 "), units).is_none(), "a zombie uses nothing");
        assert!(parse("", units).is_none());
    }
}
