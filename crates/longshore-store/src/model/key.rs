//! API keys, and to whom tasks belong.

use longshore_core::access::Scope;
use longshore_core::id::{FleetName, KeyId, TenantName};
use longshore_core::time::Timestamp;

/// The SHA-256 of an API key: all that is kept of it.
pub type KeyHash = [u8; 32];

/// A key that was just made.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub id: KeyId,
    pub hash: KeyHash,
    pub name: String,
    /// Its last letters.
    pub hint: String,
    pub scope: Scope,
    /// `None`: never.
    pub expires_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    pub id: KeyId,
    pub hash: KeyHash,
    pub name: String,
    pub hint: String,
    pub scope: Scope,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// When it was last seen, to the minute.
    pub used_at: Option<Timestamp>,
}

/// To whom a task belongs: what the scope of a key is held against.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub fleet: FleetName,
    pub tenant: TenantName,
}
