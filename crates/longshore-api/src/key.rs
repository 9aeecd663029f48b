//! API keys on the public API, `/v1/keys`.

use std::fmt;

use longshore_core::access::Verb;
use longshore_core::id::{FleetName, KeyId, TenantName};
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A key to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// For people: 1 to 100 characters.
    pub name: String,
    /// `read`, `submit`, `operate`, `admin`, `join`; absent: `read` and `submit`.
    #[serde(default = "usual_verbs")]
    #[schema(value_type = Vec<String>)]
    pub verbs: Vec<Verb>,
    /// Absent or empty: all fleets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub fleets: Vec<FleetName>,
    /// Absent: all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantName>,
    /// Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// What a program needs that submits tasks and reads their results.
pub fn usual_verbs() -> Vec<Verb> {
    vec![Verb::Read, Verb::Submit]
}

/// A key without what is secret about it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Key {
    #[schema(value_type = String)]
    pub id: KeyId,
    pub name: String,
    /// Its last letters, such as `lsk_…x7Qa`.
    pub hint: String,
    #[schema(value_type = Vec<String>)]
    pub verbs: Vec<Verb>,
    /// Empty: all fleets.
    #[schema(value_type = Vec<String>)]
    pub fleets: Vec<FleetName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantName>,
    /// `good`, `expired` or `revoked`.
    pub standing: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// To the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used_at: Option<Timestamp>,
}

/// A key that was just made. `key` is shown this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    /// `lsk_` and 43 letters and digits.
    pub key: String,
    #[serde(flatten)]
    pub about: Key,
}

impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedKey").field("about", &self.about).finish_non_exhaustive()
    }
}

/// Newest first, revoked and expired ones too.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    pub items: Vec<Key>,
}
