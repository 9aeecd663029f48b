//! Which requests are the same: the canonical form of a body, and its digest.

use std::fmt::Write;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What tells two requests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest of a request: its path, and its body with sorted keys and without how it is to be delivered.
    pub(crate) fn request(path: &str, body: &Value) -> Digest {
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend_from_slice(path.as_bytes());
        match body {
            Value::Object(map) => object(map, &["stream", "stream_options"], &mut bytes),
            other => canonical(other, &mut bytes),
        }
        Digest::of(&bytes)
    }

    pub(crate) fn number(&self) -> u64 {
        self.0[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Its first `bytes` bytes in hexadecimal.
    pub(crate) fn hex(&self, bytes: usize) -> String {
        self.0[..bytes].iter().fold(String::with_capacity(2 * bytes), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => object(map, &[], out),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        plain => serde_json::to_writer(out, plain).expect("a vector takes every byte"),
    }
}

/// Sorted here, not by the map: whether serde_json's maps are sorted is a feature that any crate may turn off.
fn object(map: &serde_json::Map<String, Value>, without: &[&str], out: &mut Vec<u8>) {
    let mut entries: Vec<_> = map.iter().filter(|(key, _)| !without.contains(&key.as_str())).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    out.push(b'{');
    for (key, value) in entries {
        serde_json::to_writer(&mut *out, key).expect("a vector takes every byte");
        out.push(b':');
        canonical(value, out);
        out.push(b',');
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(one: &str, two: &str, same: bool) {
        let digest = |text| Digest::request("/p", &serde_json::from_str(text).unwrap());
        assert_eq!(digest(one) == digest(two), same, "{one} {two}");
    }

    #[test]
    fn order_of_keys_and_delivery_do_not_count_but_everything_else_does() {
        check(r#"{"a":1,"b":{"c":2,"d":3}}"#, r#"{"b":{"d":3,"c":2},"a":1}"#, true);
        check(r#"{"a":1}"#, r#"{"a":1,"stream":true,"stream_options":{"include_usage":true}}"#, true);
        check(r#"{"a":1}"#, r#"{"a":2}"#, false);
        check(r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, false);
        check(r#"{"a":{"stream":true}}"#, r#"{"a":{}}"#, false);
        check(r#"{"a":["b","c"]}"#, r#"{"a":["b,c"]}"#, false);
    }
}
