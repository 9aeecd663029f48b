//! Names and numbers that identify things, checked once where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// Identifies a task. A UUIDv7, so that ids sort by time of submission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError { what: "task id", given: shorten(text), rule: "a UUID such as 0197a2c4-…" };
        Uuid::try_parse(text).map(TaskId).map_err(|_| wrong())
    }
}

/// Identifies an API key; not secret. A UUIDv7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub Uuid);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError { what: "key id", given: shorten(text), rule: "a UUID such as 0197a2c4-…" };
        // Never shown when it is the key itself.
        if text.contains(crate::access::KEY_PREFIX) {
            return Err(IdError { given: "lsk_…".into(), ..wrong() });
        }
        Uuid::try_parse(text).map(KeyId).map_err(|_| wrong())
    }
}

/// Orders the attempts of all tasks; it only grows. A write with an older fence than the lease's is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fence with its task: what a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Held {
    pub task: TaskId,
    pub fence: Fence,
}

/// An identifier that was refused, and the rule it broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{given}` is not valid: expected {rule}")]
pub struct IdError {
    pub(crate) what: &'static str,
    pub(crate) given: String,
    pub(crate) rule: &'static str,
}

/// Cuts a value that came from outside to what an error message can bear.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 64 {
        text.to_owned()
    } else {
        text.chars().take(61).chain("...".chars()).collect()
    }
}

/// A checked name; where it is used, this module's and serde's names must be in sight.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let valid: fn(&str) -> bool = $check;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(IdError { what: $what, given: shorten(&text), rule: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use name_type;

/// A DNS label of at most 40 characters, so that every platform, address and environment can carry it.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= 40
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

name_type!(
    /// Names a fleet: a DNS label of at most 40 characters, so that every platform can carry it.
    FleetName,
    "fleet name",
    "1 to 40 of a-z, 0-9 and -, beginning with a letter and not ending with -",
    is_label
);

name_type!(
    /// Names a worker: the platform's own id (container id, pod name, or the name that a plan gave it).
    WorkerId,
    "worker id",
    "1 to 128 of letters, digits and . _ : / -",
    |text| {
        (1..=128).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '/' | '-'))
    }
);

name_type!(
    /// Names a conversation; chosen by the caller.
    ConversationId,
    "conversation id",
    "1 to 200 printable characters without spaces",
    |text| {
        (1..=200).contains(&text.chars().count()) && text.chars().all(|c| !c.is_control() && !c.is_whitespace())
    }
);

name_type!(
    /// Names a tenant: whoever tasks are run for; chosen by the caller. Tasks that name none belong to `default`.
    TenantName,
    "tenant",
    "1 to 64 of letters, digits and . _ @ : -, beginning with a letter or digit",
    |text| {
        (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | ':' | '-'))
    }
);

impl TenantName {
    /// The tenant of tasks that name none.
    pub const DEFAULT: &str = "default";

    /// Whether it is that of tasks that name none.
    pub fn is_default(&self) -> bool {
        self.as_str() == Self::DEFAULT
    }
}

impl Default for TenantName {
    fn default() -> Self {
        TenantName(Self::DEFAULT.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, valid: bool) {
        assert_eq!(FleetName::new(name).is_ok(), valid, "{name:?}");
    }

    #[test]
    fn fleet_names_are_dns_labels() {
        for name in ["a", "research", "a-1", &"x".repeat(40)] {
            check(name, true);
        }
        for name in ["", "A", "1a", "a-", "-a", "a_b", "a.b", "ä", "a b", &"x".repeat(41)] {
            check(name, false);
        }
    }

    #[test]
    fn an_error_names_the_rule_and_never_repeats_a_huge_value() {
        let error = FleetName::new("X".repeat(10_000)).expect_err("upper case is refused").to_string();
        assert!(error.contains("fleet name") && error.len() < 200, "{error}");
    }

    #[test]
    fn tenants_may_be_addresses_and_ids_but_no_sentences() {
        for name in ["acme", "7", "org_1.eu", "a@b.example", "urn:x:1", &"x".repeat(64)] {
            assert!(TenantName::new(name).is_ok(), "{name:?}");
        }
        for name in ["", "-a", "a b", "ä", "a/b", "a\n", &"x".repeat(65)] {
            assert!(TenantName::new(name).is_err(), "{name:?}");
        }
        assert_eq!(TenantName::new("default"), Ok(TenantName::default()));
    }

    #[test]
    fn conversation_ids_take_any_script_but_no_control_characters() {
        assert!(ConversationId::new("разговор-1").is_ok());
        assert!(ConversationId::new("a\u{0}b").is_err());
        assert!(ConversationId::new("a b").is_err());
    }
}
