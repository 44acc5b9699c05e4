//! Digests of files: BLAKE3.
//!
//! How it works: 32 bytes that are written as 64 hexadecimal digits.
//!
//! Deliberately absent: keys and signatures; the manifest above has them.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::PIECE;
use crate::KeeperError;

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = KeeperError;

    fn from_str(text: &str) -> Result<Self, KeeperError> {
        let hash = blake3::Hash::from_hex(text);
        hash.map(Self::from).map_err(|e| KeeperError::Spec(format!("`{text}` is no digest: {e}")))
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of a whole file and its length in bytes; the file's position plays no part.
///
/// # Errors
/// When it cannot be read.
pub fn digest_of(file: &File) -> Result<(Digest, u64), KeeperError> {
    digest_of_while(file, &|| true)
}

/// The same, as long as `go_on` says so; it is asked between pieces.
///
/// # Errors
/// As [`digest_of`], and [`KeeperError::CalledOff`].
pub fn digest_of_while(file: &File, go_on: &dyn Fn() -> bool) -> Result<(Digest, u64), KeeperError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    loop {
        if !go_on() {
            return Err(KeeperError::CalledOff);
        }
        let read = match file.read_at(&mut buffer, offset) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(KeeperError::step("read a file for its digest"))?,
        };
        if read == 0 {
            return Ok((hasher.finalize().into(), offset));
        }
        hasher.update(&buffer[..read]);
        offset += read as u64;
    }
}
