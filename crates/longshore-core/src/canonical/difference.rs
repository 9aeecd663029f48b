//! Where two requests part: what a person is shown when a replayed agent asks something new.

use std::cmp::Ordering;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::json::{Entry, entries};

/// How much of a value is shown, and how much of that lies before the first character that differs.
const SHOWN: usize = 200;
const BEFORE: usize = 80;

/// Stands for a value that the other side lacks.
const NOTHING: &str = "(nothing)";

/// The first place where two texts differ; `was` and `now` are JSON texts, cut to what matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// As a program would write it: `messages[3].content`; empty for the whole.
    pub path: String,
    pub was: String,
    pub now: String,
}

/// Finds the first difference of two canonical texts in document order; `None`: they are equal.
///
/// Only the differing branch is looked into, level by level, so depth costs no stack.
pub fn difference(was: &str, now: &str) -> Option<Difference> {
    if was == now {
        return None;
    }
    let (mut path, mut sides) = (String::new(), (Some(was), Some(now)));
    while let (Some(was), Some(now)) = sides {
        let Some(deeper) = in_objects(was, now).or_else(|| in_lists(was, now)) else { break };
        path.push_str(&deeper.step);
        sides = (deeper.was, deeper.now);
    }
    let path = path.strip_prefix('.').unwrap_or(&path).to_owned();
    let (was, now) = shown(sides.0, sides.1);
    Some(Difference { path, was, now })
}

/// One level down: which entry or element, and its two texts.
struct Deeper<'a> {
    step: String,
    was: Option<&'a str>,
    now: Option<&'a str>,
}

/// The first entry that differs, both objects being sorted by key.
fn in_objects<'a>(was: &'a str, now: &'a str) -> Option<Deeper<'a>> {
    let (was, now) = (entries(was)?, entries(now)?);
    let (mut was, mut now) = (was.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (was.peek(), now.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(now)) => was.key.cmp(&now.key),
        };
        let old = if order.is_le() { was.next() } else { None };
        let new = if order.is_ge() { now.next() } else { None };
        let text = |entry: Option<&Entry<'a>>| entry.map(|entry| entry.value.get());
        let key = old.or(new).map_or("", |entry| &entry.key);
        if text(old) != text(new) {
            return Some(Deeper { step: key_step(key), was: text(old), now: text(new) });
        }
    }
}

/// The first element that differs, or the first that one side lacks.
fn in_lists<'a>(was: &'a str, now: &'a str) -> Option<Deeper<'a>> {
    let list = |text: &'a str| serde_json::from_str::<Vec<&'a RawValue>>(text).ok();
    let (was, now) = (list(was)?, list(now)?);
    (0..was.len().max(now.len()))
        .map(|at| (at, was.get(at).map(|item| item.get()), now.get(at).map(|item| item.get())))
        .find(|(_, was, now)| was != now)
        .map(|(at, was, now)| Deeper { step: format!("[{at}]"), was, now })
}

/// `.content`, or `["odd key"]` where a dot would mislead.
fn key_step(key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if plain { format!(".{key}") } else { format!("[{}]", Value::from(key)) }
}

/// Both values around the first character that differs.
fn shown(was: Option<&str>, now: Option<&str>) -> (String, String) {
    let same = match (was, now) {
        (Some(was), Some(now)) => was.chars().zip(now.chars()).take_while(|(a, b)| a == b).count(),
        _ => 0,
    };
    // A value that fits is not cut merely because it differs late.
    let fits = |text: Option<&str>| text.is_none_or(|text| text.chars().nth(SHOWN).is_none());
    let start = if fits(was) && fits(now) { 0 } else { same.saturating_sub(BEFORE) };
    (cut(was, start), cut(now, start))
}

fn cut(text: Option<&str>, start: usize) -> String {
    let Some(text) = text else { return NOTHING.to_owned() };
    let mut chars = text.chars().skip(start);
    let middle: String = chars.by_ref().take(SHOWN).collect();
    let before = if start > 0 { "…" } else { "" };
    let after = if chars.next().is_some() { "…" } else { "" };
    format!("{before}{middle}{after}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::any_body;
    use super::*;

    fn check(was: &str, now: &str, path: &str, old: &str, new: &str) {
        let found = difference(was, now).expect("they differ");
        assert_eq!((found.path.as_str(), found.was.as_str(), found.now.as_str()), (path, old, new));
        let back = difference(now, was).expect("they differ");
        assert_eq!((back.path.as_str(), back.was.as_str(), back.now.as_str()), (path, new, old));
    }

    #[test]
    fn a_clock_in_the_prompt_is_shown_with_what_surrounds_it() {
        let prompt = |clock: &str| {
            let text = format!("{}It is {clock}. {}", "You are careful. ".repeat(40), "Be kind. ".repeat(40));
            format!(r#"{{"messages":[{{"content":"{text}","role":"system"}}],"model":"m"}}"#)
        };
        let found = difference(&prompt("10:31"), &prompt("10:47")).expect("they differ");
        assert_eq!(found.path, "messages[0].content");
        assert!(found.was.starts_with('…') && found.was.ends_with('…'), "{found:?}");
        assert!(found.was.contains("It is 10:31.") && found.now.contains("It is 10:47."), "{found:?}");
        assert_eq!(found.was.chars().count(), SHOWN + 2);
    }

    #[test]
    fn a_random_tool_result_is_found_in_its_message() {
        check(
            r#"{"messages":[{"role":"user"},{"content":"id 17","role":"tool"},{"content":"x"}]}"#,
            r#"{"messages":[{"role":"user"},{"content":"id 93","role":"tool"},{"content":"y"}]}"#,
            "messages[1].content",
            r#""id 17""#,
            r#""id 93""#,
        );
    }

    #[test]
    fn an_added_message_is_missing_on_the_other_side() {
        check(
            r#"{"messages":[1]}"#,
            r#"{"messages":[1,{"role":"user"}]}"#,
            "messages[1]",
            NOTHING,
            r#"{"role":"user"}"#,
        );
    }

    #[test]
    fn a_different_model_or_a_new_field_is_named() {
        check(
            r#"{"messages":[],"model":"a"}"#,
            r#"{"messages":[],"model":"b"}"#,
            "model",
            r#""a""#,
            r#""b""#,
        );
        check(r#"{"a":1,"b":2}"#, r#"{"b":3}"#, "a", "1", NOTHING);
        check(r#"{"a":1}"#, r#"{"a":"1"}"#, "a", "1", r#""1""#);
        check(r#"{"a":[1]}"#, r#"{"a":{"b":1}}"#, "a", "[1]", r#"{"b":1}"#);
    }

    #[test]
    fn odd_keys_and_texts_that_are_no_json_are_shown_as_they_are() {
        check(r#"{"a.b":{"":1}}"#, r#"{"a.b":{"":2}}"#, r#"["a.b"][""]"#, "1", "2");
        check("left", "right", "", "left", "right");
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = |leaf: &str| format!("{}{leaf}{}", "[".repeat(2_000), "]".repeat(2_000));
        let found = difference(&deep("1"), &deep("2")).expect("they differ");
        assert_eq!((found.path, found.was, found.now), ("[0]".repeat(2_000), "1".into(), "2".into()));
    }

    proptest! {
        #[test]
        fn a_difference_is_shown_exactly_when_there_is_one(a in any_body(), b in any_body()) {
            let found = difference(&a, &b);
            prop_assert_eq!(found.is_some(), a != b);
            prop_assert!(found.is_none_or(|found| found.was != found.now));
            prop_assert_eq!(difference(&a, &a), None);
        }
    }
}
