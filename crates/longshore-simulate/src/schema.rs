//! Values that fit a JSON schema, for the arguments of tool calls and for structured answers.
//!
//! Covers what SDKs generate from types: `$ref`, unions, enums, bounds. `pattern` is not looked at.

use serde_json::{Map, Value, json};

use crate::draw::Draw;
use crate::words;

/// Recursive types end here.
const MAX_DEPTH: usize = 12;

/// An object for the schema; required properties only.
pub(crate) fn object(schema: &Value, draw: &mut Draw) -> Value {
    match value(schema, schema, draw, 0) {
        object @ Value::Object(_) => object,
        _ => Value::Object(Map::new()),
    }
}

fn value(root: &Value, schema: &Value, draw: &mut Draw, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    if let Some(target) = schema["$ref"].as_str().and_then(|path| resolve(root, path)) {
        return value(root, target, draw, depth + 1);
    }
    if let Some(only) = schema.get("const") {
        return only.clone();
    }
    if let Some(members) = schema["enum"].as_array() {
        return draw.pick(members).cloned().unwrap_or(Value::Null);
    }
    for union in ["anyOf", "oneOf", "allOf"] {
        if let Some(chosen) = schema[union].as_array().and_then(|options| first_filled(options)) {
            return value(root, chosen, draw, depth + 1);
        }
    }
    match kind(schema) {
        "object" => properties(root, schema, draw, depth),
        "array" => items(root, schema, draw, depth),
        "integer" => integer(schema, draw),
        "number" => number(schema, draw),
        "boolean" => Value::Bool(draw.below(2) == 1),
        "null" => Value::Null,
        _ => Value::String(text(schema, draw)),
    }
}

fn resolve<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    root.pointer(path.strip_prefix('#')?)
}

/// The first option that is more than null.
fn first_filled(options: &[Value]) -> Option<&Value> {
    options.iter().find(|option| option["type"] != "null").or(options.first())
}

fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn properties(root: &Value, schema: &Value, draw: &mut Draw, depth: usize) -> Value {
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let filled = required.iter().filter_map(Value::as_str).map(|name| {
        let of = schema["properties"].get(name).unwrap_or(&Value::Null);
        (name.to_owned(), value(root, of, draw, depth + 1))
    });
    Value::Object(filled.collect())
}

fn items(root: &Value, schema: &Value, draw: &mut Draw, depth: usize) -> Value {
    let fixed = schema["prefixItems"].as_array().map_or(&[][..], Vec::as_slice);
    if !fixed.is_empty() {
        return fixed.iter().map(|item| value(root, item, draw, depth + 1)).collect();
    }
    let most = schema["maxItems"].as_u64().unwrap_or(1);
    let count = schema["minItems"].as_u64().unwrap_or(1).max(1).min(most.max(1)).min(64);
    let none = most == 0;
    (0..if none { 0 } else { count }).map(|_| value(root, &schema["items"], draw, depth + 1)).collect()
}

fn integer(schema: &Value, draw: &mut Draw) -> Value {
    let (low, high) = bounds(schema, 1.0);
    let (low, high) = (low.ceil() as i64, high.floor() as i64);
    json!(low.saturating_add(draw.below(high.saturating_sub(low).max(0).unsigned_abs() + 1) as i64))
}

fn number(schema: &Value, draw: &mut Draw) -> Value {
    let (low, high) = bounds(schema, 0.5);
    let drawn = low + (high - low).max(0.0) * draw.unit();
    // Few digits are easier to read; rounding must not leave the bounds.
    let rounded = (drawn * 100.0).round() / 100.0;
    json!(if (low..=high).contains(&rounded) { rounded } else { drawn })
}

/// An exclusive bound is moved inwards by `step`.
fn bounds(schema: &Value, step: f64) -> (f64, f64) {
    let bound = |name: &str, exclusive: &str, step: f64| {
        schema[name].as_f64().or_else(|| schema[exclusive].as_f64().map(|bound| bound + step))
    };
    match (bound("minimum", "exclusiveMinimum", step), bound("maximum", "exclusiveMaximum", -step)) {
        (Some(low), Some(high)) => (low, high),
        (Some(low), None) => (low, low + 99.0),
        (None, Some(high)) => (high.min(1.0), high),
        (None, None) => (1.0, 100.0),
    }
}

