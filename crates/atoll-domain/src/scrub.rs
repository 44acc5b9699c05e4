//! What reading everything again came to, and who is named for what was found.
//!
//! How it works: a host keeps objects, which several rest on, and paused sandboxes. What of an object is damaged harms those who will read
//! it again: a golden and a template all of it, a sandbox that was started from it its memory alone, because the disk was copied
//! and the device state loaded when it began ([`harmed`]).
//!
//! Deliberately absent: reading, and mending: what to do about it is its owner's to decide.

use serde::{Deserialize, Serialize};

use crate::objects::Holder;

/// What a kept thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DamageKind {
    /// A snapshot template; by id.
    Template,
    /// A booted guest that creates restore; by template, shape and identity.
    Golden,
    /// A sandbox, paused or mapped from what is damaged; by id.
    Sandbox,
}

impl DamageKind {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Golden => "golden",
            Self::Sandbox => "sandbox",
        }
    }
}

/// Something that is kept and does not hold what it must.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Damage {
    /// What it is.
    pub kind: DamageKind,
    /// Which.
    pub id: String,
    /// The file, and what is wrong with it; no path of the host.
    pub reason: String,
}

/// What was read, and what of it is damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Files.
    pub files: u64,
    /// Their lengths together, in bytes; holes count.
    pub bytes: u64,
    /// Sorted by kind and id.
    pub damaged: Vec<Damage>,
}

/// Which part of an object is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectPart {
    /// Manifest or memory image.
    Memory,
    /// What is read when a sandbox begins: device state, disk, what it was started from.
    Beginning,
}

/// Whom a damage of an object harms, of those who rest on it.
pub fn harmed(part: ObjectPart, holder: &Holder) -> Option<(DamageKind, String)> {
    match (holder, part) {
        (Holder::Golden { name }, _) => Some((DamageKind::Golden, name.clone())),
        (Holder::Template { id }, _) => Some((DamageKind::Template, id.clone())),
        (Holder::Running { sandbox, .. } | Holder::Generation { sandbox, .. }, ObjectPart::Memory) => {
            Some((DamageKind::Sandbox, sandbox.to_string()))
        }
        (Holder::Running { .. } | Holder::Generation { .. }, ObjectPart::Beginning) | (Holder::Step { .. }, _) => None,
    }
}
