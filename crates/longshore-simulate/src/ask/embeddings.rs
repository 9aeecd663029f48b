//! `POST /v1/embeddings`.

use serde_json::Value;

use super::{Ask, Embed, Invalid, missing, wrong};

const MOST_DIMENSIONS: u64 = 8192;

pub(super) fn read(body: &Value) -> Result<Ask, Invalid> {
    let mut ask = Ask::new(body)?;
    let texts = texts(&body["input"])?;
    texts.iter().for_each(|text| ask.prompt.push(text));
    ask.said = texts.first().cloned().unwrap_or_default();
    let dimensions = dimensions(&ask.model, &body["dimensions"])?;
    ask.embed = Embed { texts, dimensions, base64: body["encoding_format"] == "base64" };
    // Nothing is said, and nothing is streamed.
    ask.choices = 0;
    ask.stream = false;
    Ok(ask)
}

fn texts(input: &Value) -> Result<Vec<String>, Invalid> {
    match input {
        Value::Null => Err(missing("input")),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) if items.is_empty() => Err(wrong("input", "expected at least one entry")),
        // One text, as tokens.
        Value::Array(items) if items.iter().all(Value::is_u64) => Ok(vec![input.to_string()]),
        Value::Array(items) => items.iter().map(text).collect(),
        _ => Err(wrong("input", "expected a string or a list")),
    }
}

fn text(item: &Value) -> Result<String, Invalid> {
    match item {
        Value::String(text) => Ok(text.clone()),
        Value::Array(tokens) if tokens.iter().all(Value::is_u64) => Ok(item.to_string()),
        _ => Err(wrong("input", "expected strings or lists of tokens")),
    }
}

fn dimensions(model: &str, given: &Value) -> Result<u64, Invalid> {
    let known = |dimensions: &u64| (1..=MOST_DIMENSIONS).contains(dimensions);
    match given {
        Value::Null if model.contains("large") => Ok(3072),
        Value::Null => Ok(1536),
        given => given.as_u64().filter(known).ok_or_else(|| {
            wrong("dimensions", format!("expected a whole number from 1 to {MOST_DIMENSIONS}"))
        }),
    }
}
