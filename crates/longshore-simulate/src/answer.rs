//! Decides what is answered: text or tool calls, and how many tokens. A function of the request and of drawn numbers.

use serde_json::json;

use crate::ask::{Ask, Choice, Form, Tool};
use crate::digest::Digest;
use crate::draw::Draw;
use crate::schema;
use crate::words::{self, Chunk};

pub(crate) struct Answer {
    /// Every id of the answer begins with this or is made of it.
    pub(crate) id: String,
    pub(crate) choices: Vec<Spoken>,
    pub(crate) usage: Usage,
}

/// One choice.
pub(crate) struct Spoken {
    pub(crate) text: Vec<Chunk>,
    pub(crate) calls: Vec<Call>,
    /// It ends where it does because no more tokens were allowed.
    pub(crate) cut: bool,
    /// Tokens that nobody sees, as of a model that thinks first.
    pub(crate) hidden: u64,
}

pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: Vec<Chunk>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// With the cached ones.
    pub(crate) input: u64,
    pub(crate) cached: u64,
    /// With the hidden ones.
    pub(crate) output: u64,
    pub(crate) hidden: u64,
}

const OUTPUT_MEDIAN: f64 = 60.0;
/// One answer in a hundred is ten times the median.
const OUTPUT_SIGMA: f64 = 0.99;
const MOST_OUTPUT: f64 = 8192.0;

/// How long answers are where no trace says it.
pub(crate) fn drawn_tokens(draw: &mut Draw) -> u64 {
    draw.log_normal(OUTPUT_MEDIAN, OUTPUT_SIGMA).round().clamp(1.0, MOST_OUTPUT) as u64
}

/// Shape: `length` gives the tokens that each choice should have.
pub(crate) fn compose(
    ask: &Ask,
    digest: &Digest,
    seed: u64,
    cached: u64,
    length: impl Fn(&mut Draw) -> u64,
) -> Answer {
    let id = format!("{}{:016x}", digest.hex(4), Draw::new(seed, digest, "id").next());
    let choices: Vec<Spoken> = (0..ask.choices)
        .map(|at| {
            let mut draw = Draw::new(seed.wrapping_add(at), digest, "answer");
            let wanted = length(&mut draw);
            spoken(ask, digest, &id, at, wanted, draw)
        })
        .collect();
    let hidden = choices.iter().map(|choice| choice.hidden).sum();
    let output = choices.iter().map(Spoken::tokens).sum();
    Answer { id, choices, usage: Usage { input: ask.prompt.tokens(), cached, output, hidden } }
}

impl Spoken {
    fn tokens(&self) -> u64 {
        self.hidden + words::tokens_in(&self.text) + self.calls.iter().map(Call::tokens).sum::<u64>()
    }
}

impl Call {
    /// The name comes with the first token of the arguments, which are never empty.
    fn tokens(&self) -> u64 {
        words::tokens_in(&self.arguments)
    }
}

fn spoken(ask: &Ask, digest: &Digest, id: &str, at: u64, wanted: u64, mut draw: Draw) -> Spoken {
    let most = ask.max_output.unwrap_or(u64::MAX);
    let tools = tools(ask);
    if tools.is_empty() {
        return text(ask, digest, wanted, most, &mut draw);
    }
    let count = if ask.results < ask.rounds() * ask.calls_a_round() { ask.calls_a_round() } else { 1 };
    let mut left = most;
    let mut calls = Vec::new();
    let mut cut = false;
    for number in 0..count {
        let tool = draw.pick(&tools).expect("checked to hold one");
        let arguments = schema::object(&tool.schema, &mut draw).to_string();
        let pieces = words::pieces(&arguments, left);
        if pieces.is_empty() {
            cut = true;
            break;
        }
        left -= words::tokens_in(&pieces);
        cut |= words::joined(&pieces) != arguments;
        let id = format!("{id}{at:02x}{number:02x}");
        calls.push(Call { id, name: tool.name.clone(), arguments: pieces });
    }
    let visible = calls.iter().map(Call::tokens).sum();
    let hidden = wanted.min(most).saturating_sub(visible);
    Spoken { text: Vec::new(), calls, cut, hidden }
}

/// The tools of which one has to be called now; none: it is time for text.
fn tools(ask: &Ask) -> Vec<&Tool> {
    if let Choice::Named(name) = &ask.choice {
        return ask.tools.iter().filter(|tool| tool.name == *name).collect();
    }
    let (outputs, working): (Vec<&Tool>, Vec<&Tool>) = ask.tools.iter().partition(|tool| is_output(tool));
    let wanted = ask.results < ask.rounds() * ask.calls_a_round();
    match ask.choice {
        Choice::Never => Vec::new(),
        _ if wanted && !working.is_empty() => working,
        // Who offers one takes its answer through it, not as text.
        _ => outputs,
    }
}

/// Frameworks offer a tool of this name to get a structured answer.
fn is_output(tool: &Tool) -> bool {
    tool.name.starts_with("final_result")
}

