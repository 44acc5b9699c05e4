//! The steps of a host agent that change something, by name.
//!
//! How it works: each journal entry has one, and so has everything that is made or given back between two entries; the kill
//! matrix has a case for each.
//!
//! Deliberately absent: what they do.

atoll_failpoint::steps! {
    /// A step.
    pub enum Step {
        /// The journal's first entry, and the directory.
        JournalCreate = "journal.create",
        /// A keeper is about to be started.
        JournalBoot = "journal.boot",
        /// Keeper and VMM run.
        JournalRunning = "journal.running",
        /// What is kept is about to be made.
        JournalPausing = "journal.pausing",
        /// It is kept.
        JournalPaused = "journal.paused",
        /// Base and diff became a new base.
        JournalFlattened = "journal.flattened",
        /// A VM is about to be made of what is kept.
        JournalResuming = "journal.resuming",
        /// What was kept of the memory is of no use.
        JournalMemoryLost = "journal.memory-lost",
        /// User code is about to stand still for a template.
        JournalCopying = "journal.copying",
        /// User code runs again.
        JournalRepaired = "journal.repaired",
        /// New limits.
        JournalLifetime = "journal.lifetime",
        /// An event is about to be told.
        JournalTold = "journal.told",
        /// A long journal, written anew, takes the place of the old one.
        JournalCompact = "journal.compact",
        /// Everything is to be given back.
        JournalTombstone = "journal.tombstone",
        /// The event is in the stream.
        EventAppend = "host.event",
        /// Events that the control plane has are forgotten.
        EventAcknowledge = "host.acknowledge",
        /// A slot is claimed.
        SlotClaim = "host.slot-claim",
        /// Disk, network and control groups are made.
        Make = "host.make",
        /// The keeper's spec.
        Spec = "host.spec",
        /// The next claim number.
        ClaimNumber = "host.claim-number",
        /// The keeper's process is started.
        Spawn = "host.spawn",
        /// The keeper is claimed.
        Claim = "host.claim",
        /// Token and environment are in the keeper's memory.
        Secrets = "host.secrets",
        /// The guest is told who it is.
        Init = "host.init",
        /// An earlier Atoll's keeper is claimed.
        Adopt = "host.adopt",
        /// User code is frozen for a pause.
        Freeze = "host.freeze",
        /// Memory and devices are written down.
        Snapshot = "host.snapshot",
        /// The manifest of what is kept.
        Manifest = "host.manifest",
        /// The restored guest's processors run.
        Continue = "host.continue",
        /// What is not needed any more of what was kept.
        Tidy = "host.tidy",
        /// An object is announced and its directory made.
        ObjectMake = "object.make",
        /// One more rests on an object.
        ObjectHold = "object.hold",
        /// A holder lets go.
        ObjectRelease = "object.release",
        /// An object's files are removed.
        ObjectRemove = "object.remove",
        /// The keeper is ended.
        EndKeeper = "host.end-keeper",
        /// Control groups are removed.
        RemoveGroups = "host.remove-groups",
        /// Namespace and interfaces are removed.
        RemoveNetwork = "host.remove-network",
        /// The directory is removed.
        RemoveDirectory = "host.remove-directory",
        /// The slot is given back.
        SlotRelease = "host.slot-release",
    }
}
