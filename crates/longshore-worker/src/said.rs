//! What agents say to longshore: JSON objects with the key `longshore`.

use longshore_core::json::Json;
use longshore_core::task::Failure;
use longshore_core::units;
use longshore_core::wait::{self, Awaits, WordsError};
use serde::Deserialize;
use serde_json::value::RawValue;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Progress(Json),
    Message(Json),
    Result(Json),
    Error(Failure),
    /// The task is to wait, if the attempt ends well and without a result.
    Wait(Awaits),
    /// The kind is not known, or the event breaks a rule; for the log.
    Odd(String),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    longshore: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    message: Option<&'a RawValue>,
    code: Option<&'a RawValue>,
    retry: Option<&'a RawValue>,
    retry_after: Option<&'a RawValue>,
}

/// What an `error` says, beside its kind or in its data.
#[derive(Default, Deserialize)]
struct Words<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    code: Option<&'a RawValue>,
    retry: Option<&'a RawValue>,
    retry_after: Option<&'a RawValue>,
}

/// Reads one line. `None`: it is not an event, so it is the agent's own output.
pub fn parse(line: &[u8]) -> Option<Said> {
    // Nearly all lines end here: an agent may log a lot.
    memchr::memmem::find(line, b"\"longshore\"")?;
    let text = std::str::from_utf8(line).ok()?.trim_ascii();
    if !text.starts_with('{') {
        return None;
    }
    let line: Line = serde_json::from_str(text).ok()?;
    // Such as an agent that repeats the document it was given: its key `longshore` holds a number.
    let kind: String = serde_json::from_str(line.longshore?.get()).ok()?;
    Some(match kind.as_str() {
        "progress" => carried(line.data).map_or_else(Said::Odd, Said::Progress),
        "message" => carried(line.data).map_or_else(Said::Odd, Said::Message),
        "result" => carried(line.data).map_or_else(|why| Said::Error(bad_result(why)), Said::Result),
        "wait" => waits(line.data, wait::read_wait),
        "ask" => waits(line.data, |data| wait::read_ask(data).map(Awaits::Ask)),
        "error" => Said::Error(failure(line.words())),
        other => Said::Odd(format!("unknown kind `{}`", cut(other, 64))),
    })
}

impl<'a> Line<'a> {
    /// The words of an `error`: its own keys, or those of its data, or else data of any other form as the message.
    fn words(&self) -> Words<'a> {
        let Line { message, code, retry, retry_after, .. } = *self;
        let own = Words { message, code, retry, retry_after };
        match self.data {
            Some(data) if own.is_empty() => match serde_json::from_str::<Words>(data.get()) {
                Ok(inner) if !inner.is_empty() => inner,
                _ => Words { message: Some(data), ..own },
            },
            data => Words { message: own.message.or(data), ..own },
        }
    }
}

impl Words<'_> {
    fn is_empty(&self) -> bool {
        [self.message, self.code, self.retry, self.retry_after].iter().all(Option::is_none)
    }
}

/// Reads the body of an http agent's error answer: the keys of an `error` event, or else any text.
pub fn parse_error_body(body: &[u8], otherwise: &str) -> Failure {
    let text = String::from_utf8_lossy(body);
    if let Ok(words) = serde_json::from_str::<Words>(&text)
        && words.message.is_some()
    {
        return failure(words);
    }
    let message = match text.trim() {
        "" => otherwise.to_owned(),
        text => format!("{otherwise}: {}", cut(text, MESSAGE_LIMIT)),
    };
    Failure::new("agent_error", message)
}

/// The most of an agent's own words that an error message repeats, in bytes.
const MESSAGE_LIMIT: usize = 2 << 10;

fn failure(words: Words<'_>) -> Failure {
    let message = words.message.map(plain_text).filter(|text| !text.is_empty());
    let code = words.code.map(plain_text).filter(|code| is_code(code));
    Failure {
        code: code.unwrap_or_else(|| "agent_error".into()),
        message: cut(&message.unwrap_or_else(|| "the agent gave no reason".into()), MESSAGE_LIMIT).into(),
        retryable: words.retry.is_none_or(|retry| retry.get() != "false"),
        retry_after_ms: words.retry_after.and_then(wait_ms),
    }
}

/// A duration such as `"30s"`, or a number of seconds. What is neither is as if it were not there.
fn wait_ms(value: &RawValue) -> Option<u64> {
    if let Ok(text) = serde_json::from_str::<String>(value.get()) {
        return units::parse_duration(&text).ok();
    }
    let seconds: f64 = serde_json::from_str(value.get()).ok()?;
    (seconds >= 0.0).then(|| (seconds * 1000.0).ceil() as u64)
}

