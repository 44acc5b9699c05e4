//! Slots: the machine-wide numbers from which a sandbox's uid, addresses and names follow.
//!
//! How it works: a claim is a file `<dir>/slots/<number>` that names its instance and sandbox, made under one lock, so that
//! instances that know nothing of each other never share a number; its address is in it, too, for instances whose pools overlap. A claim is given back only when everything that it named
//! is gone. The directory lies on a tmpfs, as namespaces and interfaces do not survive a reboot either; where it was wiped while VMs
//! ran, each is claimed again under the number that its VM has.
//!
//! Deliberately absent: reservations ahead of need, leases.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_domain::{InstanceId, SandboxId};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{NetError, Pool};

/// How many sandboxes a machine can have.
pub const SLOTS: u32 = 32_768;
/// uid and gid of slot 0; far above what Debian gives to people and services.
const FIRST_UID: u32 = 2_000_000;
/// A claim takes well under a millisecond, so a lock held for so long is held by something broken.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// A claimed number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

impl Slot {
    /// The uid, and gid, of the sandbox's keeper and VMM.
    pub fn uid(self) -> u32 {
        FIRST_UID + self.0
    }

    /// The slot of a keeper's uid; none for a uid that no slot has.
    pub fn of_uid(uid: u32) -> Option<Self> {
        uid.checked_sub(FIRST_UID).filter(|number| *number < SLOTS).map(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    instance: InstanceId,
    sandbox: SandboxId,
    /// The host's end of its link; not in claims of an older Atoll.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<Ipv4Addr>,
}

impl Claim {
    fn new(instance: &InstanceId, sandbox: &SandboxId, pool: Pool, slot: Slot) -> Self {
        Self { instance: instance.clone(), sandbox: sandbox.clone(), address: Some(pool.link(slot.0).0) }
    }

    fn is_of(&self, instance: &InstanceId, sandbox: &SandboxId) -> bool {
        self.instance == *instance && self.sandbox == *sandbox
    }
}

/// The claims of this machine.
#[derive(Debug, Clone)]
pub struct Slots {
    dir: PathBuf,
}

impl Slots {
    /// The machine's own claims, in `/run/atoll`.
    pub fn of_machine() -> Self {
        Self::at(Path::new("/run/atoll"))
    }

    /// Claims in another directory.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where they are: the directory of what all instances of the machine share.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Claims the lowest free number whose address in the pool is free, too; the same sandbox gets the same number again.
    ///
    /// # Errors
    /// When all are taken, or the directory cannot be used.
    pub fn claim(&self, instance: &InstanceId, sandbox: &SandboxId, pool: Pool) -> Result<Slot, NetError> {
        let _lock = self.lock()?;
        let taken = self.read()?;
        if let Some((slot, _)) = taken.iter().find(|(_, claim)| claim.is_of(instance, sandbox)) {
            return Ok(*slot);
        }
        let numbers: HashSet<u32> = taken.iter().map(|(slot, _)| slot.0).collect();
        let addresses: HashSet<Ipv4Addr> = taken.iter().filter_map(|(_, claim)| claim.address).collect();
        let is_free = |number: &u32| !numbers.contains(number) && !addresses.contains(&pool.link(*number).0);
        let limit = pool.slots();
        let slot = Slot((0..limit).find(is_free).ok_or(NetError::NoSlot { limit })?);
        self.write(slot, &Claim::new(instance, sandbox, pool, slot))?;
        Ok(slot)
    }

    /// Claims the number that a sandbox has already, because its VM runs with it: the claims may have been wiped since.
    ///
    /// # Errors
    /// When somebody else has it now, or the directory cannot be used.
    pub fn claim_again(
        &self,
        instance: &InstanceId,
        sandbox: &SandboxId,
        pool: Pool,
        slot: Slot,
    ) -> Result<(), NetError> {
        let _lock = self.lock()?;
        let wanted = Claim::new(instance, sandbox, pool, slot);
        let all = self.read()?;
        let (own, others): (Vec<_>, Vec<_>) = all.iter().partition(|(_, claim)| claim.is_of(instance, sandbox));
        let own = own.into_iter().find(|(taken, _)| *taken == slot);
        let number = others.iter().find(|(taken, _)| *taken == slot);
        let address = others.iter().find(|(_, claim)| claim.address == wanted.address);
        if own.is_none() && number.is_none() && address.is_some() {
            // Its number, and so its uid, is its own at least.
            self.write(slot, &Claim { address: None, ..wanted.clone() })?;
        }
        match (own, number.or(address)) {
            (Some((_, claim)), _) if claim.address.is_some() => Ok(()),
            // An older Atoll's.
            (Some(_), None) => self.replace(slot, &wanted),
            (None, None) => self.write(slot, &wanted),
            (_, Some((_, Claim { instance, sandbox, .. }))) => {
                Err(NetError::SlotTaken { slot: slot.0, instance: instance.clone(), sandbox: sandbox.clone() })
            }
        }
    }

    /// Gives a number back; one that is claimed by somebody else, or by nobody, is left alone.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn release(&self, instance: &InstanceId, sandbox: &SandboxId) -> Result<(), NetError> {
        let _lock = self.lock()?;
        for (slot, claim) in self.read()? {
            if claim.is_of(instance, sandbox) {
                let path = self.path(slot);
                fs::remove_file(&path).map_err(NetError::file("remove", &path))?;
            }
        }
        Ok(())
    }

    /// What an instance has claimed.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn of_instance(&self, instance: &InstanceId) -> Result<Vec<(Slot, SandboxId)>, NetError> {
        let _lock = self.lock()?;
        let all = self.read()?.into_iter();
        let mut mine: Vec<_> = all.filter(|(_, c)| c.instance == *instance).map(|(s, c)| (s, c.sandbox)).collect();
        mine.sort();
        Ok(mine)
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.dir.join("slots").join(slot.0.to_string())
    }

