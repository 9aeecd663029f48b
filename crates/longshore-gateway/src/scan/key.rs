//! Finds a key in JSON text faster than a parser: most chunks of a stream need no parsing at all.

use memchr::memmem::Finder;

/// A key with its quotes. Text that an answer quotes cannot look like one: its quotes are escaped.
pub(super) struct Key(Finder<'static>);

impl Key {
    /// `quoted` is the key with its quotes.
    pub fn new(quoted: &'static str) -> Key {
        Key(Finder::new(quoted))
    }

    /// Whether the key may be there, at any depth.
    pub fn is_in(&self, json: &str) -> bool {
        self.0.find(json.as_bytes()).is_some()
    }

    /// Whether the key may be there with a value other than null, at any depth.
    pub fn is_set_in(&self, json: &str) -> bool {
        self.0.find_iter(json.as_bytes()).any(|at| {
            let after = json[at + self.0.needle().len()..].trim_start();
            after.strip_prefix(':').is_some_and(|value| !value.trim_start().starts_with("null"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, is_in: bool, is_set: bool) {
        let key = Key::new("\"usage\"");
        assert_eq!((key.is_in(json), key.is_set_in(json)), (is_in, is_set), "{json}");
    }

    #[test]
    fn keys_are_told_from_values_and_quoted_text() {
        check(r#"{"usage":null}"#, true, false);
        check(r#"{"usage" : null, "x":{"usage" :{}}}"#, true, true);
        check(r#"{"x":"usage"}"#, true, false);
        check(r#"{"x":"\"usage\": 1"}"#, false, false);
        check(r#"{"xusage":1}"#, false, false);
        check(r#"{"usage""#, true, false);
    }
}
