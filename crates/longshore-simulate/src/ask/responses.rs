//! `POST /v1/responses`. Keeps nothing between calls, so the whole conversation must be in the input.

use serde_json::Value;

use super::{Ask, Choice, Form, Invalid, Tool, count, flat, missing, optional_list, text, wrong};

pub(super) fn read(body: &Value) -> Result<Ask, Invalid> {
    let mut ask = Ask::new(body)?;
    if let Some(id) = body["previous_response_id"].as_str() {
        let problem = format!("Previous response with id '{id}' not found.");
        let code = Some("previous_response_not_found");
        return Err(Invalid { field: "previous_response_id".to_owned(), problem: Some(problem), code });
    }
    ask.prompt.push(body["instructions"].as_str().unwrap_or_default());
    match &body["input"] {
        Value::Null => return Err(missing("input")),
        Value::String(said) => {
            ask.prompt.push(said);
            ask.says(said.clone());
        }
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(at, item)| read_item(&mut ask, at, item))?
        }
        _ => return Err(wrong("input", "expected a string or a list")),
    }
    ask.max_output = count(body, "max_output_tokens")?;
    ask.parallel = body["parallel_tool_calls"] != false;
    for (at, tool) in optional_list(body, "tools")?.iter().enumerate() {
        // The others are run by the provider.
        if tool["type"] == "function" {
            let name = text(tool, "name", || format!("tools[{at}].name"))?.to_owned();
            ask.tools.push(Tool { name, schema: tool["parameters"].clone() });
        }
    }
    ask.choice = choice(&ask, &body["tool_choice"])?;
    let format = &body["text"]["format"];
    ask.form = match format["type"].as_str() {
        Some("json_object") => Form::AnyJson,
        Some("json_schema") => Form::Schema(format["schema"].clone()),
        _ => Form::Prose,
    };
    Ok(ask)
}

fn read_item(ask: &mut Ask, at: usize, item: &Value) -> Result<(), Invalid> {
    match item["type"].as_str().unwrap_or("message") {
        "message" => {
            let content = flat(&item["content"]);
            ask.prompt.push(&content);
            if text(item, "role", || format!("input[{at}].role"))? == "user" {
                ask.says(content);
            }
        }
        "function_call" => {
            ask.prompt.push(text(item, "name", || format!("input[{at}].name"))?);
            ask.prompt.push(text(item, "arguments", || format!("input[{at}].arguments"))?);
        }
        "function_call_output" => {
            text(item, "call_id", || format!("input[{at}].call_id"))?;
            ask.prompt.push(&flat(&item["output"]));
            ask.results += 1;
        }
        _ => {}
    }
    Ok(())
}

fn choice(ask: &Ask, value: &Value) -> Result<Choice, Invalid> {
    match (value.as_str(), value["type"].as_str(), value["name"].as_str()) {
        (Some("none"), ..) => Ok(Choice::Never),
        (Some("required"), ..) => Ok(Choice::Must),
        (_, Some("function"), Some(name)) => ask.known(Choice::Named(name.to_owned()), "tool_choice"),
        _ => Ok(Choice::Free),
    }
}
