//! What is asked, the same for every wire format.

mod chat;
mod embeddings;
pub(crate) mod messages;
mod responses;

use serde_json::Value;

use crate::cache::Prompt;

/// The calls that are answered and billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Chat,
    Responses,
    Messages,
    Embeddings,
}

impl Api {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Api::Chat => "/v1/chat/completions",
            Api::Responses => "/v1/responses",
            Api::Messages => "/v1/messages",
            Api::Embeddings => "/v1/embeddings",
        }
    }
}

pub(crate) struct Ask {
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) choices: u64,
    /// The last text of the user.
    pub(crate) said: String,
    /// Tool results since then.
    pub(crate) results: u64,
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: Choice,
    pub(crate) parallel: bool,
    pub(crate) max_output: Option<u64>,
    pub(crate) form: Form,
    pub(crate) prompt: Prompt,
    pub(crate) embed: Embed,
}

/// What is to be embedded; empty for every other call.
#[derive(Default)]
pub(crate) struct Embed {
    pub(crate) texts: Vec<String>,
    pub(crate) dimensions: u64,
    pub(crate) base64: bool,
}

pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) schema: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Free,
    Never,
    Must,
    Named(String),
}

/// What the text has to be.
pub(crate) enum Form {
    Prose,
    AnyJson,
    Schema(Value),
}

/// A field that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub(crate) field: String,
    /// `None`: it is missing.
    pub(crate) problem: Option<String>,
    /// OpenAI's code, where it has one of its own.
    pub(crate) code: Option<&'static str>,
}

pub(crate) fn missing(field: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), problem: None, code: Some("missing_required_parameter") }
}

pub(crate) fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), problem: Some(problem.into()), code: Some("invalid_type") }
}

impl Ask {
    pub(crate) fn read(api: Api, body: &Value) -> Result<Ask, Invalid> {
        match api {
            Api::Chat => chat::read(body),
            Api::Responses => responses::read(body),
            Api::Messages => messages::read(body),
            Api::Embeddings => embeddings::read(body),
        }
    }

    /// What all formats share.
    fn new(body: &Value) -> Result<Ask, Invalid> {
        if !body.is_object() {
            return Err(wrong("body", "expected a JSON object"));
        }
        let model = match &body["model"] {
            Value::Null => return Err(missing("model")),
            Value::String(model) if !model.is_empty() => model.clone(),
            _ => return Err(wrong("model", "expected a string")),
        };
        let stream = match &body["stream"] {
            Value::Null => false,
            Value::Bool(stream) => *stream,
            _ => return Err(wrong("stream", "expected a boolean")),
        };
        let prompt = Prompt::new(&model);
        Ok(Ask {
            model,
            stream,
            include_usage: true,
            choices: 1,
            said: String::new(),
            results: 0,
            tools: Vec::new(),
            choice: Choice::Free,
            parallel: true,
            max_output: None,
            form: Form::Prose,
            prompt,
            embed: Embed::default(),
        })
    }

    /// A message of the user: the count of tool results begins anew.
    fn says(&mut self, text: String) {
        self.said = text;
        self.results = 0;
    }

    /// How many rounds of tool calls the user wants.
    pub(crate) fn rounds(&self) -> u64 {
        number_in(&self.said, "tools=").unwrap_or(2).min(1000)
    }

    /// How many calls a round has.
    pub(crate) fn calls_a_round(&self) -> u64 {
        match self.parallel {
            true => number_in(&self.said, "parallel=").unwrap_or(1).clamp(1, 64),
            false => 1,
        }
    }

    fn known(&self, choice: Choice, field: &str) -> Result<Choice, Invalid> {
        match &choice {
            Choice::Named(name) if !self.tools.iter().any(|tool| tool.name == *name) => {
                Err(wrong(field, format!("tool `{name}` is not among the tools")))
            }
            _ => Ok(choice),
        }
    }
}

fn number_in(text: &str, key: &str) -> Option<u64> {
    text.match_indices(key).find_map(|(at, _)| {
        let rest = &text[at + key.len()..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    })
}

/// The entries of a field that must be a list with at least one.
fn list<'a>(body: &'a Value, field: &str) -> Result<&'a [Value], Invalid> {
    match &body[field] {
        Value::Null => Err(missing(field)),
        Value::Array(items) if items.is_empty() => Err(wrong(field, "expected at least one entry")),
        Value::Array(items) => Ok(items),
        _ => Err(wrong(field, "expected a list")),
    }
}