fn text(schema: &Value, draw: &mut Draw) -> String {
    let fixed = match schema["format"].as_str() {
        Some("date") => Some("2026-01-15".to_owned()),
        Some("time") => Some("12:30:00Z".to_owned()),
        Some("date-time") => Some("2026-01-15T12:30:00Z".to_owned()),
        Some("duration") => Some("PT1H".to_owned()),
        Some("email") => Some(format!("{}@example.com", words::word(draw))),
        Some("uri" | "url") => Some(format!("https://example.com/{}", words::word(draw))),
        Some("uuid") => Some(format!("00000000-0000-4000-8000-{:012x}", draw.next() >> 16)),
        _ => None,
    };
    fixed.unwrap_or_else(|| sized(schema, draw))
}

fn sized(schema: &Value, draw: &mut Draw) -> String {
    let least = schema["minLength"].as_u64().unwrap_or(0).min(4096) as usize;
    let mut text = format!("{} {}", words::word(draw), words::word(draw));
    while text.len() < least {
        text.push(' ');
        text.push_str(words::word(draw));
    }
    if let Some(most) = schema["maxLength"].as_u64() {
        text.truncate(usize::try_from(most).unwrap_or(usize::MAX).max(least));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use proptest::prelude::*;

    fn sample(schema: &Value, seed: u64) -> Value {
        object(schema, &mut Draw::new(seed, &Digest::of(b""), "arguments"))
    }

    fn check(property: Value, fits: impl Fn(&Value) -> bool) {
        let schema = json!({"type": "object", "properties": {"p": property}, "required": ["p"]});
        for seed in 0..50 {
            let made = sample(&schema, seed);
            assert!(fits(&made["p"]), "{property} gave {made}");
        }
    }

    #[test]
    fn each_type_gets_a_value_of_its_type() {
        check(json!({"type": "string"}), Value::is_string);
        check(json!({"type": "integer"}), Value::is_i64);
        check(json!({"type": "number"}), Value::is_f64);
        check(json!({"type": "boolean"}), Value::is_boolean);
        check(json!({"type": "array", "items": {"type": "integer"}}), |made| made[0].is_i64());
        check(json!({"type": ["null", "string"]}), Value::is_string);
        check(json!({"anyOf": [{"type": "null"}, {"type": "boolean"}]}), Value::is_boolean);
        check(json!({}), Value::is_string);
    }

    #[test]
    fn enums_and_bounds_are_kept() {
        check(json!({"enum": ["c", "f"]}), |made| made == "c" || made == "f");
        check(json!({"const": 7}), |made| made == 7);
        check(json!({"type": "integer", "minimum": 3, "maximum": 4}), |made| made == 3 || made == 4);
        check(json!({"type": "integer", "exclusiveMinimum": 0}), |made| made.as_i64() > Some(0));
        check(json!({"type": "string", "maxLength": 3}), |made| made.as_str().unwrap().len() <= 3);
        check(json!({"type": "string", "minLength": 40}), |made| made.as_str().unwrap().len() >= 40);
        check(json!({"type": "array", "minItems": 2, "maxItems": 3}), |made| {
            made.as_array().unwrap().len() == 2
        });
    }

    #[test]
    fn references_are_followed_and_recursion_ends() {
        let schema = json!({"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}},
            "required": ["n"]}}, "$ref": "#/$defs/n"});
        assert!(sample(&schema, 1)["n"]["n"].is_object());
    }

    proptest! {
        #[test]
        fn only_required_properties_are_given(seed: u64) {
            let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {}},
                "required": ["a"]});
            let made = sample(&schema, seed);
            prop_assert!(made.get("a").is_some() && made.get("b").is_none());
        }
    }
}
