//! Sizes and durations of real requests, read from a CSV file.
//!
//! Which row a request gets follows from its digest, never from its place in the order of arrival.

use std::path::{Path, PathBuf};

/// Rows of a trace; at least one.
#[derive(Clone, Debug)]
pub struct Trace {
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) output_tokens: u64,
    /// How long the whole answer took, where the trace knows.
    pub(crate) seconds: Option<f64>,
}

/// Why a file is not a trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("could not read the trace `{path}`")]
    File { path: PathBuf, source: std::io::Error },
    #[error("line 1 of the trace has no column `output_tokens` or `GeneratedTokens`")]
    NoColumn,
    #[error("line {line} of the trace has no {what}: `{found}`")]
    Row { line: usize, what: &'static str, found: String },
    #[error("the trace has no rows")]
    Empty,
}

/// As they are called in traces of agents, and in Azure's.
const OUTPUT: [&str; 2] = ["output_tokens", "GeneratedTokens"];
const SECONDS: [&str; 1] = ["api_time_s"];
/// An hour: longer answers are a slip in the file.
const MOST_SECONDS: f64 = 3600.0;
const MOST_TOKENS: u64 = 1_000_000;

impl Trace {
    pub fn read(path: &Path) -> Result<Trace, TraceError> {
        let file = |source| TraceError::File { path: path.to_owned(), source };
        Trace::parse(&std::fs::read_to_string(path).map_err(file)?)
    }

    pub fn parse(text: &str) -> Result<Trace, TraceError> {
        let mut lines = text.trim_start_matches('\u{feff}').lines();
        let head: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
        let column = |names: &[&str]| head.iter().position(|name| names.contains(name));
        let output = column(&OUTPUT).ok_or(TraceError::NoColumn)?;
        let seconds = column(&SECONDS);
        let numbered = lines.enumerate().filter(|(_, line)| !line.trim().is_empty());
        let rows: Result<Vec<Row>, TraceError> =
            numbered.map(|(at, line)| row(at + 2, line, output, seconds)).collect();
        match rows? {
            rows if rows.is_empty() => Err(TraceError::Empty),
            rows => Ok(Trace { rows }),
        }
    }

    pub(crate) fn row(&self, number: u64) -> Row {
        self.rows[(number % self.rows.len() as u64) as usize]
    }
}

fn row(line: usize, text: &str, output: usize, seconds: Option<usize>) -> Result<Row, TraceError> {
    let cells: Vec<&str> = text.split(',').map(str::trim).collect();
    let wrong = |what| TraceError::Row { line, what, found: text.chars().take(80).collect() };
    let tokens =
        cells.get(output).and_then(|cell| cell.parse::<u64>().ok()).filter(|tokens| *tokens <= MOST_TOKENS);
    let taken = seconds.and_then(|column| {
        // Left empty, it is not known for this one.
        let cell = cells.get(column).filter(|cell| !cell.is_empty())?;
        let seconds = cell.parse::<f64>().ok().filter(|seconds| (0.0..=MOST_SECONDS).contains(seconds));
        Some(seconds.ok_or_else(|| wrong("api_time_s that makes sense")))
    });
    Ok(Row {
        // An answer has at least one token.
        output_tokens: tokens.ok_or_else(|| wrong("number of output tokens"))?.max(1),
        seconds: taken.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let trace = Trace::parse("session,output_tokens,stop,api_time_s\n1,169,tool_use,7.34\n\n").unwrap();
        assert_eq!(trace.row(5), Row { output_tokens: 169, seconds: Some(7.34) });
        let unknown = Trace::parse("output_tokens,api_time_s\n7,\n").unwrap();
        assert_eq!(unknown.row(0), Row { output_tokens: 7, seconds: None });
        let azure =
            Trace::parse("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4808,10").unwrap();
        assert_eq!(azure.row(0), Row { output_tokens: 10, seconds: None });
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let check = |text: &str, said: &str| {
            let error = Trace::parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{error}");
        };
        check("", "line 1");
        check("a,b\n1,2", "no column");
        check("output_tokens\n", "no rows");
        check("output_tokens\n5\nmany\n", "line 3");
        check("output_tokens\n-5\n", "line 2");
        check("output_tokens,api_time_s\n5,NaN\n", "api_time_s");
        check("output_tokens,api_time_s\n5,7200\n", "api_time_s");
    }
}
