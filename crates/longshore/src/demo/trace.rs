//! The burst: when each task arrives and how long its agent works, cut from a real trace (see `burst.md`).
//!
//! Reads no file and no clock: the text is part of the program.

use std::time::Duration;

/// The shipped cut, one row per request.
pub const BURST: &str = include_str!("burst.csv");

const HEAD: &str = "arrival_ms,context_tokens,generated_tokens";

/// One task of the burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// After the first one.
    pub after: Duration,
    /// About how long its agent runs: nearly all of it waiting for an LLM.
    pub work_ms: u64,
    /// How many tokens the LLM writes for it, in all.
    pub tokens: u64,
}

/// What an LLM takes before its first token, and for each one after it: 125 tokens a second.
const FIRST_TOKEN_MS: u64 = 100;
pub const TOKEN_MS: u64 = 8;

/// More tokens are cut off: the tour is to be short, and a drain to outlast every task.
const LONGEST_MS: u64 = 8_000;
const MOST_TOKENS: u64 = (LONGEST_MS - FIRST_TOKEN_MS) / TOKEN_MS;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("line 1 is not `{HEAD}`")]
    Head,
    #[error("line {line}: expected three whole numbers, found `{found}`")]
    Row { line: usize, found: String },
    #[error("line {line}: arrives before the line above it")]
    Order { line: usize },
}

/// Reads a trace.
///
/// Shape: a head line, then `arrival_ms,context_tokens,generated_tokens` in order of arrival. Units: `speed` divides
/// arrivals and work; 1 is as recorded.
pub fn read(text: &str, speed: u64) -> Result<Vec<Arrival>, TraceError> {
    let mut lines = text.lines().enumerate();
    if lines.next().is_none_or(|(_, head)| head != HEAD) {
        return Err(TraceError::Head);
    }
    let speed = speed.max(1);
    let mut arrivals = Vec::new();
    let mut last = 0;
    for (index, row) in lines {
        let line = index + 1;
        let [arrival_ms, _context, tokens] =
            numbers(row).ok_or_else(|| TraceError::Row { line, found: row.to_owned() })?;
        if arrival_ms < last {
            return Err(TraceError::Order { line });
        }
        last = arrival_ms;
        let after = Duration::from_millis(arrival_ms / speed);
        let tokens = tokens.min(MOST_TOKENS);
        arrivals.push(Arrival { after, work_ms: work_ms(tokens, speed), tokens });
    }
    Ok(arrivals)
}

/// How many calls the agent makes for so many tokens: `agent.py` has the same rule.
pub fn calls(tokens: u64) -> u64 {
    (tokens / 50).clamp(2, 8)
}

fn numbers(row: &str) -> Option<[u64; 3]> {
    let fields: Option<Vec<u64>> = row.split(',').map(|field| field.parse().ok()).collect();
    fields?.try_into().ok()
}

/// About how long an LLM writes so many tokens.
pub fn work_ms(tokens: u64, speed: u64) -> u64 {
    tokens.saturating_mul(TOKEN_MS).saturating_add(FIRST_TOKEN_MS).min(LONGEST_MS) / speed.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &str, expected: Result<Vec<(u64, u64)>, TraceError>) {
        let read = read(&format!("{HEAD}\n{rows}"), 1);
        let read = read.map(|all| all.iter().map(|a| (a.after.as_millis() as u64, a.work_ms)).collect());
        assert_eq!(read, expected);
    }

    #[test]
    fn tokens_become_working_time_up_to_a_limit() {
        let longest = work_ms(MOST_TOKENS, 1);
        assert!(longest <= LONGEST_MS && longest + TOKEN_MS > LONGEST_MS);
        check("0,9,0\n40,9,100\n40,9,999999", Ok(vec![(0, 100), (40, 900), (40, longest)]));
        check(&format!("0,0,{}", u64::MAX), Ok(vec![(0, longest)]));
    }

    #[test]
    fn a_bad_row_is_named_by_its_line() {
        for row in ["5,6", "5,6,x", "5,-6,7", "", "1,2,3,4"] {
            let rows = format!("0,1,2\n{row}\n0,1,2");
            check(&rows, Err(TraceError::Row { line: 3, found: row.into() }));
        }
        check("7,1,2\n6,1,2", Err(TraceError::Order { line: 3 }));
        assert_eq!(read("", 1), Err(TraceError::Head));
    }

    #[test]
    fn speed_divides_arrivals_and_work() {
        let fast = read(&format!("{HEAD}\n900,1,200"), 3).expect("a good row");
        assert_eq!(fast, [Arrival { after: Duration::from_millis(300), work_ms: 566, tokens: 200 }]);
    }

    #[test]
    fn the_shipped_burst_outgrows_two_workers_and_suits_eight() {
        let burst = read(BURST, 1).expect("shipped");
        assert_eq!(burst.len(), 200);
        let span = burst[199].after.as_secs_f64();
        let work = burst.iter().map(|a| a.work_ms).sum::<u64>() as f64 / 1000.0;
        assert!((25.0..=30.0).contains(&span), "{span}");
        assert!(work / span > 8.0, "two workers could not keep up: {work} s of work");
        assert!(work / 8.0 < 40.0, "eight workers need {} s", work / 8.0);
    }
}
