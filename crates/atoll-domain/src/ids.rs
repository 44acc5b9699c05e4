//! Typed identifiers.
//!
//! How it works: each id is a short ASCII text with a fixed prefix and lower-case base-36 digits. Ids are made from
//! random bytes that the caller supplies, so this crate stays pure. Sandbox ids hold no dash and at most 40 characters,
//! because they become a DNS label in a sandbox's URL.
//!
//! Deliberately absent: any source of randomness, ordering by time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not an id of the asked kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected `{prefix}` and lower-case letters and digits, at most {max} characters")]
pub struct InvalidId {
    kind: &'static str,
    prefix: &'static str,
    max: usize,
    text: String,
}

const MAX_LEN: usize = 40;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Writes 128 random bits as 25 base-36 digits.
fn base36(random: [u8; 16]) -> String {
    let mut value = u128::from_be_bytes(random);
    let mut out = [b'0'; 25];
    for slot in out.iter_mut().rev() {
        let digit = usize::try_from(value % 36).unwrap_or(0);
        *slot = DIGITS[digit];
        value /= 36;
    }
    out.iter().map(|b| char::from(*b)).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id from 128 random bits.
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(format!("{}{}", $prefix, base36(random)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                let rest = text.strip_prefix($prefix).unwrap_or("");
                let good = !rest.is_empty()
                    && text.len() <= MAX_LEN
                    && rest.bytes().all(|b| DIGITS.contains(&b));
                if good {
                    Ok(Self(text))
                } else {
                    let text = text.chars().take(64).collect();
                    Err(InvalidId { kind: $kind, prefix: $prefix, max: MAX_LEN, text })
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// A sandbox: `sb` and 25 base-36 digits, fit for a DNS label.
    SandboxId, "sb", "sandbox id"
);
id!(
    /// A team, the owner of sandboxes and keys.
    TeamId, "team-", "team id"
);
id!(
    /// A person with an account.
    UserId, "usr-", "user id"
);
id!(
    /// An API key (its id, never its secret).
    KeyId, "key-", "API key id"
);
id!(
    /// A machine that runs sandboxes.
    HostId, "host-", "host id"
);
id!(
    /// One call to a host; the same id replayed has the same effect once.
    OperationId, "op-", "operation id"
);
id!(
    /// One request to the API, named in answers and log lines.
    RequestId, "req-", "request id"
);

/// One Atoll on a machine: six lower-case hex digits that stand in the names of its namespaces, interfaces, tables and cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

impl InstanceId {
    /// Makes an instance id from three random bytes.
    pub fn from_random(random: [u8; 3]) -> Self {
        let [a, b, c] = random;
        Self(format!("{a:02x}{b:02x}{c:02x}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        if text.len() == 6 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text))
        } else {
            let text = text.chars().take(64).collect();
            Err(InvalidId { kind: "instance id", prefix: "six hex digits", max: 6, text })
        }
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How often a sandbox has been brought to life: 1 at create, one more at each resume or cold start.
///
/// A call that names an older incarnation than the host's is stale and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The incarnation of a sandbox that is being created.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
