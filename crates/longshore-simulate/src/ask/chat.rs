//! `POST /v1/chat/completions`.

use serde_json::Value;

use super::{Ask, Choice, Form, Invalid, Tool, count, flat, list, optional_list, text, wrong};

pub(super) fn read(body: &Value) -> Result<Ask, Invalid> {
    let mut ask = Ask::new(body)?;
    for (at, message) in list(body, "messages")?.iter().enumerate() {
        read_message(&mut ask, at, message)?;
    }
    ask.include_usage = body["stream_options"]["include_usage"] == true;
    ask.choices = count(body, "n")?.unwrap_or(1).min(128);
    ask.max_output = count(body, "max_completion_tokens")?.or(count(body, "max_tokens")?);
    ask.parallel = body["parallel_tool_calls"] != false;
    for (at, tool) in optional_list(body, "tools")?.iter().enumerate() {
        if tool["type"] == "function" {
            let function = &tool["function"];
            let name = text(function, "name", || format!("tools[{at}].function.name"))?.to_owned();
            ask.tools.push(Tool { name, schema: function["parameters"].clone() });
        }
    }
    ask.choice = choice(&ask, &body["tool_choice"])?;
    ask.form = match body["response_format"]["type"].as_str() {
        Some("json_object") => Form::AnyJson,
        Some("json_schema") => Form::Schema(body["response_format"]["json_schema"]["schema"].clone()),
        _ => Form::Prose,
    };
    Ok(ask)
}

fn read_message(ask: &mut Ask, at: usize, message: &Value) -> Result<(), Invalid> {
    let field = || format!("messages[{at}].role");
    let content = flat(&message["content"]);
    ask.prompt.push(&content);
    match text(message, "role", field)? {
        "user" => ask.says(content),
        "tool" | "function" => ask.results += 1,
        "assistant" => {
            for call in message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice) {
                ask.prompt.push(call["function"]["name"].as_str().unwrap_or_default());
                ask.prompt.push(call["function"]["arguments"].as_str().unwrap_or_default());
            }
        }
        "system" | "developer" => {}
        other => return Err(wrong(field(), format!("`{other}` is not a role"))),
    }
    Ok(())
}

fn choice(ask: &Ask, value: &Value) -> Result<Choice, Invalid> {
    let named = value["function"]["name"].as_str();
    match (value.as_str(), named) {
        (Some("none"), _) => Ok(Choice::Never),
        (Some("required"), _) => Ok(Choice::Must),
        (_, Some(name)) => ask.known(Choice::Named(name.to_owned()), "tool_choice"),
        _ => Ok(Choice::Free),
    }
}