fn optional_list<'a>(body: &'a Value, field: &str) -> Result<&'a [Value], Invalid> {
    match &body[field] {
        Value::Null => Ok(&[]),
        Value::Array(items) => Ok(items),
        _ => Err(wrong(field, "expected a list")),
    }
}

fn text<'a>(value: &'a Value, key: &str, at: impl FnOnce() -> String) -> Result<&'a str, Invalid> {
    match &value[key] {
        Value::Null => Err(missing(at())),
        Value::String(text) => Ok(text),
        _ => Err(wrong(at(), "expected a string")),
    }
}

fn count(body: &Value, field: &str) -> Result<Option<u64>, Invalid> {
    match &body[field] {
        Value::Null => Ok(None),
        number => match number.as_u64().filter(|number| *number > 0) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(field, "expected a whole number above 0")),
        },
    }
}

/// The text of a content that is a string or a list of parts; what is no text is left out.
fn flat(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The last user text, results since then, rounds and calls a round.
    fn check(api: Api, body: Value, said: &str, results: u64) {
        let ask = Ask::read(api, &body).unwrap_or_else(|invalid| panic!("{body}: {invalid:?}"));
        assert_eq!((ask.said.as_str(), ask.results), (said, results), "{body}");
    }

    #[test]
    fn results_are_counted_since_the_last_word_of_the_user() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "t", "arguments": "{}"}});
        let result = json!({"role": "tool", "tool_call_id": "c", "content": "42"});
        check(
            Api::Chat,
            json!({"model": "m", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]},
                result, {"role": "user", "content": [{"type": "text", "text": "b"}]}, result, result]}),
            "b",
            2,
        );
        let output = json!({"type": "function_call_output", "call_id": "c", "output": "42"});
        check(
            Api::Responses,
            json!({"model": "m", "input": [output, {"role": "user", "content": "a"}, output]}),
            "a",
            1,
        );
        check(Api::Responses, json!({"model": "m", "input": "a"}), "a", 0);
        let result =
            json!({"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "42"}]});
        check(
            Api::Messages,
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"},
                {"role": "user", "content": [result, result, {"type": "text", "text": "go on"}]}]}),
            "a",
            2,
        );
    }

    #[test]
    fn the_user_says_how_many_rounds_and_calls() {
        let ask = |said: &str| {
            let body = json!({"model": "m", "messages": [{"role": "user", "content": said}]});
            let ask = Ask::read(Api::Chat, &body).unwrap();
            (ask.rounds(), ask.calls_a_round())
        };
        assert_eq!(ask("hello"), (2, 1));
        assert_eq!(ask("tools=0"), (0, 1));
        assert_eq!(ask("do it (tools=12, parallel=3)"), (12, 3));
        assert_eq!(ask("tools=x parallel=0"), (2, 1));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let check = |api, body: Value, field: &str| {
            let invalid = Ask::read(api, &body).err().unwrap_or_else(|| panic!("{body} was taken"));
            assert_eq!(invalid.field, field, "{body}");
        };
        check(Api::Chat, json!([]), "body");
        check(Api::Chat, json!({"messages": []}), "model");
        check(Api::Chat, json!({"model": "m"}), "messages");
        check(Api::Chat, json!({"model": "m", "messages": []}), "messages");
        check(Api::Chat, json!({"model": "m", "messages": [{"content": "a"}]}), "messages[0].role");
        check(
            Api::Chat,
            json!({"model": "m", "messages": [{"role": "king", "content": "a"}]}),
            "messages[0].role",
        );
        check(Api::Chat, json!({"model": "m", "stream": 1, "messages": [{"role": "user"}]}), "stream");
        check(
            Api::Chat,
            json!({"model": "m", "messages": [{"role": "user", "content": "a"}],
                "tool_choice": {"type": "function", "function": {"name": "t"}}}),
            "tool_choice",
        );
        check(Api::Responses, json!({"model": "m"}), "input");
        check(
            Api::Responses,
            json!({"model": "m", "input": "a", "previous_response_id": "r"}),
            "previous_response_id",
        );
        check(
            Api::Messages,
            json!({"model": "m", "messages": [{"role": "user", "content": "a"}]}),
            "max_tokens",
        );
        check(Api::Messages, json!({"model": "m", "max_tokens": 0, "messages": []}), "max_tokens");
        check(
            Api::Messages,
            json!({"model": "m", "max_tokens": 5, "messages": [{"role": "system", "content": "a"}]}),
            "messages.0.role",
        );
    }
}
