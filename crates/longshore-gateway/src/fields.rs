//! Looks into a JSON object without reading more of it than was asked for.

use longshore_core::json::{Entry, entries};
use serde_json::value::RawValue;

/// An object's entries as slices of its text. A field that is null or of another type counts as absent, since
/// providers differ in what they send and no oddity of theirs may stop an answer.
pub(crate) struct Fields<'a>(Vec<Entry<'a>>);

impl<'a> Fields<'a> {
    pub fn read(text: &'a str) -> Option<Fields<'a>> {
        entries(text).map(Fields)
    }

    pub fn all(&self) -> &[Entry<'a>] {
        &self.0
    }

    /// The entry of that name, null or not; the last one, as JSON parsers have it.
    pub fn entry(&self, key: &str) -> Option<&Entry<'a>> {
        self.0.iter().rev().find(|entry| entry.key == key)
    }

    /// The text of a value that is not null.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.entry(key).map(|entry| entry.value.get()).filter(|text| *text != "null")
    }

    pub fn fields(&self, key: &str) -> Option<Fields<'a>> {
        self.text(key).and_then(Fields::read)
    }

    pub fn list(&self, key: &str) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.text(key)?).ok()
    }

    pub fn string(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.text(key)?).ok()
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        serde_json::from_str(self.text(key)?).ok()
    }

    pub fn is_true(&self, key: &str) -> bool {
        self.text(key) == Some("true")
    }
}
