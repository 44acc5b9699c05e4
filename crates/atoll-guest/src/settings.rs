//! What `/init` told the agent: token, environment, default user and directory.
//!
//! How it works: one struct under a lock; a change replaces only what it names, and tokens are compared in constant
//! time.
//!
//! Deliberately absent: keeping it: it lives in memory, and in a snapshot's.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::AgentError;

/// The user when nobody names one.
const DEFAULT_USER: &str = "user";

/// How much of a process's last output is kept unless the host says otherwise, and its bounds.
const OUTPUT: usize = 1 << 20;
const OUTPUT_LEAST: usize = 64 << 10;
const OUTPUT_MOST: usize = 64 << 20;

/// What holds for every request until the next `/init`.
pub(crate) struct Settings {
    /// Answers without a token until one is set: for tests on a developer's machine.
    open: bool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    token: Option<String>,
    envs: BTreeMap<String, String>,
    user: Option<String>,
    workdir: Option<String>,
    generation: Option<String>,
    output_bytes: Option<usize>,
}

/// Changes to the settings; what is absent stays.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) token: Option<String>,
    pub(crate) envs: Option<BTreeMap<String, String>>,
    pub(crate) user: Option<String>,
    pub(crate) workdir: Option<String>,
    /// Which life of the machine this is.
    pub(crate) generation: Option<String>,
    /// How much of a process's last output is kept, in bytes.
    pub(crate) output_bytes: Option<u64>,
}

impl Settings {
    pub(crate) fn new(open: bool) -> Self {
        Self { open, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a token was set already.
    pub(crate) fn has_token(&self) -> bool {
        self.lock().token.is_some()
    }

    /// Checks a caller's token in constant time.
    pub(crate) fn check(&self, offered: Option<&[u8]>) -> Result<(), AgentError> {
        let inner = self.lock();
        let right = match (&inner.token, offered) {
            (None, _) => self.open,
            (Some(token), Some(offered)) => {
                bool::from(Sha256::digest(token.as_bytes()).as_slice().ct_eq(Sha256::digest(offered).as_slice()))
            }
            (Some(_), None) => false,
        };
        if right { Ok(()) } else { Err(AgentError::BadToken) }
    }

    /// Checks the signature of a file URL: a digest of path, operation, user, token
    /// and, when there is one, the second it expires at.
    pub(crate) fn check_signature(&self, signature: &str, signed: &SignedFile<'_>, now: u64) -> Result<(), AgentError> {
        use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
        let inner = self.lock();
        let token = inner.token.as_ref().ok_or(AgentError::BadToken)?;
        let mut text = format!("{}:{}:{}:{token}", signed.path, signed.operation, signed.user);
        if let Some(expiration) = signed.expiration {
            text.push(':');
            text.push_str(&expiration.to_string());
        }
        let wanted = format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)));
        if !bool::from(wanted.as_bytes().ct_eq(signature.as_bytes())) {
            return Err(AgentError::BadToken);
        }
        match signed.expiration {
            Some(expiration) if expiration < now => Err(AgentError::SignatureExpired),
            _ => Ok(()),
        }
    }

    /// Takes changes over; `true` when the machine has another life than before.
    pub(crate) fn change(&self, change: Change) -> bool {
        let mut inner = self.lock();
        if let Some(token) = change.token {
            inner.token = Some(token);
        }
        if let Some(envs) = change.envs {
            inner.envs = envs;
        }
        if let Some(user) = change.user {
            inner.user = Some(user);
        }
        if let Some(workdir) = change.workdir {
            inner.workdir = Some(workdir);
        }
        if let Some(bytes) = change.output_bytes {
            inner.output_bytes = Some(usize::try_from(bytes).unwrap_or(usize::MAX).clamp(OUTPUT_LEAST, OUTPUT_MOST));
        }
        let reborn = change.generation.is_some() && inner.generation != change.generation;
        if reborn {
            inner.generation = change.generation;
        }
        reborn
    }

    /// How much of the next process's last output is kept, in bytes.
    pub(crate) fn output_bytes(&self) -> usize {
        self.lock().output_bytes.unwrap_or(OUTPUT)
    }

    pub(crate) fn envs(&self) -> BTreeMap<String, String> {
        self.lock().envs.clone()
    }

    pub(crate) fn workdir(&self) -> Option<String> {
        self.lock().workdir.clone()
    }

    pub(crate) fn default_user(&self) -> String {
        self.lock().user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned())
    }
}

/// What the signature of a file URL is made over.
pub(crate) struct SignedFile<'a> {
    pub(crate) path: &'a str,
    /// `read` or `write`.
    pub(crate) operation: &'a str,
    /// As in the query; may be empty.
    pub(crate) user: &'a str,
    /// Seconds since 1970 UTC.
    pub(crate) expiration: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_token(token: &str) -> Settings {
        let settings = Settings::new(false);
        settings.change(Change { token: Some(token.into()), ..Change::default() });
        settings
    }

    #[test]
    fn nobody_gets_in_before_a_token_is_set() {
        assert!(Settings::new(false).check(Some(b"anything")).is_err());
        assert!(Settings::new(false).check(None).is_err());
        assert!(Settings::new(true).check(None).is_ok());
    }

    #[test]
    fn only_the_whole_token_opens() {
        let settings = with_token("secret");
        assert!(settings.check(Some(b"secret")).is_ok());
        for wrong in [&b""[..], b"secre", b"secret1", b"SECRET"] {
            assert!(settings.check(Some(wrong)).is_err());
        }
        assert!(settings.check(None).is_err());
    }

    #[test]
    fn a_signature_binds_path_operation_and_expiry() {
        let settings = with_token("t");
        // Computed outside: base64(sha256("/a:read::t:100")) and without the expiry.
        let file = |operation, expiration| SignedFile { path: "/a", operation, user: "", expiration };
        let sign = |text: &str| {
            use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
            format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
        };
        let signature = sign("/a:read::t:100");
        assert!(settings.check_signature(&signature, &file("read", Some(100)), 99).is_ok());
        assert!(matches!(
            settings.check_signature(&signature, &file("read", Some(100)), 101),
            Err(AgentError::SignatureExpired)
        ));
        assert!(settings.check_signature(&signature, &file("write", Some(100)), 99).is_err());
        assert!(settings.check_signature(&signature, &file("read", None), 99).is_err());
        assert!(settings.check_signature(&sign("/a:read::t"), &file("read", None), 99).is_ok());
    }
}
