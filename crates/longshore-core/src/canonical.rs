//! The canonical form of a model request: two requests that mean the same have the same text.
//!
//! Owns what identity looks at and what it leaves out. Never sent to a provider: the agent's own bytes are.

mod difference;
mod parts;

use serde::Serialize;
use serde_json::{Map, Value};

pub use difference::{Difference, difference};
pub use parts::{Parts, join, parts};

/// Top-level fields that say nothing about the answer: who asks, how it is billed, how the stream is dressed.
const LEFT_OUT: [&str; 6] =
    ["metadata", "user", "safety_identifier", "prompt_cache_key", "request_id", "stream_options"];

/// Fields that bound the output, the newest name first; a request that has two means the newer.
const MAX_OUTPUT: [&str; 3] = ["max_completion_tokens", "max_output_tokens", "max_tokens"];

/// Argument strings may hold argument strings; below this depth they stay strings, so that no body can exhaust the stack.
const MAX_DEPTH: usize = 128;

/// What the gateway must know of a request before it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub canonical: String,
    pub stream: bool,
    pub model: Option<String>,
    pub max_output: Option<u64>,
}

/// Reads a request body; `ignore` names further top-level fields that identity leaves out.
///
/// Shape: JSON with sorted keys and no white space. A string under a key `arguments` that holds a JSON object or list
/// stands as that JSON: agent libraries write tool arguments anew, with other spaces and key order.
/// Errors: `None` when the body is not a JSON object that can be read (nested too deep, a number beyond floating
/// point); identity is then by raw bytes.
pub fn request(body: &[u8], ignore: &[String]) -> Option<Request> {
    let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let kept = |key: &str| !LEFT_OUT.contains(&key) && !ignore.iter().any(|other| other == key);
    let mut canonical = Vec::with_capacity(body.len());
    write_object(&mut canonical, fields.iter().filter(|(key, _)| kept(key)), 1);
    Some(Request {
        canonical: String::from_utf8(canonical).expect("serde_json writes UTF-8"),
        stream: fields.get("stream").and_then(Value::as_bool).unwrap_or(false),
        model: fields.get("model").and_then(Value::as_str).map(str::to_owned),
        max_output: MAX_OUTPUT.iter().find_map(|name| fields.get(*name)?.as_u64()),
    })
}

fn write(out: &mut Vec<u8>, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) => write_object(out, fields.iter(), depth + 1),
        Value::Array(items) => write_list(out, items, depth + 1),
        plain => write_plain(out, plain),
    }
}

/// Null, truth values, numbers and strings stand as serde_json prints them.
fn write_plain(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("plain values can be written, and memory takes them");
}

/// Sorts by itself: whether serde_json's own map is sorted depends on what other crates ask of it.
fn write_object<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = (&'a String, &'a Value)>, depth: usize) {
    let mut fields: Vec<_> = fields.collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    out.push(b'{');
    for (at, (key, value)) in fields.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_plain(out, key);
        out.push(b':');
        match arguments(key, value, depth) {
            Some(parsed) => write(out, &parsed, depth),
            None => write(out, value, depth),
        }
    }
    out.push(b'}');
}

fn write_list(out: &mut Vec<u8>, items: &[Value], depth: usize) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item, depth);
    }
    out.push(b']');
}

