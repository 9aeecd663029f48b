//! An agent for the exec protocol in Rust: one process, one task.
//!
//! It calls no LLM: it sleeps where a real agent waits for one. Input: a text. Result: its number of words.

use std::error::Error;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

const LLM_CALL: Duration = Duration::from_millis(200);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut document = String::new();
    io::stdin().read_to_string(&mut document)?;
    let document: Value = serde_json::from_str(&document)?;
    let task = &document["task"];

    let Some(text) = task["input"].as_str() else {
        let message = "the input should be a text";
        say(&json!({"longshore": "error", "message": message, "code": "bad_input", "retry": false}))?;
        return Ok(ExitCode::FAILURE);
    };
    say(&json!({"level": "info", "message": "starts", "task": task["id"], "attempt": task["attempt"]}))?;
    let words = count(text)?;
    say(&json!({"longshore": "result", "data": {"words": words}}))?;
    Ok(ExitCode::SUCCESS)
}

fn count(text: &str) -> io::Result<usize> {
    thread::sleep(LLM_CALL);
    let words = text.split_whitespace().count();
    say(&json!({"longshore": "progress", "data": {"counted": words}}))?;
    Ok(words)
}

/// Prints one line. Flushed, or progress would arrive with the result.
fn say(line: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
