//! API keys: how they look, how they are known again.
//!
//! How it works: a key is `atoll_` and 40 hex digits; the same digits after `e2b_` are the same key, for clients that insist on it.
//! The database holds the SHA-256 of the digits: with 160 random bits there is nothing to guess, so no slow hash is
//! needed, and finding the row by its hash compares nothing secret.
//!
//! Deliberately absent: passwords and sessions.

use atoll_domain::Principal;
use sha2::{Digest as _, Sha256};

use crate::random::hex;
use crate::{Control, ControlError};

const PREFIXES: [&str; 2] = ["atoll_", "e2b_"];
const DIGITS: usize = 40;

/// Makes a key of random bytes: the secret and its hash.
pub(crate) fn make(random: [u8; 20]) -> (String, String) {
    let digits = hex(&random);
    (format!("{}{digits}", PREFIXES[0]), hash(&digits))
}

fn hash(digits: &str) -> String {
    hex(&Sha256::digest(digits.as_bytes()))
}

/// The digits of what looks like a key.
fn digits(text: &str) -> Option<&str> {
    let digits = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix))?;
    (digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)
}

impl Control {
    /// Who presents an API key.
    ///
    /// # Errors
    /// [`ControlError::Unauthorized`], or a failing database.
    pub async fn authenticate_key(&self, secret: &str) -> Result<Principal, ControlError> {
        let digits = digits(secret.trim()).ok_or(ControlError::Unauthorized)?;
        let key = self.store().api_key_by_hash(&hash(&digits.to_ascii_lowercase())).await?;
        let key = key.ok_or(ControlError::Unauthorized)?;
        Ok(Principal::ApiKey { id: key.id, name: key.name, team: key.team })
    }

    /// The owner of the data directory, at the other end of its socket.
    pub fn local_principal(&self, uid: u32) -> Principal {
        Principal::Local { uid, team: self.first_team().clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_under_both_prefixes_and_nothing_else_is_one() {
        let (secret, hashed) = make([7; 20]);
        assert_eq!(hash(digits(&secret).unwrap()), hashed);
        let other = secret.replace("atoll_", "e2b_");
        assert_eq!(hash(digits(&other).unwrap()), hashed);
        for wrong in ["", "atoll_", "atoll_xyz", &secret[1..], &format!("{secret}0"), "wrn_0707"] {
            assert_eq!(digits(wrong), None, "{wrong}");
        }
    }
}
