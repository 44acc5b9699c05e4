//! Which booted, idle sandboxes are kept so that a create is a restore.
//!
//! How it works: a configured list of shapes per base template, the more important first. A golden belongs to one combination of kernel,
//! base image, agent and VMM ([`Golden::identity`]); one of another combination is stale, and so is one that this machine cannot
//! restore ([`Golden::usable`]). [`plan`] says what to drop and what to boot: stale ones and those of shapes that are not configured
//! go; over the budget the least recently used goes first; what is missing and fits is booted. How large one is shows when it is
//! there, so a plan is made again after each. Dropping one only drops a reference: whatever was started from it keeps its objects.
//! [`start`] says how a create begins.
//!
//! Deliberately absent: booting, and sharing between teams: goldens are the platform's, of templates without a team.

use serde::{Deserialize, Serialize};

use crate::snapshot::Digest;
use crate::validate::{DEFAULT_DISK_MB, Invalid, MAX_VCPUS, MIN_MEMORY_MB};
use crate::{Shape, validate};

/// The size of a golden. Its disk is always the default one; a larger one is grown after the restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GoldenShape {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
}

impl GoldenShape {
    /// Reads `VCPUSxMEMORY_MB`, as in `1x512`.
    ///
    /// # Errors
    /// Another form, or out of bounds.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let malformed = || Invalid::new("golden_shapes", "malformed", "a shape is VCPUSxMEMORY_MB, as in 1x512");
        let (vcpus, memory) = text.trim().split_once('x').ok_or_else(malformed)?;
        let (vcpus, memory_mb) = (vcpus.parse().map_err(|_| malformed())?, memory.parse().map_err(|_| malformed())?);
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(Invalid::range("golden_shapes", vcpus.into(), 1, MAX_VCPUS.into(), "virtual CPUs"));
        }
        if !(MIN_MEMORY_MB..=1024 * 1024).contains(&memory_mb) {
            return Err(Invalid::range("golden_shapes", memory_mb.into(), MIN_MEMORY_MB.into(), 1024 * 1024, "MiB"));
        }
        Ok(Self { vcpus, memory_mb })
    }

    /// The golden that a sandbox of this shape could be restored from: its disk must not be smaller than the golden's.
    pub fn of(shape: Shape) -> Option<Self> {
        let fits = shape.disk_mb >= DEFAULT_DISK_MB;
        fits.then_some(Self { vcpus: shape.vcpus, memory_mb: shape.memory_mb })
    }

    /// What is booted for it.
    pub fn shape(self) -> Shape {
        Shape { vcpus: self.vcpus, memory_mb: self.memory_mb, disk_mb: validate::DEFAULT_DISK_MB }
    }
}

/// One that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// The base template.
    pub template: String,
    /// Its size.
    pub shape: GoldenShape,
    /// Digest of kernel, base image, agent and VMM together.
    pub identity: Digest,
    /// Whether this machine can restore it: the same processor, clock rate and devices, and a manifest that can be read.
    pub usable: bool,
    /// Allocated bytes.
    pub bytes: u64,
    /// When a create used it last, by any clock that grows; 0 before the first.
    pub used: u64,
}

/// One that shall be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The base template.
    pub template: String,
    /// Its size.
    pub shape: GoldenShape,
    /// What it would be made of now.
    pub identity: Digest,
    /// How many bytes it takes, if one was made before, or is expected to take.
    pub bytes: u64,
}

/// What is to be done about goldens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// References to drop, by position in `there`.
    pub drop: Vec<usize>,
    /// What to boot, in this order, by position in `wanted`.
    pub boot: Vec<usize>,
}

/// Decides what to keep within `budget` bytes.
///
/// A golden that is there is kept while it fits, whatever the order of the configuration; what is missing is booted only into room that
/// is free, so that two shapes that do not both fit never push each other out in turn. Among those used equally long ago the last in
/// `there` goes first.
pub fn plan(wanted: &[Wanted], there: &[Golden], budget: u64) -> Plan {
    let current = |golden: &Golden| {
        let is_it =
            |w: &Wanted| w.template == golden.template && w.shape == golden.shape && w.identity == golden.identity;
        golden.usable && wanted.iter().any(is_it)
    };
    let (mut keep, mut drop): (Vec<usize>, Vec<usize>) = (0..there.len()).partition(|at| current(&there[*at]));
    let total = |keep: &[usize]| keep.iter().map(|at| there[*at].bytes).fold(0, u64::saturating_add);
    keep.sort_by_key(|at| std::cmp::Reverse(there[*at].used));
    while total(&keep) > budget {
        drop.extend(keep.pop());
    }
    let mut free = budget - total(&keep);
    let mut boot = Vec::new();
    for (at, want) in wanted.iter().enumerate() {
        let is_there = keep.iter().any(|k| there[*k].template == want.template && there[*k].shape == want.shape);
        let twice = boot.iter().any(|b: &usize| wanted[*b].template == want.template && wanted[*b].shape == want.shape);
        if !is_there && !twice && want.bytes <= free && budget > 0 {
            free -= want.bytes;
            boot.push(at);
        }
    }
    drop.sort_unstable();
    Plan { drop, boot }
}

/// How a create begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From this golden, by its position; `grow` when the disk is larger than the golden's.
    Restore {
        /// Which.
        golden: usize,
        /// Whether block device and file system are grown afterwards.
        grow: bool,
    },
    /// By a boot.
    Cold(WhyCold),
}

/// Why a create boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyCold {
    /// It was asked for.
    Asked,
    /// There is none of this shape.
    NoGolden,
    /// The disk is smaller than a golden's, and a disk does not shrink.
    SmallDisk,
}

/// Decides how a create begins.
pub fn start(template: &str, shape: Shape, identity: &Digest, cold: bool, there: &[Golden]) -> Start {
    if cold {
        return Start::Cold(WhyCold::Asked);
    }
    let Some(wanted) = GoldenShape::of(shape) else { return Start::Cold(WhyCold::SmallDisk) };
    let fits = |g: &Golden| g.usable && g.template == template && g.shape == wanted && g.identity == *identity;
    match there.iter().position(fits) {
        Some(golden) => Start::Restore { golden, grow: shape.disk_mb > DEFAULT_DISK_MB },
        None => Start::Cold(WhyCold::NoGolden),
    }
}