fn text(ask: &Ask, digest: &Digest, wanted: u64, most: u64, draw: &mut Draw) -> Spoken {
    let json = match &ask.form {
        Form::Prose => {
            let text = words::prose(&digest.hex(4), wanted.min(most), draw);
            return Spoken { text, calls: Vec::new(), cut: wanted > most, hidden: 0 };
        }
        Form::AnyJson => json!({"answer": format!("{} {}", digest.hex(4), words::word(draw))}),
        Form::Schema(schema) => schema::object(schema, draw),
    };
    let json = json.to_string();
    let text = words::pieces(&json, most);
    let cut = words::tokens_in(&text) < words::tokens_of(&json);
    let hidden = wanted.min(most).saturating_sub(words::tokens_in(&text));
    Spoken { text, calls: Vec::new(), cut, hidden }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Api;
    use serde_json::Value;

    fn answer(extra: Value) -> Answer {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let tool = |name| {
            json!({"type": "function", "function": {"name": name, "parameters":
                {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}})
        };
        let names = extra["names"].as_array().cloned().unwrap_or_default();
        body["tools"] = names.into_iter().map(tool).collect();
        for (key, value) in extra.as_object().unwrap().iter().filter(|(key, _)| *key != "names") {
            body[key] = value.clone();
        }
        let ask = Ask::read(Api::Chat, &body).unwrap_or_else(|invalid| panic!("{invalid:?}"));
        compose(&ask, &Digest::request("/p", &body), 1, 0, |_| 40)
    }

    /// The names of the called tools; none is text.
    fn check(extra: Value, called: &[&str]) {
        let answer = answer(extra.clone());
        let names: Vec<&str> = answer.choices[0].calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, called, "{extra}");
        assert_eq!(answer.choices[0].text.is_empty(), !called.is_empty(), "{extra}");
    }

    fn asked(text: &str, results: usize) -> Value {
        let mut messages = vec![json!({"role": "user", "content": text})];
        messages.extend((0..results).map(|_| json!({"role": "tool", "content": "42"})));
        Value::Array(messages)
    }

    #[test]
    fn tools_are_called_until_the_wanted_rounds_are_done() {
        let with = |text, results| json!({"names": ["a"], "messages": asked(text, results)});
        check(with("hi", 0), &["a"]);
        check(with("hi", 1), &["a"]);
        check(with("hi", 2), &[]);
        check(with("tools=0", 0), &[]);
        check(with("tools=1 parallel=3", 0), &["a", "a", "a"]);
        check(with("tools=2 parallel=3", 3), &["a", "a", "a"]);
        check(with("tools=1 parallel=3", 3), &[]);
        check(json!({"messages": asked("tools=3", 0)}), &[]);
    }

    #[test]
    fn the_choice_of_tools_is_respected() {
        let with = |choice: Value, results| json!({"names": ["a", "b"], "tool_choice": choice, "messages": asked("hi", results)});
        check(with(json!("none"), 0), &[]);
        check(with(json!({"type": "function", "function": {"name": "b"}}), 5), &["b"]);
        check(with(json!("required"), 2), &[]);
        assert_eq!(answer(with(json!("required"), 0)).choices[0].calls.len(), 1);
        let alone = json!({"names": ["a"], "parallel_tool_calls": false, "messages": asked("parallel=4", 0)});
        check(alone, &["a"]);
    }

    #[test]
    fn an_output_tool_is_called_last() {
        let with = |results| json!({"names": ["a", "final_result"], "tool_choice": "required", "messages": asked("hi", results)});
        check(with(0), &["a"]);
        check(with(2), &["final_result"]);
        check(json!({"names": ["final_result"]}), &["final_result"]);
    }

    #[test]
    fn most_tokens_cut_text_and_arguments_but_not_what_fits() {
        let ended = |extra: Value| (answer(extra.clone()).choices[0].cut, answer(extra).usage.output);
        assert_eq!(ended(json!({})), (false, 40));
        assert_eq!(ended(json!({"max_tokens": 40})), (false, 40));
        assert_eq!(ended(json!({"max_tokens": 39})), (true, 39));
        assert_eq!(ended(json!({"names": ["a"], "max_completion_tokens": 2})), (true, 2));
        assert_eq!(ended(json!({"names": ["a"], "max_completion_tokens": 30})), (false, 30));
    }

    #[test]
    fn structured_text_is_json() {
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema":
            {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}});
        let answer = answer(json!({"response_format": format}));
        let text: Value = serde_json::from_str(&words::joined(&answer.choices[0].text)).unwrap();
        assert!(text["n"].is_i64());
    }

    #[test]
    fn choices_differ_and_their_tokens_add_up() {
        let answer = answer(json!({"n": 3}));
        let texts: Vec<String> = answer.choices.iter().map(|choice| words::joined(&choice.text)).collect();
        assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
        assert_eq!(answer.usage.output, 120);
    }
}