    fn lock(&self) -> Result<Flock<File>, NetError> {
        let slots = self.dir.join("slots");
        fs::create_dir_all(&slots).map_err(NetError::file("create", &slots))?;
        // Closed to others: whoever can open the lock file can hold its lock.
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&self.dir, closed).map_err(NetError::file("set the mode of", &self.dir))?;
        let path = self.dir.join("lock");
        let mut file = File::create(&path).map_err(NetError::file("create", &path))?;
        let started = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((back, Errno::EWOULDBLOCK)) if started.elapsed() < LOCK_LIMIT => file = back,
                Err((_, errno)) => return Err(NetError::file("lock", &path)(errno.into())),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn read(&self) -> Result<Vec<(Slot, Claim)>, NetError> {
        let dir = self.dir.join("slots");
        let mut out = Vec::new();
        for entry in fs::read_dir(&dir).map_err(NetError::file("read", &dir))? {
            // One that is overlooked would be given out twice.
            let entry = entry.map_err(NetError::file("read", &dir))?;
            let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let path = entry.path();
            let text = fs::read(&path).map_err(NetError::file("read", &path))?;
            if let Ok(claim) = serde_json::from_slice(&text) {
                out.push((Slot(number), claim));
            } else {
                // Cut short by a crash: its writer had not answered yet, so nobody relies on it.
                fs::remove_file(&path).map_err(NetError::file("remove", &path))?;
            }
        }
        Ok(out)
    }

    /// A claim is there before and after.
    fn replace(&self, slot: Slot, claim: &Claim) -> Result<(), NetError> {
        let (path, new) = (self.path(slot), self.path(slot).with_extension("new"));
        let text = serde_json::to_vec(claim).map_err(|e| NetError::file("write", &path)(std::io::Error::other(e)))?;
        fs::write(&new, text).map_err(NetError::file("write", &new))?;
        fs::rename(&new, &path).map_err(NetError::file("replace", &path))
    }

    fn write(&self, slot: Slot, claim: &Claim) -> Result<(), NetError> {
        let path = self.path(slot);
        let text = serde_json::to_vec(claim).map_err(|e| NetError::file("write", &path)(std::io::Error::other(e)))?;
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = file.map_err(NetError::file("create", &path))?;
        file.write_all(&text).map_err(NetError::file("write", &path))
    }
}
