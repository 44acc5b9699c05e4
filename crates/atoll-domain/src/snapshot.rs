//! What a snapshot says of itself, and whether it can be used here.
//!
//! How it works: a [`Manifest`] names the machine that it was taken on, what the guest was started from, and every part with size and
//! digest. [`Manifest::signing_input`] is the one byte string that a signature covers: each field with its length in front, in a
//! fixed order, so that no two manifests share it. [`judge`] compares a manifest with a host before a guest sees anything: what
//! was made by newer code or for another processor is refused whole; where only device state or memory would not fit, the disk
//! alone is still offered. Kernel, base image and agent are the snapshot's own objects: they are compared with nothing.
//!
//! Deliberately absent: hashing, keys, files; and falling back by itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Shape;

/// The newest form of a manifest that this code writes and reads.
pub const FORMAT: u32 = 1;
/// Largest manifest in bytes that is read at all.
pub const MAX_MANIFEST_BYTES: u64 = 64 * 1024;
/// How far the rates of two time stamp counters may differ and be called the same, in parts per million: what a measurement errs,
/// and what a guest's clock discipline corrects.
const TSC_TOLERANCE_PPM: u64 = 250;

/// A BLAKE3 digest, as 64 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 lower-case hex digits")]
pub struct InvalidDigest;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(InvalidDigest),
        };
        let bytes = text.as_bytes();
        let mut out = [0; 32];
        if bytes.len() != 64 {
            return Err(InvalidDigest);
        }
        for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *slot = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(out))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// What carries the virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// Which program is the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmmKind {
    /// QEMU's microvm machine.
    Qemu,
    /// Firecracker.
    Firecracker,
}

/// The machine that device state and memory were taken on, or the one that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `x86_64`.
    pub arch: String,
    /// The VMM.
    pub vmm: VmmKind,
    /// Its whole version: `7.2.22`.
    pub vmm_version: String,
    /// The part of it within which device state can be read: `7.2`.
    pub vmm_series: String,
    /// What carries the virtual CPUs.
    pub accelerator: Accelerator,
    /// The virtual CPU's model with its features, as the VMM names it.
    pub cpu_model: String,
    /// The rate of the time stamp counter that the guest was told.
    pub tsc_khz: u64,
    /// Digest of the arguments that shape the machine: devices, options, sizes; no path, no name of an interface.
    pub devices: Digest,
}

/// What the guest was started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The kernel.
    pub kernel: Digest,
    /// The read-only base image.
    pub base: Digest,
    /// The guest agent.
    pub agent: Digest,
    /// The agent's version, by which the host knows what it can be asked.
    pub agent_version: String,
}

/// A file of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Apparent size in bytes.
    pub bytes: u64,
    /// Of its whole content, holes being zeroes.
    pub digest: Digest,
}

/// All files of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Device state; absent when only the disk was kept.
    pub state: Option<Part>,
    /// The flat memory image that the pages below lie on; absent for an empty one (a guest that was booted cold).
    pub memory_base: Option<Part>,
    /// The pages that differ from it.
    pub memory_diff: Option<Part>,
    /// The disk that goes with it; absent while that is a paused sandbox's own, which stays in its place and is written by nobody.
    pub disk: Option<Part>,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Which form this is; see [`FORMAT`].
    pub format: u32,
    /// The generation's own id, the name of its directory.
    pub id: String,
    /// When, in microseconds since 1970.
    pub created_at: i64,
    /// The size of the guest.
    pub shape: Shape,
    /// The template that it came from, by name, for people.
    pub template: String,
    /// The machine.
    pub platform: Platform,
    /// What the guest was started from.
    pub origin: Origin,
    /// Its files.
    pub parts: Parts,
    /// Whether the agent had frozen user code when it was taken.
    pub quiesced: bool,
    /// Whether its owner lets it be copied at all.
    pub copyable: bool,
    /// Which key signed it.
    pub key: String,
}

impl Manifest {
    /// Whether another sandbox may be started from it: only what stood still can be told before it goes on that it is a copy.
    pub fn may_be_copied(&self) -> bool {
        self.quiesced && self.copyable
    }

    /// The bytes that its signature covers: everything.
    pub fn signing_input(&self) -> Vec<u8> {
        let mut input = Input(b"atoll snapshot manifest\0".to_vec());
        input.number(self.format.into());
        input.text(&self.id);
        input.bytes(&self.created_at.to_le_bytes());
        for size in [self.shape.vcpus, self.shape.memory_mb, self.shape.disk_mb] {
            input.number(size.into());
        }
        input.text(&self.template);
        let Platform { arch, vmm, vmm_version, vmm_series, accelerator, cpu_model, tsc_khz, devices } = &self.platform;
        let (vmm, accelerator) = (*vmm as u64, *accelerator as u64);
        for text in [arch, vmm_version, vmm_series, cpu_model] {
            input.text(text);
        }
        for number in [vmm, accelerator, *tsc_khz] {
            input.number(number);
        }
        input.bytes(&devices.0);
        let Origin { kernel, base, agent, agent_version } = &self.origin;
        for digest in [kernel, base, agent] {
            input.bytes(&digest.0);
        }
        input.text(agent_version);
        let Parts { state, memory_base, memory_diff, disk } = self.parts;
        for part in [state, memory_base, memory_diff, disk] {
            input.number(part.is_some().into());
            if let Some(part) = part {
                input.number(part.bytes);
                input.bytes(&part.digest.0);
            }
        }
        input.number(self.quiesced.into());
        input.number(self.copyable.into());
        input.text(&self.key);
        input.0
    }
}

