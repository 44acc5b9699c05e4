//! The frequency of the host's time stamp counter.
//!
//! How it works: under emulation the guest's TSC is the host's, and the kernel hangs when it measures it against an emulated
//! timer while the host is busy; so it is told. `/proc/cpuinfo` says the same number at every start (half the bogomips on
//! a machine with a constant TSC); it is believed only if a short measurement agrees within 0.5 %.
//!
//! Deliberately absent: other architectures.

use std::time::{Duration, Instant};

/// The frequency in kHz.
pub fn measure_khz() -> u64 {
    let measured = against_clock(Duration::from_millis(20));
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match from_cpuinfo(&text) {
        Some(told) if told.abs_diff(measured) < measured / 200 => told,
        _ => measured,
    }
}

/// Half the bogomips, in kHz.
fn from_cpuinfo(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("bogomips"))?;
    let (whole, part) = line.split_once(':')?.1.trim().split_once('.')?;
    let whole: u64 = whole.parse().ok()?;
    let part: u64 = format!("{part:0<3}").get(..3)?.parse().ok()?;
    Some(u64::midpoint(whole * 1000, part))
}

#[cfg(target_arch = "x86_64")]
fn against_clock(span: Duration) -> u64 {
    // SAFETY: every x86-64 processor has RDTSC.
    let now = || unsafe { core::arch::x86_64::_rdtsc() };
    let (started, first) = (Instant::now(), now());
    std::thread::sleep(span);
    let (elapsed, last) = (started.elapsed(), now());
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    last.saturating_sub(first).saturating_mul(1000) / micros
}

#[cfg(not(target_arch = "x86_64"))]
fn against_clock(_span: Duration) -> u64 {
    1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_is_read_and_believed_only_when_it_fits() {
        assert_eq!(from_cpuinfo("model name\t: x\nbogomips\t: 5192.27\n"), Some(2_596_135));
        assert_eq!(from_cpuinfo("bogomips\t: nonsense\n"), None);
        let measured = measure_khz();
        assert!((100_000..20_000_000).contains(&measured), "{measured} kHz");
    }
}
