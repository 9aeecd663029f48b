//! Reads an answer that came in one piece, and refuses what only looks like one.

use crate::facts::{Facts, finish_reason, of_response};
use crate::fault::{error_in, shortened};
use crate::fields::Fields;
use crate::shape::Shape;
use crate::usage::{self, Anthropic};

/// A body that came with a good status and is no answer of this API: a proxy's page, half a JSON text, an error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the provider's answer is not an answer: {0}")]
pub struct NotAnAnswer(pub String);

/// Reads what a body says about itself.
///
/// Shape: the body is one whole JSON object with the list that answers of its kind have; a plain call's is not looked
/// into. Further fields, and their absence, are the provider's business.
pub fn read(shape: Shape, body: &[u8]) -> Result<Facts, NotAnAnswer> {
    let list = match shape {
        Shape::Chat | Shape::Completions => "choices",
        Shape::Responses => "output",
        Shape::Embeddings => "data",
        Shape::Messages => "content",
        Shape::Plain => return Ok(Facts::default()),
    };
    let fields = object(body)?;
    if let Some(message) = error_in(&fields) {
        return Err(NotAnAnswer(format!("it is an error: {}", shortened(&message))));
    }
    if fields.list(list).is_none() {
        return Err(NotAnAnswer(format!("it has no list `{list}`")));
    }
    Ok(facts(shape, &fields))
}

fn object(body: &[u8]) -> Result<Fields<'_>, NotAnAnswer> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnAnswer("it is not text".to_owned()))?;
    let start = shortened(text.trim_start());
    match Fields::read(text) {
        Some(fields) => Ok(fields),
        None if start.is_empty() => Err(NotAnAnswer("it is empty".to_owned())),
        None => Err(NotAnAnswer(format!("it is not a whole JSON object, and begins with {start:?}"))),
    }
}

fn facts(shape: Shape, fields: &Fields<'_>) -> Facts {
    match shape {
        Shape::Responses => of_response(fields),
        Shape::Messages => {
            let mut counts = Anthropic::default();
            fields.fields("usage").iter().for_each(|usage| counts.add(usage));
            let (model, finish) = (fields.string("model"), fields.string("stop_reason"));
            Facts { tokens: counts.usage(), model, finish }
        }
        Shape::Chat | Shape::Completions | Shape::Embeddings | Shape::Plain => Facts {
            tokens: fields.fields("usage").and_then(|usage| usage::openai(&usage)),
            model: fields.string("model"),
            finish: finish_reason(fields),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: Shape, body: &str, tokens: (u64, u64, u64), model: &str, finish: Option<&str>) {
        let facts = read(shape, body.as_bytes()).expect("an answer");
        let told = facts.tokens.map(|usage| (usage.input, usage.cached, usage.output));
        assert_eq!(
            (told, facts.model.as_deref(), facts.finish.as_deref()),
            (Some(tokens), Some(model), finish)
        );
    }

    fn check_refused(shape: Shape, body: &[u8], reason: &str) {
        let refused = read(shape, body).expect_err("no answer").to_string();
        assert!(refused.contains(reason), "{refused}");
    }

    #[test]
    fn each_kind_of_answer_is_read() {
        check(
            Shape::Chat,
            r#"{"id":"c1","object":"chat.completion","model":"gpt-5-mini","choices":[{"index":0,"message":
            {"role":"assistant","content":null},"finish_reason":"tool_calls"}],"error":null,"usage":{"prompt_tokens":20,
            "completion_tokens":7,"total_tokens":27,"prompt_tokens_details":{"cached_tokens":16}}}"#,
            (20, 16, 7),
            "gpt-5-mini",
            Some("tool_calls"),
        );
        check(
            Shape::Responses,
            r#"{"id":"r1","object":"response","status":"completed","error":null,"model":"gpt-5","output":[],
            "usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":0},"output_tokens":3}}"#,
            (9, 0, 3),
            "gpt-5",
            Some("completed"),
        );
        check(
            Shape::Messages,
            r#"{"id":"m1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hi"}],
            "stop_reason":"end_turn","usage":{"input_tokens":5,"cache_read_input_tokens":100,"output_tokens":8}}"#,
            (105, 100, 8),
            "claude",
            Some("end_turn"),
        );
        check(
            Shape::Embeddings,
            r#"{"object":"list","data":[{"embedding":[0.1]}],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            (8, 0, 0),
            "e",
            None,
        );
    }

    #[test]
    fn an_answer_need_not_tell_its_usage() {
        let facts = read(Shape::Chat, b"\n\n {\"choices\":[]}").expect("an answer");
        assert_eq!(facts, Facts::default());
        assert_eq!(read(Shape::Plain, b"<html>"), Ok(Facts::default()));
    }

    #[test]
    fn what_is_no_answer_is_refused_with_a_reason() {
        let shapes = [Shape::Chat, Shape::Completions, Shape::Responses, Shape::Embeddings, Shape::Messages];
        for shape in shapes {
            check_refused(shape, b"", "empty");
            check_refused(shape, b" \n", "empty");
            check_refused(shape, b"<html>502</html>", "<html>502");
            check_refused(shape, b"[]", "not a whole JSON object");
            check_refused(
                shape,
                br#"{"choices":[],"output":[],"data":[],"content":["#,
                "not a whole JSON object",
            );
            check_refused(shape, b"{} {}", "not a whole JSON object");
            check_refused(shape, b"\xff", "not text");
            check_refused(shape, br#"{"error":{"message":"overloaded"}}"#, "overloaded");
            check_refused(shape, br#"{"type":"error","error":{"message":"overloaded"}}"#, "overloaded");
            check_refused(shape, br#"{"ok":true}"#, "no list");
        }
        let failed = br#"{"status":"failed","error":{"code":"server_error","message":"sorry"},"output":[]}"#;
        check_refused(Shape::Responses, failed, "sorry");
    }
}
