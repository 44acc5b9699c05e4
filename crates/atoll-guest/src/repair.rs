//! Making a machine itself: clock, randomness, host name, machine id.
//!
//! How it works: at the first start and after every resume, because a restored machine has its past's: each is one
//! system call or one small file.
//!
//! Deliberately absent: what a restored kernel keeps for good (its address layout, its hash keys).
#![expect(unsafe_code, reason = "the random device's ioctls")]

use std::{fs, io, os::fd::AsRawFd};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
    unistd::sethostname,
};

/// `_IOW('R', 3, int[2])`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
/// `_IO('R', 7)`.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
/// More entropy than this changes nothing.
const ENTROPY_LIMIT: usize = 512;

/// Sets the clock, in nanoseconds since 1970 UTC.
pub(crate) fn set_clock(nanoseconds: u64) -> io::Result<()> {
    let seconds = i64::try_from(nanoseconds / 1_000_000_000).map_err(io::Error::other)?;
    let rest = i64::try_from(nanoseconds % 1_000_000_000).map_err(io::Error::other)?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, rest))?;
    Ok(())
}

/// Mixes bytes of the host into the kernel's pool and reseeds from it.
pub(crate) fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; ENTROPY_LIMIT],
    }
    let length = bytes.len().min(ENTROPY_LIMIT);
    let size = libc::c_int::try_from(length).map_err(io::Error::other)?;
    let mut pool = Pool { bits: size * 8, size, bytes: [0; ENTROPY_LIMIT] };
    pool.bytes[..length].copy_from_slice(&bytes[..length]);
    let device = fs::OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: `pool` is laid out as the kernel's rand_pool_info, with `size` valid bytes.
    unsafe {
        if libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) != 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sets the host name, and what the files in `/etc` say of it.
pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    sethostname(name)?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    fs::write(
        "/etc/hosts",
        format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n"),
    )
}

/// Writes the machine id; draws one when none is given.
pub(crate) fn set_machine_id(id: Option<&str>) -> io::Result<()> {
    let id = match id {
        Some(id) => id.to_owned(),
        None => draw_machine_id()?,
    };
    fs::write("/etc/machine-id", format!("{id}\n"))
}

fn draw_machine_id() -> io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    // Version 4, variant 1: what systemd makes as well.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The fork file: which life of the machine this is. A program that must know of a restore (to
/// draw fresh randomness, say) watches it, or reads it again before it matters.
const GENERATION: &str = "/run/atoll/generation";

/// Writes the fork file, in place: whoever holds it open or watches it sees the change.
pub(crate) fn set_generation(generation: &str) -> io::Result<()> {
    fs::create_dir_all("/run/atoll")?;
    fs::write(GENERATION, format!("{generation}\n"))
}

/// Whether a text can be in the fork file.
pub(crate) fn is_generation(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a text is a machine id: 32 lower-case hex digits.
pub(crate) fn is_machine_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text can be a host name: a label of letters, digits and dashes.
pub(crate) fn is_hostname(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
