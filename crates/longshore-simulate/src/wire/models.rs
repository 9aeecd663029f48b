//! Lists of models, as either provider writes them.

use serde_json::{Value, json};

use super::CREATED;

/// Shown where every name is a model.
const EXAMPLES: [&str; 5] =
    ["gpt-5", "gpt-5-mini", "text-embedding-3-small", "claude-opus-4-5", "claude-sonnet-4-5"];

pub(crate) fn list(anthropic: bool, models: &[String]) -> Value {
    let names: Vec<&str> = match models.is_empty() {
        true => EXAMPLES.to_vec(),
        false => models.iter().map(String::as_str).collect(),
    };
    let data: Vec<Value> = names.iter().map(|name| one(anthropic, name)).collect();
    match anthropic {
        true => json!({"data": data, "has_more": false, "first_id": names.first(), "last_id": names.last()}),
        false => json!({"object": "list", "data": data}),
    }
}

pub(crate) fn one(anthropic: bool, name: &str) -> Value {
    match anthropic {
        true => {
            json!({"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"})
        }
        false => json!({"id": name, "object": "model", "created": CREATED, "owned_by": "simulated"}),
    }
}
