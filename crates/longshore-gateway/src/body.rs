//! Asks a streamed chat request for its usage, without touching what the agent wrote.

use longshore_core::json::{Entry, offset_of};
use memchr::memchr;

use crate::fields::Fields;
use crate::shape::Shape;

const ASKED: &str = r#""include_usage":true"#;

/// The body with `stream_options.include_usage` on; `None`: it is not needed, or not possible, so send the body as is.
///
/// Shape: only a streamed chat or completions request that did not ask for its usage is changed, and in it only the
/// value of `stream_options`; every other byte stays.
pub fn with_usage(shape: Shape, body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    let fields = Fields::read(text).filter(|fields| shape.usage_on_request() && fields.is_true("stream"))?;
    match fields.entry("stream_options") {
        None => {
            // Only white space can precede the object, so the first brace is its own.
            let inside = memchr(b'{', body)? + 1;
            Some(
                [&text[..inside], r#""stream_options":{"#, ASKED, "},", &text[inside..]]
                    .concat()
                    .into_bytes(),
            )
        }
        Some(options) => {
            let old = options.value.get();
            let at = offset_of(text, old);
            let new = options_asking(old)?;
            Some([&text[..at], &new, &text[at + old.len()..]].concat().into_bytes())
        }
    }
}

/// Whether the agent itself expects to see the usage of its stream; other shapes always tell it.
pub fn asks_for_usage(shape: Shape, body: &[u8]) -> bool {
    let asks = || {
        let fields = Fields::read(std::str::from_utf8(body).ok()?)?;
        Some(fields.fields("stream_options")?.is_true("include_usage"))
    };
    !shape.usage_on_request() || asks().unwrap_or(false)
}

/// The options with usage on; `None` when it is on already, or when they are no object: the provider will say so.
fn options_asking(old: &str) -> Option<String> {
    if old == "null" {
        return Some(format!("{{{ASKED}}}"));
    }
    let options = Fields::read(old).filter(|options| !options.is_true("include_usage"))?;
    let others = options.all().iter().filter(|entry| entry.key != "include_usage");
    let written = |entry: &Entry<'_>| format!("{}:{},", serde_json::Value::from(&*entry.key), entry.value);
    let others: String = others.map(written).collect();
    Some(format!("{{{others}{ASKED}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Option<&str>) {
        let changed =
            with_usage(Shape::Chat, body.as_bytes()).map(|body| String::from_utf8(body).expect("text"));
        assert_eq!(changed.as_deref(), expected, "{body}");
        if let Some(changed) = changed {
            assert!(
                asks_for_usage(Shape::Chat, changed.as_bytes())
                    && !asks_for_usage(Shape::Chat, body.as_bytes())
            );
        }
    }

    #[test]
    fn usage_is_asked_for_in_front_and_nothing_else_changes() {
        check(
            " {\"stream\": true, \"n\":1e400,\n\"x\":{ } }",
            Some(" {\"stream_options\":{\"include_usage\":true},\"stream\": true, \"n\":1e400,\n\"x\":{ } }"),
        );
    }

    #[test]
    fn options_that_are_there_keep_what_they_say() {
        check(
            r#"{"stream_options": {"a" : [1, 2],"include_usage":false,"b":1.0} , "stream":true}"#,
            Some(r#"{"stream_options": {"a":[1, 2],"b":1.0,"include_usage":true} , "stream":true}"#),
        );
        let expected = Some(r#"{"stream":true,"stream_options":{"include_usage":true}}"#);
        check(r#"{"stream":true,"stream_options":{}}"#, expected);
        check(r#"{"stream":true,"stream_options":null}"#, expected);
        check(r#"{"stream":true,"stream_options":{"include_usage":null}}"#, expected);
    }

    #[test]
    fn a_repeated_field_counts_as_its_last() {
        check(
            r#"{"stream":false,"stream":true,"stream_options":{"include_usage":true},"stream_options":{}}"#,
            Some(
                r#"{"stream":false,"stream":true,"stream_options":{"include_usage":true},"stream_options":{"include_usage":true}}"#,
            ),
        );
    }

    #[test]
    fn requests_that_need_no_change_stay_as_they_are() {
        for body in [
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":false}"#,
            r#"{"model":"m"}"#,
            r#"{"stream":true,"stream_options":"all"}"#,
            r#"[{"stream":true}]"#,
            r#"{"stream":true"#,
            "",
        ] {
            check(body, None);
        }
        assert_eq!(with_usage(Shape::Chat, b"{\"stream\":true,\"x\":\"\xff\"}"), None);
    }

    #[test]
    fn only_chat_and_completions_must_be_asked() {
        let body = br#"{"stream":true}"#;
        assert!(with_usage(Shape::Completions, body).is_some());
        assert!(!asks_for_usage(Shape::Completions, body));
        for shape in [Shape::Responses, Shape::Messages, Shape::Embeddings, Shape::Plain] {
            assert_eq!(with_usage(shape, body), None);
            assert!(asks_for_usage(shape, body));
        }
    }
}
