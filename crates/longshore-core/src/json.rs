//! JSON that is carried, not read: bytes go out as they came in.
//!
//! Inputs, results and messages belong to the agent. Parsing them into numbers and back would change `1e400`,
//! long integers and key order, so only their syntax, size and depth are checked.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// How deeply arrays and objects may nest; deeper input makes some agents' parsers overflow their stack.
pub const MAX_DEPTH: usize = 64;

/// One JSON value, kept as its text.
#[derive(Clone)]
pub struct Json(Box<RawValue>);

/// Why a text is not acceptable JSON.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("not valid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("JSON nests {depth} levels deep; at most {MAX_DEPTH} are accepted")]
    TooDeep { depth: usize },
}

impl Json {
    pub fn parse(text: impl Into<String>) -> Result<Json, JsonError> {
        let text = text.into();
        // The depth first: the parser's own recursion limit gives a less helpful error.
        check_depth(&text)?;
        Ok(Json(RawValue::from_string(text)?))
    }

    /// Takes text that this program wrote itself or has checked before (a store's column).
    pub fn trusted(text: String) -> Result<Json, serde_json::Error> {
        RawValue::from_string(text).map(Json)
    }

    /// A JSON string that holds `text`.
    pub fn string(text: &str) -> Json {
        Self::of(&text)
    }

    /// The JSON of a value that cannot fail to serialise (no maps with keys other than strings).
    pub fn of(value: &impl Serialize) -> Json {
        Json(serde_json::value::to_raw_value(value).expect("plain data always serialises"))
    }

    pub fn null() -> Json {
        Self::of(&())
    }

    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Reads the value into a type, for the few places that must look inside.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.text())
    }

    pub fn check_depth(&self) -> Result<(), JsonError> {
        check_depth(self.text())
    }
}

/// Refuses text that nests deeper than [`MAX_DEPTH`]; does not check syntax.
pub fn check_depth(text: &str) -> Result<(), JsonError> {
    match depth(text.as_bytes()) {
        depth if depth > MAX_DEPTH => Err(JsonError::TooDeep { depth }),
        _ => Ok(()),
    }
}

fn depth(text: &[u8]) -> usize {
    let (mut now, mut most, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                now += 1;
                most = most.max(now);
            }
            (false, b']' | b'}') => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// One entry of an object, borrowed from the object's text.
pub struct Entry<'a> {
    pub key: Cow<'a, str>,
    pub value: &'a RawValue,
}

/// The entries of a JSON object in the order of its text, repeated keys included; `None` for any other text.
///
/// The values are slices of `text`, so that one of them can be replaced without touching a byte of the others.
pub fn entries(text: &str) -> Option<Vec<Entry<'_>>> {
    serde_json::from_str::<Entries<'_>>(text).ok().map(|entries| entries.0)
}

/// Where `part` lies in `whole`; it must be a slice of it.
pub fn offset_of(whole: &str, part: &str) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

struct Entries<'a>(Vec<Entry<'a>>);

/// A key that is borrowed unless it has escapes: a bare `Cow` would always be copied.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    entries.push(Entry { key, value });
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_key_order_survive() {
        let text = r#"{"z":1e400,"a":123456789012345678901234567890}"#;
        assert_eq!(Json::parse(text).expect("valid").text(), text);
    }

    #[test]
    fn entries_are_slices_of_their_object() {
        let text = r#" { "a" : [1, 2] , "\u0062":1e400,"a":null}"#;
        let entries = entries(text).expect("an object");
        let seen: Vec<_> = entries.iter().map(|entry| (&*entry.key, entry.value.get())).collect();
        assert_eq!(seen, [("a", "[1, 2]"), ("b", "1e400"), ("a", "null")]);
        let at = offset_of(text, entries[1].value.get());
        assert_eq!(&text[at..at + 5], "1e400");
        assert!(matches!(entries[0].key, Cow::Borrowed(_)), "a copied key has no place in the text");
        assert!(super::entries("[1]").is_none() && super::entries("{} x").is_none());
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert!(Json::parse(format!(r#""\"{}""#, "[".repeat(1000))).is_ok());
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused_with_both_numbers() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Json::parse(nested(64)).is_ok());
        let error = Json::parse(nested(65)).expect_err("too deep").to_string();
        assert!(error.contains("65") && error.contains("64"), "{error}");
        assert!(Json::parse(nested(100_000)).is_err());
    }
}
