//! The one error body: `application/problem+json` (RFC 9457) with a stable `code`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// What failed, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, thiserror::Error)]
#[error("{detail} [{code}]")]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// Stable; programs may match on it.
    pub code: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Which parts of the request were at fault, for example one entry per line of a batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Detail>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Detail {
    /// For example `line 3` or `input`.
    pub at: String,
    pub detail: String,
}

impl Problem {
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("urn:longshore:problem:{code}"),
            title: code.replace('_', " "),
            status,
            detail: detail.into(),
            code: Cow::Borrowed(code),
            hint: None,
            errors: Vec::new(),
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    pub fn errors(mut self, errors: Vec<Detail>) -> Problem {
        self.errors = errors;
        self
    }
}
