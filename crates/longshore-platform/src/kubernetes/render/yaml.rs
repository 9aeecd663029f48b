//! YAML in and out.

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

/// Keys that people look for first, in this order; the others follow by name.
const FIRST: [&str; 9] =
    ["apiVersion", "kind", "metadata", "name", "namespace", "image", "command", "args", "workingDir"];

/// A text that is no YAML, and where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(String);

/// All documents of a text; empty ones are left out.
///
/// As Kubernetes reads YAML: `on` is a truth value and 0440 is octal.
pub(super) fn read_all(text: &str) -> Result<Vec<Value>, ReadError> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| ReadError(error.to_string()))
}

/// Objects as one text of several documents.
pub fn print(objects: &[Value]) -> String {
    let documents: Vec<String> = objects.iter().map(print_one).collect();
    documents.join("---\n")
}

/// One document. The same value always gives the same text; no line is folded.
pub fn print_one(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let text = serde_saphyr::to_string_with_options(&Ordered(value), options);
    text.expect("JSON has nothing that YAML cannot say")
}

struct Ordered<'a>(&'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| (rank(key), *key));
                let mut out = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    out.serialize_entry(key, &Ordered(value))?;
                }
                out.end()
            }
            Value::Array(items) => {
                let mut out = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    out.serialize_element(&Ordered(item))?;
                }
                out.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

fn rank(key: &str) -> usize {
    FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_reader_would_take_for_something_else_is_quoted() {
        for text in [
            "yes",
            "no",
            "on",
            "off",
            "y",
            "n",
            "true",
            "null",
            "~",
            "",
            " ",
            "1e3",
            "0x1",
            "0o7",
            "0440",
            "1_000",
            "1:30",
            ".inf",
            ".nan",
            "2001-01-01",
            "=",
            "<<",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a`",
            "{a}",
            "[a]",
            "'a'",
            "\"a\"",
            "100%",
            "1",
            "-1",
            "+1",
            "1.0",
            "---",
            "...",
            "|",
            ">",
            "a\tb",
        ] {
            let printed = print_one(&json!({ "key": text }));
            assert_eq!(read_all(&printed).expect("it reads"), [json!({ "key": text })], "{printed}");
            let plain = printed.trim_start_matches("key: ").trim_end();
            let quoted = plain.starts_with(['"', '\'']);
            assert!(
                quoted || plain.parse::<f64>().is_err() && plain == "100%",
                "{text:?} is printed {plain}"
            );
        }
    }

    #[test]
    fn keys_stand_where_people_look_for_them_and_lines_are_not_folded() {
        let long = "x ".repeat(200) + "x";
        let value = json!({
            "spec": { "b": [1, 2], "a": { "image": long, "name": "m", "env": [] } },
            "kind": "K", "metadata": { "labels": {}, "name": "m" }, "data": "a\nb\n", "apiVersion": "v1",
        });
        let expected = format!(
            "apiVersion: v1\nkind: K\nmetadata:\n  name: m\n  labels: {{}}\ndata: |\n  a\n  b\nspec:\n  a:\n    \
             name: m\n    image: {long}\n    env: []\n  b:\n  - 1\n  - 2\n"
        );
        assert_eq!(print_one(&value), expected);
    }

    #[test]
    fn a_text_of_several_documents_is_read_as_kubernetes_does() {
        let text = "# nothing\n---\na: on\nmode: 0440\n---\n---\nb: null\n";
        let read = read_all(text).expect("it reads");
        assert_eq!(read, [json!({ "a": true, "mode": 288 }), json!({ "b": null })]);
        let error = read_all("a: 1\nb: [\n").expect_err("it ends too soon").to_string();
        assert!(error.contains("line"), "{error}");
        assert!(read_all("a: 1\na: 2\n").is_err(), "two of a key");
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof!["[ -~\n\t]{0,40}", "\\PC{0,20}", "[0-9_.:eExX+-]{0,8}"]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any_text().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any_text(), inner, 0..5)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same(value in any_value()) {
            let value = json!({ "root": value });
            let printed = print(&[value.clone(), value.clone()]);
            prop_assert_eq!(read_all(&printed).expect("it reads"), vec![value.clone(), value]);
        }
    }
}
