//! A request as a head and a list of items, so that growing histories are stored once per element.

use serde_json::value::RawValue;

use crate::json::{entries, offset_of};

/// The fields whose lists grow from call to call: chat and messages, responses.
const LONG: [&str; 2] = ["messages", "input"];

/// A canonical text taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The text with `null` where the long list was.
    pub head: String,
    /// The name of the list that was taken out; `None`: the head is the whole text.
    pub field: Option<String>,
    /// The canonical text of each element.
    pub items: Vec<String>,
}

/// Takes a canonical text apart; a text without a long list, or that is no object, is all head.
///
/// Works on the text alone: nothing is parsed into numbers, so [`join`] restores it to the byte.
pub fn parts(canonical: &str) -> Parts {
    taken_apart(canonical).unwrap_or_else(|| Parts {
        head: canonical.to_owned(),
        field: None,
        items: Vec::new(),
    })
}

fn taken_apart(canonical: &str) -> Option<Parts> {
    let fields = entries(canonical)?;
    LONG.into_iter().find_map(|name| {
        let list = fields.iter().rev().find(|entry| entry.key == name)?.value.get();
        let items: Vec<&RawValue> = serde_json::from_str(list).ok()?;
        let items: Vec<_> = items.into_iter().map(|item| item.get().to_owned()).collect();
        // A list that was spaced out would come back without its spaces.
        let exact = written(&items) == list;
        exact.then(|| Parts { head: replaced(canonical, list, "null"), field: Some(name.to_owned()), items })
    })
}

/// Puts together what [`parts`] took apart.
pub fn join(head: &str, field: Option<&str>, items: &[String]) -> String {
    let fields = field.and_then(|_| entries(head)).unwrap_or_default();
    match fields.iter().rev().find(|entry| Some(&*entry.key) == field) {
        Some(gap) => replaced(head, gap.value.get(), &written(items)),
        None => head.to_owned(),
    }
}

fn written(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}

fn replaced(text: &str, part: &str, by: &str) -> String {
    let start = offset_of(text, part);
    [&text[..start], by, &text[start + part.len()..]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::any_body;
    use super::*;

    fn check(canonical: &str, head: &str, items: &[&str]) {
        let parts = parts(canonical);
        assert_eq!(
            (parts.head.as_str(), parts.items.iter().map(String::as_str).collect()),
            (head, items.to_vec())
        );
        assert_eq!(join(&parts.head, parts.field.as_deref(), &parts.items), canonical);
    }

    #[test]
    fn the_history_is_taken_out_of_its_request() {
        check(
            r#"{"messages":[{"a":1},"b",[]],"model":"m"}"#,
            r#"{"messages":null,"model":"m"}"#,
            &[r#"{"a":1}"#, r#""b""#, "[]"],
        );
        check(r#"{"a":"\"messages\":[1]","input":[1]}"#, r#"{"a":"\"messages\":[1]","input":null}"#, &["1"]);
        check(r#"{"input":[1],"messages":"text"}"#, r#"{"input":null,"messages":"text"}"#, &["1"]);
        check(r#"{"messages":[]}"#, r#"{"messages":null}"#, &[]);
    }

    #[test]
    fn what_has_no_history_is_all_head() {
        for text in
            [r#"{"input":"text"}"#, r#"{"a":{"messages":[1]}}"#, r#"{"messages":null}"#, "{}", "not JSON", ""]
        {
            check(text, text, &[]);
        }
    }

    #[test]
    fn numbers_and_depth_survive() {
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        let text = format!(r#"{{"messages":[1e999,0.1000,{deep}],"z":1e999}}"#);
        assert_eq!(parts(&text).items, ["1e999", "0.1000", &deep]);
        check(&text, r#"{"messages":null,"z":1e999}"#, &["1e999", "0.1000", &deep]);
    }

    proptest! {
        #[test]
        fn join_restores_exactly_what_parts_took_apart(body in any_body()) {
            let canonical = super::super::request(body.as_bytes(), &[]).expect("an object").canonical;
            let parts = parts(&canonical);
            prop_assert_eq!(join(&parts.head, parts.field.as_deref(), &parts.items), canonical);
        }

        #[test]
        fn any_text_comes_back(text in "[{}\\[\\]\":, a1]{0,20}|\\{\"input\":\\[ ?1, ?2\\]\\}") {
            let parts = parts(&text);
            prop_assert_eq!(join(&parts.head, parts.field.as_deref(), &parts.items), text);
        }
    }
}