fn is_code(code: &str) -> bool {
    (1..=64).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// An agent that ends to wait, and says it wrong, would wait for nothing: that is its failure.
fn waits(data: Option<&RawValue>, read: impl FnOnce(&Json) -> Result<Awaits, WordsError>) -> Said {
    let read = carried(data).and_then(|data| read(&data).map_err(|error| error.to_string()));
    read.map_or_else(|why| Said::Error(bad_wait(&why)), Said::Wait)
}

fn bad_wait(why: &str) -> Failure {
    let why = cut(why, MESSAGE_LIMIT);
    Failure::lasting("agent_error", format!("what it waits for cannot be understood: {why}"))
}

fn bad_result(why: String) -> Failure {
    Failure::lasting("agent_error", format!("the result cannot be kept: {why}"))
}

/// Data as it came, unless it nests too deep for those who read it later.
fn carried(data: Option<&RawValue>) -> Result<Json, String> {
    let Some(data) = data else { return Ok(Json::null()) };
    Json::parse(data.get()).map_err(|error| error.to_string())
}

/// A JSON string's text, or the JSON of anything else.
fn plain_text(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

/// At most `limit` bytes of `text`, whole characters.
pub fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text).expect("valid")
    }

    fn check(line: &str, expected: Option<Said>) {
        assert_eq!(parse(line.as_bytes()), expected, "{line}");
    }

    fn error(code: &str, message: &str, retryable: bool) -> Option<Said> {
        Some(Said::Error(Failure { retryable, ..Failure::new(code, message) }))
    }

    #[test]
    fn a_json_object_with_our_key_is_an_event() {
        check(
            r#"{"longshore":"progress","data":{"done":1e400}}"#,
            Some(Said::Progress(json(r#"{"done":1e400}"#))),
        );
        check(r#" {"data":"a","longshore":"message"} "#, Some(Said::Message(json(r#""a""#))));
        check(r#"{"longshore":"result"}"#, Some(Said::Result(Json::null())));
        check(r#"{"longshore":"result","data":[1],"more":2}"#, Some(Said::Result(json("[1]"))));
    }

    #[test]
    fn an_error_has_defaults_and_bears_wrong_types() {
        check(r#"{"longshore":"error","message":"no"}"#, error("agent_error", "no", true));
        check(
            r#"{"longshore":"error","message":"no","code":"bad_pdf","retry":false}"#,
            error("bad_pdf", "no", false),
        );
        check(r#"{"longshore":"error","message":{"a":1},"code":7}"#, error("7", r#"{"a":1}"#, true));
        check(
            r#"{"longshore":"error","code":"two words"}"#,
            error("agent_error", "the agent gave no reason", true),
        );
    }

    #[test]
    fn an_error_says_when_to_try_again() {
        let wait = |value: &str| match parse(
            format!(r#"{{"longshore":"error","message":"busy","retry_after":{value}}}"#).as_bytes(),
        ) {
            Some(Said::Error(failure)) if failure.retryable => failure.retry_after_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!((wait("\"30s\""), wait("\"1m30s\"")), (Some(30_000), Some(90_000)));
        assert_eq!((wait("2"), wait("0.5"), wait("0")), (Some(2_000), Some(500), Some(0)));
        for odd in ["\"soon\"", "-1", "null", "[1]", "{}"] {
            assert_eq!(wait(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_an_agent_waits_for_is_understood_or_is_its_failure() {
        let all = Awaits::Children { which: wait::Which::All, of: Vec::new(), timeout_ms: Some(60_000) };
        check(r#"{"longshore":"wait","data":{"children":"all","timeout":"1m"}}"#, Some(Said::Wait(all)));
        let said = parse(br#"{"longshore":"ask","data":{"question":{"big":1e400},"name":"n"}}"#);
        let Some(Said::Wait(Awaits::Ask(ask))) = said else { panic!("{said:?}") };
        assert_eq!((ask.name.as_deref(), ask.question), (Some("n"), json(r#"{"big":1e400}"#)));
        for wrong in [r#"{"longshore":"wait"}"#, r#"{"longshore":"ask","data":{"expires_in":"1h"}}"#] {
            let said = parse(wrong.as_bytes());
            assert!(matches!(&said, Some(Said::Error(failure)) if !failure.retryable), "{said:?}");
        }
    }

    #[test]
    fn an_errors_words_may_be_in_its_data() {
        check(
            r#"{"longshore":"error","data":{"message":"no","code":"bad_pdf","retry":false}}"#,
            error("bad_pdf", "no", false),
        );
        let busy = Failure { retry_after_ms: Some(1_000), ..Failure::new("agent_error", "busy") };
        check(
            r#"{"longshore":"error","data":{"message":"busy","retry_after":"1s"}}"#,
            Some(Said::Error(busy)),
        );
        check(r#"{"longshore":"error","data":"no"}"#, error("agent_error", "no", true));
        check(r#"{"longshore":"error","data":{"a":1}}"#, error("agent_error", r#"{"a":1}"#, true));
        check(
            r#"{"longshore":"error","retry":false,"data":{"message":"m"}}"#,
            error("agent_error", r#"{"message":"m"}"#, false),
        );
    }

    #[test]
    fn everything_else_is_the_agents_own_output() {
        for line in [
            "",
            "hello",
            r#"{"type":"progress","data":1}"#,
            r#"{"msg":"the word \"longshore\" in a text"}"#,
            r#"["longshore","progress"]"#,
            r#""longshore""#,
            r#"{"longshore":"progress""#,
            r#"{"longshore":"progress"} trailing"#,
            r#"{"longshore":1,"task":{}}"#,
        ] {
            check(line, None);
        }
        assert_eq!(parse(b"{\"longshore\":\"progress\",\"data\":\"\xc3\"}"), None);
    }

    #[test]
    fn what_breaks_a_rule_is_told_and_harms_nothing() {
        check(r#"{"longshore":"dance"}"#, Some(Said::Odd("unknown kind `dance`".into())));
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        let said = |kind| parse(format!(r#"{{"longshore":"{kind}","data":{deep}}}"#).as_bytes());
        assert!(matches!(said("progress"), Some(Said::Odd(_))));
        assert!(matches!(said("result"), Some(Said::Error(Failure { retryable: false, .. }))));
    }

    #[test]
    fn an_error_body_is_read_as_json_or_as_text() {
        let read = |body: &str| parse_error_body(body.as_bytes(), "status 500");
        assert_eq!(read(r#"{"message":"no quota","retry":false}"#).message, "no quota");
        assert!(!read(r#"{"message":"no quota","retry":false}"#).retryable);
        assert_eq!(read("Internal Server Error\n").message, "status 500: Internal Server Error");
        assert_eq!(read("").message, "status 500");
    }
}
