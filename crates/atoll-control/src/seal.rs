//! Secrets of sandboxes at rest: the agent's token and the environment, so that a paused one can go on.
//!
//! How it works: XChaCha20-Poly1305 under a key that lies in a file outside the database, with a random nonce of 192 bits for each
//! sealing and the sandbox's id as associated data, so that what was sealed for one sandbox opens for no other. The text is
//! `v1.<key>.<base64>`: the key's name, made of its digest, says which file is missing when it does not open.
//!
//! Deliberately absent: the file itself (the binary's), and rotation: a name in the text leaves room for it.

use std::fmt;

use atoll_domain::SandboxId;
use atoll_domain::host::SandboxSecrets;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use sha2::{Digest as _, Sha256};

use crate::ControlError;
use crate::random::{bytes, hex};

const FORM: &str = "v1";
const NONCE: usize = 24;

/// Seals secrets and opens them again.
#[derive(Clone)]
pub struct SealingKey {
    cipher: XChaCha20Poly1305,
    name: String,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.name)
    }
}

impl SealingKey {
    /// A key of random bytes.
    pub fn new(key: [u8; 32]) -> Self {
        let digest = Sha256::new().chain_update(b"atoll sealing key\0").chain_update(key).finalize();
        Self { cipher: XChaCha20Poly1305::new(&key.into()), name: hex(&digest[..4]) }
    }

    /// Seals a sandbox's secrets.
    pub(crate) fn seal(&self, id: &SandboxId, secrets: &SandboxSecrets) -> Result<String, ControlError> {
        let failed = |what: &str| ControlError::Internal(format!("secrets cannot be sealed: {what}"));
        let plain = serde_json::to_vec(secrets).map_err(|_| failed("they are no text"))?;
        let nonce: [u8; NONCE] = bytes()?;
        let payload = Payload { msg: &plain, aad: id.as_str().as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| failed("they are too long"))?;
        let whole = [&nonce[..], &sealed].concat();
        Ok(format!("{FORM}.{}.{}", self.name, STANDARD_NO_PAD.encode(whole)))
    }

    /// Opens what was sealed for this sandbox.
    pub(crate) fn open(&self, id: &SandboxId, sealed: Option<&str>) -> Result<SandboxSecrets, ControlError> {
        let lost = |why: String| ControlError::SecretsUnavailable { id: id.to_string(), why };
        let sealed = sealed.ok_or_else(|| lost("none were kept".into()))?;
        let mut parts = sealed.splitn(3, '.');
        let (Some(FORM), Some(name), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(lost("they were sealed by a newer Atoll".into()));
        };
        if name != self.name {
            let name: String = name.chars().take(16).collect();
            let why = format!(
                "they were sealed with the key {name}, and keys/secrets.key of the data directory is {}: put that file back",
                self.name
            );
            return Err(lost(why));
        }
        let damaged = || lost("they are damaged".into());
        let whole = STANDARD_NO_PAD.decode(text).map_err(|_| damaged())?;
        let (nonce, sealed) = whole.split_first_chunk::<NONCE>().ok_or_else(damaged)?;
        let payload = Payload { msg: sealed, aad: id.as_str().as_bytes() };
        let plain = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| damaged())?;
        serde_json::from_slice(&plain).map_err(|_| damaged())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atoll_domain::host::GuestToken;

    use super::*;

    fn secrets() -> SandboxSecrets {
        let envs = BTreeMap::from([("PASSWORD".to_owned(), "hunter2".to_owned())]);
        SandboxSecrets { token: GuestToken::from_random([7; 32]), envs }
    }

    fn id(n: u8) -> SandboxId {
        SandboxId::from_random([n; 16])
    }

    #[test]
    fn what_is_sealed_opens_for_its_sandbox_alone_and_tells_nothing() {
        let key = SealingKey::new([1; 32]);
        let sealed = key.seal(&id(1), &secrets()).unwrap();
        assert_eq!(key.open(&id(1), Some(&sealed)).unwrap(), secrets());
        assert!(key.open(&id(2), Some(&sealed)).is_err(), "another sandbox's");
        assert!(!sealed.contains("hunter2") && !format!("{key:?}").contains("1, 1"));
        assert_ne!(key.seal(&id(1), &secrets()).unwrap(), sealed, "a nonce is never used twice");
    }

    #[test]
    fn another_key_a_changed_byte_and_nothing_at_all_are_told_apart() {
        let (key, other) = (SealingKey::new([1; 32]), SealingKey::new([2; 32]));
        let sealed = key.seal(&id(1), &secrets()).unwrap();
        let why = |key: &SealingKey, sealed: Option<&str>| key.open(&id(1), sealed).unwrap_err().to_string();
        let wrong = why(&other, Some(&sealed));
        assert!(wrong.contains(&key.name) && wrong.contains(&other.name) && wrong.contains("put that file back"));
        let last = if sealed.ends_with('A') { "B" } else { "A" };
        let changed = format!("{}{last}", &sealed[..sealed.len() - 1]);
        assert!(why(&key, Some(&changed)).contains("damaged"));
        for odd in ["", "v1", "v1.x", "v2.a.b"] {
            assert!(why(&key, Some(odd)).contains("newer"), "{odd}");
        }
        assert!(why(&key, Some(&format!("v1.{}.", key.name))).contains("damaged"));
        assert!(why(&key, None).contains("none were kept"));
        assert!(!wrong.contains("hunter2"));
    }
}