/// The JSON inside an argument string, if that is what it is.
fn arguments(key: &str, value: &Value, depth: usize) -> Option<Value> {
    let text = value.as_str().filter(|_| key == "arguments" && depth < MAX_DEPTH)?;
    let parsed: Value = serde_json::from_str(text).ok()?;
    (parsed.is_object() || parsed.is_array()).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(body: &str) -> Option<String> {
        request(body.as_bytes(), &["seed".to_owned()]).map(|request| request.canonical)
    }

    fn check(body: &str, expected: &str) {
        assert_eq!(canonical(body).as_deref(), Some(expected), "{body}");
    }

    fn check_refused(body: &str) {
        assert_eq!(canonical(body), None, "{body}");
    }

    #[test]
    fn order_and_white_space_do_not_matter() {
        check(
            r#" {"b" : [1, 2.50, null], "a":{"d":"ö","c":true} }"#,
            r#"{"a":{"c":true,"d":"ö"},"b":[1,2.5,null]}"#,
        );
    }

    #[test]
    fn escapes_are_written_one_way() {
        check(r#"{"\u0061":"\u00f6\/\u000a"}"#, r#"{"a":"ö/\n"}"#);
    }

    #[test]
    fn what_says_nothing_about_the_answer_is_left_out_at_the_top_only() {
        check(
            r#"{"user":"u","metadata":{},"request_id":"r","prompt_cache_key":"k","safety_identifier":"s",
                "stream_options":{"include_usage":true},"seed":7,"tool":{"user":"kept","seed":7}}"#,
            r#"{"tool":{"seed":7,"user":"kept"}}"#,
        );
    }

    #[test]
    fn argument_strings_are_compared_as_json() {
        let one =
            r#"{"messages":[{"tool_calls":[{"function":{"arguments":"{\"city\": \"Oslo\", \"at\":1}"}}]}]}"#;
        let other =
            r#"{"messages":[{"tool_calls":[{"function":{"arguments":"{\"at\":1,\"city\":\"Oslo\"}"}}]}]}"#;
        let expected = r#"{"messages":[{"tool_calls":[{"function":{"arguments":{"at":1,"city":"Oslo"}}}]}]}"#;
        check(one, expected);
        check(other, expected);
    }

    #[test]
    fn argument_strings_that_hold_no_object_stay_strings() {
        check(r#"{"arguments":"12"}"#, r#"{"arguments":"12"}"#);
        check(r#"{"arguments":""}"#, r#"{"arguments":""}"#);
        check(r#"{"arguments":"{\"a\":"}"#, r#"{"arguments":"{\"a\":"}"#);
        check(r#"{"content":"{\"a\": 1}"}"#, r#"{"content":"{\"a\": 1}"}"#);
    }

    #[test]
    fn arguments_inside_arguments_are_read_too() {
        check(r#"{"arguments":"{\"arguments\":\"[ 1 ]\"}"}"#, r#"{"arguments":{"arguments":[1]}}"#);
    }

    #[test]
    fn what_cannot_be_read_exactly_has_no_canonical_form() {
        for body in ["", "[1]", "\"text\"", "{\"a\":1", "{\"a\":1e400}", "<html>", "{} {}"] {
            check_refused(body);
        }
        check_refused(&format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200)));
        assert_eq!(request(b"{\"a\":\"\xff\"}", &[]), None);
    }

    #[test]
    fn argument_strings_are_not_read_however_deep_they_nest() {
        let deep = |inside: &str| format!("{}{inside}{}", "[".repeat(100), "]".repeat(100));
        let field = |value: String| format!(r#"{{"arguments":{}}}"#, Value::from(value));
        let mut body = deep("1");
        for _ in 0..6 {
            body = field(deep(&body));
        }
        let canonical = canonical(&body).expect("an object");
        let error = crate::json::check_depth(&canonical).expect_err("some strings were read");
        let crate::json::JsonError::TooDeep { depth } = error else { panic!("{error}") };
        assert!(depth > MAX_DEPTH && depth < 2 * MAX_DEPTH, "{depth}");
    }

    #[test]
    fn the_gateway_learns_what_it_must_know() {
        let body = br#"{"model":"m","stream":true,"max_tokens":5,"max_completion_tokens":9,"user":"u"}"#;
        let read = request(body, &[]).expect("an object");
        assert_eq!((read.model.as_deref(), read.stream, read.max_output), (Some("m"), true, Some(9)));
        let bare = request(br#"{"model":3,"max_tokens":null}"#, &[]).expect("an object");
        assert_eq!((bare.model, bare.stream, bare.max_output), (None, false, None));
    }

    /// Texts of values whose keys repeat neither each other nor the fields that are left out.
    pub(super) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-zö\"\\\\\n{}\\[\\]:,]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any_key(), inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    pub(super) fn any_key() -> impl Strategy<Value = String> {
        prop_oneof![Just("messages".into()), Just("input".into()), Just("arguments".into()), "[a-dö\"{]{1,3}"]
    }

    pub(super) fn any_body() -> impl Strategy<Value = String> {
        prop::collection::btree_map(any_key(), any_value(), 0..6)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()).to_string())
    }

    proptest! {
        #[test]
        fn a_canonical_text_is_its_own_canonical_text(body in any_body()) {
            let once = canonical(&body).expect("an object");
            prop_assert_eq!(canonical(&once), Some(once));
        }

        #[test]
        fn any_bytes_are_read_or_refused(body: Vec<u8>) {
            request(&body, &[]);
        }
    }
}
