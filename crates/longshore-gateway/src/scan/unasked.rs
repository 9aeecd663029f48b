//! Takes out of a stream the usage that was asked for on the agent's behalf.
//!
//! Every other byte stays as the provider wrote it.

use std::borrow::Cow;
use std::ops::Range;

use longshore_core::json::{Entry, offset_of};

use super::key::Key;
use crate::fields::Fields;
use crate::sse::Event;

pub(super) struct Unasked(Key);

impl Default for Unasked {
    fn default() -> Self {
        Unasked(Key::new("\"usage\""))
    }
}

impl Unasked {
    /// Which bytes of the event to leave out: all of a chunk that carries only usage, `"usage":null` of another.
    ///
    /// A chunk with choices and usage was not asked for by us either, so it stays.
    pub fn bytes_in(&self, event: &Event<'_>) -> Option<Range<usize>> {
        let data = event.data.as_ref().filter(|data| self.0.is_in(data))?;
        let fields = Fields::read(data)?;
        let usage = fields.entry("usage")?;
        if usage.value.get() != "null" {
            let choices = fields.list("choices")?;
            return choices.is_empty().then_some(0..event.raw.len());
        }
        // Data over several lines is not a slice of the event. No provider sends it so, and a null harms nobody.
        let Cow::Borrowed(data) = data else { return None };
        let start = data.as_ptr().addr() - event.raw.as_ptr().addr();
        let within = entry_bytes(data, usage)?;
        Some(start + within.start..start + within.end)
    }
}

/// The bytes of one entry and of the comma that joins it to its neighbour.
fn entry_bytes(object: &str, entry: &Entry<'_>) -> Option<Range<usize>> {
    let Cow::Borrowed(key) = entry.key else { return None };
    let start = offset_of(object, key) - 1;
    let end = offset_of(object, entry.value.get()) + entry.value.get().len();
    if let Some(before) = object[..start].trim_end().strip_suffix(',') {
        return Some(before.len()..end);
    }
    let after = object[end..].trim_start().strip_prefix(',').map(str::trim_start);
    Some(start..after.map_or(end, |after| object.len() - after.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Splitter;

    fn check(event: &str, expected: &str) {
        let mut splitter = Splitter::new(1 << 16);
        splitter.push(event.as_bytes());
        let event = splitter.event().expect("short").expect("complete");
        let cut = Unasked::default().bytes_in(&event).unwrap_or(0..0);
        let left = [&event.raw[..cut.start], &event.raw[cut.end..]].concat();
        assert_eq!(String::from_utf8(left).expect("text"), expected);
    }

    #[test]
    fn a_null_goes_with_one_comma() {
        check("data: {\"a\":1 , \"usage\" : null}\r\n\r\n", "data: {\"a\":1 }\r\n\r\n");
        check("data: {\"a\":1,\"usage\":null,\"b\":2}\n\n", "data: {\"a\":1,\"b\":2}\n\n");
        check("id: 1\ndata:{ \"usage\":null , \"b\":2}\n\n", "id: 1\ndata:{ \"b\":2}\n\n");
        check("data: {\"usage\":null}\n\n", "data: {}\n\n");
    }

    #[test]
    fn a_chunk_of_usage_alone_goes_whole() {
        check("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n", "");
        check("data: {\"choices\":[ ],\ndata: \"usage\":{}}\n\n", "");
    }

    #[test]
    fn everything_else_stays() {
        for event in [
            "data: {\"choices\":[{\"index\":0}],\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"usage\":null}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":null\"}}]}\n\n",
            "data: {\"usage\":null\n\n",
            "data: {\"a\":1,\ndata: \"usage\":null}\n\n",
            ": \"usage\":null\n\n",
        ] {
            check(event, event);
        }
    }
}