/// Bytes in which every field begins with its length.
struct Input(Vec<u8>);

impl Input {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }
}

/// Why memory and device state cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum MemoryReason {
    /// It holds none.
    #[error("only the disk was kept")]
    DiskOnly,
    /// It held one, whose guest began to run and never answered.
    #[error("it was lost: a guest began to run from it and never answered")]
    Lost,
    /// Another VMM, or another series of it.
    #[error("it was taken by {was}; this host has {is}")]
    Vmm {
        /// The snapshot's.
        was: String,
        /// This host's.
        is: String,
    },
    /// Hardware against emulation.
    #[error("it was taken under {was}; this host has {is}")]
    Accelerator {
        /// The snapshot's.
        was: String,
        /// This host's.
        is: String,
    },
    /// Another virtual CPU.
    #[error("it was taken on the CPU {was}; this host gives {is}")]
    CpuModel {
        /// The snapshot's.
        was: String,
        /// This host's.
        is: String,
    },
    /// Another rate of the time stamp counter.
    #[error("its time stamp counter runs at {was} kHz; this host's at {is} kHz")]
    TscRate {
        /// The snapshot's.
        was: u64,
        /// This host's.
        is: u64,
    },
    /// Another arrangement of devices.
    #[error("its virtual devices are arranged in another way")]
    Devices,
}

/// Why nothing of it can be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Refused {
    /// Written by newer code.
    #[error("it was written by a newer Atoll (form {was}; this one reads up to {newest})")]
    Newer {
        /// The snapshot's.
        was: u32,
        /// Ours.
        newest: u32,
    },
    /// For another processor: not even its disk would boot.
    #[error("it is for {was}; this host is {is}")]
    Arch {
        /// The snapshot's.
        was: String,
        /// This host's.
        is: String,
    },
}

/// Whether base and diff are to become a new base while nobody waits: a pause costs what changed since the base, and a restore what
/// the diff holds, so a diff that outgrows a quarter of the memory is not carried on.
pub fn wants_flattening(base_is_empty: bool, diff_bytes: u64, memory_bytes: u64) -> bool {
    base_is_empty || diff_bytes > memory_bytes / 4
}

/// Whether a snapshot can be used on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Memory and all.
    Usable,
    /// The disk alone, by a cold boot that somebody must accept.
    MemoryUnusable(MemoryReason),
    /// Not at all.
    Refused(Refused),
}

/// Compares a manifest with the machine that is here.
pub fn judge(manifest: &Manifest, here: &Platform) -> Verdict {
    let there = &manifest.platform;
    if manifest.format > FORMAT {
        return Verdict::Refused(Refused::Newer { was: manifest.format, newest: FORMAT });
    }
    if there.arch != here.arch {
        return Verdict::Refused(Refused::Arch { was: there.arch.clone(), is: here.arch.clone() });
    }
    memory_reason(manifest, here).map_or(Verdict::Usable, Verdict::MemoryUnusable)
}

fn memory_reason(manifest: &Manifest, here: &Platform) -> Option<MemoryReason> {
    let there = &manifest.platform;
    if manifest.parts.state.is_none() {
        return Some(MemoryReason::DiskOnly);
    }
    if (there.vmm, &there.vmm_series) != (here.vmm, &here.vmm_series) {
        let name = |of: &Platform| format!("{:?} {}", of.vmm, of.vmm_version).to_lowercase();
        return Some(MemoryReason::Vmm { was: name(there), is: name(here) });
    }
    if there.accelerator != here.accelerator {
        let name = |of: &Platform| format!("{:?}", of.accelerator).to_lowercase();
        return Some(MemoryReason::Accelerator { was: name(there), is: name(here) });
    }
    if there.cpu_model != here.cpu_model {
        return Some(MemoryReason::CpuModel { was: there.cpu_model.clone(), is: here.cpu_model.clone() });
    }
    if !same_rate(there.tsc_khz, here.tsc_khz) {
        return Some(MemoryReason::TscRate { was: there.tsc_khz, is: here.tsc_khz });
    }
    (there.devices != here.devices).then_some(MemoryReason::Devices)
}

fn same_rate(a: u64, b: u64) -> bool {
    u128::from(a.abs_diff(b)) * 1_000_000 <= u128::from(a.max(b)) * u128::from(TSC_TOLERANCE_PPM)
}
