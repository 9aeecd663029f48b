//! `POST /v1/messages` and its `count_tokens`.

use serde_json::Value;

use super::{Ask, Choice, Form, Invalid, Tool, count, flat, list, missing, optional_list, text, wrong};

pub(super) fn read(body: &Value) -> Result<Ask, Invalid> {
    let mut ask = read_prompt(body)?;
    ask.max_output = Some(count(body, "max_tokens")?.ok_or_else(|| missing("max_tokens"))?);
    let choice = &body["tool_choice"];
    ask.parallel = choice["disable_parallel_tool_use"] != true;
    ask.choice = match choice["type"].as_str() {
        Some("none") => Choice::Never,
        Some("any") => Choice::Must,
        Some("tool") => {
            let name = text(choice, "name", || "tool_choice.name".to_owned())?;
            ask.known(Choice::Named(name.to_owned()), "tool_choice.name")?
        }
        _ => Choice::Free,
    };
    // Its place has moved; both are in use.
    for format in [&body["output_config"]["format"], &body["output_format"]] {
        if format["type"] == "json_schema" {
            ask.form = Form::Schema(format["schema"].clone());
        }
    }
    Ok(ask)
}

/// Without what `count_tokens` does not ask for.
pub(crate) fn read_prompt(body: &Value) -> Result<Ask, Invalid> {
    let mut ask = Ask::new(body)?;
    count(body, "max_tokens")?;
    ask.prompt.push(&flat(&body["system"]));
    for (at, message) in list(body, "messages")?.iter().enumerate() {
        read_message(&mut ask, at, message)?;
    }
    for (at, tool) in optional_list(body, "tools")?.iter().enumerate() {
        // The others are the provider's own and have no schema.
        if matches!(tool["type"].as_str(), None | Some("custom")) {
            let name = text(tool, "name", || format!("tools.{at}.name"))?.to_owned();
            if !tool["input_schema"].is_object() {
                return Err(missing(format!("tools.{at}.input_schema")));
            }
            ask.tools.push(Tool { name, schema: tool["input_schema"].clone() });
        }
    }
    Ok(ask)
}

fn read_message(ask: &mut Ask, at: usize, message: &Value) -> Result<(), Invalid> {
    let field = || format!("messages.{at}.role");
    let role = text(message, "role", field)?;
    if !matches!(role, "user" | "assistant") {
        return Err(wrong(field(), "Input should be 'user' or 'assistant'"));
    }
    let content = &message["content"];
    let said = flat(content);
    ask.prompt.push(&said);
    let results = match content {
        Value::Null => return Err(missing(format!("messages.{at}.content"))),
        Value::Array(blocks) => blocks.iter().map(|block| read_block(ask, block)).sum(),
        _ => 0,
    };
    match (role, results) {
        // Text beside results is a remark on them, no new wish.
        ("user", 0) => ask.says(said),
        _ => ask.results += results,
    }
    Ok(())
}

/// Returns how many tool results it holds.
fn read_block(ask: &mut Ask, block: &Value) -> u64 {
    match block["type"].as_str() {
        Some("tool_use") => {
            ask.prompt.push(block["name"].as_str().unwrap_or_default());
            ask.prompt.push(&block["input"].to_string());
            0
        }
        Some("tool_result") => {
            ask.prompt.push(&flat(&block["content"]));
            1
        }
        _ => 0,
    }
}
