//! Inputs of tasks from the command line, files and standard input. Checked before anything is sent.

use std::fs;
use std::io::{self, IsTerminal, Read};

use longshore_core::json::Json;

use crate::error::{Fault, Outcome};
use crate::output;

/// How many bad lines one error names.
const NAMED: usize = 10;

/// The input that `--input` gives; `null` without one.
pub fn one(given: Option<&str>) -> Outcome<Json> {
    let Some(given) = given else { return Ok(Json::null()) };
    let (text, from) = match given.strip_prefix('@') {
        Some(path) => (read(path)?, format!("`{path}`")),
        None if given == "-" => (read("-")?, "standard input".to_owned()),
        None => (given.to_owned(), "--input".to_owned()),
    };
    Json::parse(text.trim()).map_err(|error| {
        Fault::usage(format!("{from} does not hold a task's input"))
            .cause(&error)
            .hint(r#"an input is JSON, so quote a text: --input '"like this"'"#)
    })
}

/// One input per line of a file; blank lines are skipped.
///
/// Errors: names each bad line as `file:line`, the first ten of them.
pub fn lines(path: &str) -> Outcome<Vec<Json>> {
    let text = read(path)?;
    let name = if path == "-" { "standard input" } else { path };
    let (mut inputs, mut bad) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match Json::parse(line.trim()) {
            Ok(input) => inputs.push(input),
            Err(error) => bad.push(format!("{name}:{}: {}", index + 1, without_line(&error.to_string()))),
        }
    }
    if !bad.is_empty() {
        let more = bad.len().saturating_sub(NAMED);
        let total = bad.len() + inputs.len();
        let rest = (more > 0).then(|| format!("and {more} more"));
        return Err(Fault::usage(format!(
            "{} of {total} lines are not JSON; nothing was submitted",
            bad.len()
        ))
        .details(bad.into_iter().take(NAMED).chain(rest)));
    }
    if inputs.is_empty() {
        return Err(Fault::usage(format!("{name} holds no task: one JSON value per line is expected")));
    }
    Ok(inputs)
}

/// The parser counts lines within one line of the file, which would contradict the number before it.
fn without_line(error: &str) -> String {
    error.replace(" at line 1 column ", " at column ")
}

fn read(path: &str) -> Outcome<String> {
    let bytes = match path {
        "-" => standard_input(),
        path => fs::read(path),
    };
    let name = if path == "-" { "standard input".to_owned() } else { format!("`{path}`") };
    let bytes = bytes.map_err(|error| Fault::usage(format!("could not read {name}")).cause(&error))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        Fault::usage(format!("{name} is not UTF-8 text: line {line}, byte {at} of it"))
    })
}

fn standard_input() -> io::Result<Vec<u8>> {
    if io::stdin().is_terminal() {
        output::note("reading from the terminal; end with Ctrl-D");
    }
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}
