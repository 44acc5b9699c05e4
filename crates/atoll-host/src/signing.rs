//! The key that signs what this instance keeps, and the check of what it kept.
//!
//! How it works: an Ed25519 key in the data directory's `keys/`, drawn at the first start, mode 0600. A manifest is a JSON document
//! beside its signature; the signature covers `Manifest::signing_input`, so its text may be laid out in any way. A key is named
//! by the first half of the BLAKE3 of its public half; what another key signed is foreign and refused.
//!
//! Deliberately absent: trust in other instances' keys; it comes with the exchange of snapshots between hosts.

use std::path::Path;

use atoll_domain::snapshot::{FORMAT, MAX_MANIFEST_BYTES, Manifest, Refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::StartError;
use crate::data_dir::replace;

const FILE: &str = "snapshot.pk8";

/// Why a manifest is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the manifest cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("the manifest is larger than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    #[error("the manifest is malformed")]
    Malformed,
    #[error("the manifest was signed by another key ({0})")]
    Foreign(String),
    #[error("the manifest was changed: its signature does not fit")]
    Signature,
    /// Whatever is to be done with it: nobody here knows what it means.
    #[error("{}", Refused::Newer { was: *.0, newest: FORMAT })]
    Newer(u32),
}

#[derive(Serialize, Deserialize)]
struct Signed {
    manifest: Manifest,
    signature: String,
}

/// Signs and checks manifests.
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    id: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.id)
    }
}

impl Signer {
    /// Reads the key of a directory, or draws one.
    pub(crate) fn open(keys: &Path) -> Result<Self, StartError> {
        let path = keys.join(FILE);
        let document = match std::fs::read(&path) {
            Ok(document) => document,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let drawn = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
                let none = |_| StartError::file("draw a key for", &path)(std::io::Error::other("no random bytes"));
                let document = drawn.map_err(none)?.as_ref().to_vec();
                replace(&path, &document, 0o600).map_err(StartError::file("write", &path))?;
                document
            }
            Err(error) => return Err(StartError::file("read", &path)(error)),
        };
        let malformed = |_| StartError::Malformed { path: path.clone(), why: "it holds no Ed25519 key".into() };
        let pair = Ed25519KeyPair::from_pkcs8(&document).map_err(malformed)?;
        let id = blake3::hash(pair.public_key().as_ref()).to_hex()[..32].to_owned();
        Ok(Self { pair, id })
    }

    /// The key's name.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The file's bytes for a manifest that names this key.
    pub(crate) fn sign(&self, manifest: &Manifest) -> std::io::Result<Vec<u8>> {
        let signature = STANDARD.encode(self.pair.sign(&manifest.signing_input()).as_ref());
        Ok(serde_json::to_vec_pretty(&Signed { manifest: manifest.clone(), signature })?)
    }

    /// Reads a manifest, checks its signature and that its form is known.
    pub(crate) fn read(&self, path: &Path) -> Result<Manifest, ManifestError> {
        if std::fs::metadata(path)?.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        self.check(&std::fs::read(path)?)
    }

    fn check(&self, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let Signed { manifest, signature } = serde_json::from_slice(bytes).map_err(|_| ManifestError::Malformed)?;
        if manifest.key != self.id {
            return Err(ManifestError::Foreign(manifest.key.chars().take(32).collect()));
        }
        let signature = STANDARD.decode(signature).map_err(|_| ManifestError::Malformed)?;
        let key = UnparsedPublicKey::new(&ED25519, self.pair.public_key().as_ref());
        key.verify(&manifest.signing_input(), &signature).map_err(|_| ManifestError::Signature)?;
        if manifest.format > FORMAT {
            return Err(ManifestError::Newer(manifest.format));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use atoll_domain::Shape;
    use atoll_domain::snapshot::{Digest, FORMAT, Origin, Parts};

    use super::*;

    fn manifest(signer: &Signer, format: u32) -> Manifest {
        let none = Digest([0; 32]);
        Manifest {
            format,
            id: "g".into(),
            created_at: 1,
            shape: Shape { vcpus: 1, memory_mb: 256, disk_mb: 256 },
            template: "base".into(),
            platform: crate::samples::platform(),
            origin: Origin { kernel: none, base: none, agent: none, agent_version: "1".into() },
            parts: Parts { state: None, memory_base: None, memory_diff: None, disk: None },
            quiesced: true,
            copyable: true,
            key: signer.id().to_owned(),
        }
    }

    #[test]
    fn a_manifest_is_read_by_the_key_that_signed_it_and_by_no_other() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (signer, foreign) = (Signer::open(one.path()).unwrap(), Signer::open(other.path()).unwrap());
        let ours = manifest(&signer, FORMAT);
        let signed = signer.sign(&ours).unwrap();
        assert_eq!(Signer::open(one.path()).unwrap().check(&signed).unwrap(), ours);
        assert!(matches!(foreign.check(&signed), Err(ManifestError::Foreign(_))));
        // Signed by the other key, and claiming to be ours.
        let forged = foreign.sign(&ours).unwrap();
        assert!(matches!(signer.check(&forged), Err(ManifestError::Signature)));
        let text = String::from_utf8(signed).unwrap().replace("\"quiesced\": true", "\"quiesced\": false");
        assert!(matches!(signer.check(text.as_bytes()), Err(ManifestError::Signature)));
    }

    #[test]
    fn a_newer_form_is_refused_though_the_signature_fits() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(dir.path()).unwrap();
        let newer = manifest(&signer, FORMAT + 1);
        let refused = signer.check(&signer.sign(&newer).unwrap()).unwrap_err();
        assert!(matches!(refused, ManifestError::Newer(form) if form == FORMAT + 1));
        assert!(refused.to_string().contains("newer Atoll"), "{refused}");
    }
}
