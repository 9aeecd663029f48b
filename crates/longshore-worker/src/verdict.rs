//! What an attempt's end means, as values: no processes, no clock.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use longshore_api::link::Outcome;
use longshore_core::task::{Failure, Interruption};

use crate::attempt::Why;
use crate::output::{Output, TooLarge};

/// The code of an attempt that took too long.
pub const TIMEOUT: &str = "timeout";

/// Why an exec agent was stopped by its worker, if it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Told(Why),
    Timeout { after_ms: u64 },
    TooLarge { limit: usize },
}

/// How an agent process ended.
#[derive(Clone, Debug)]
pub struct End {
    pub status: ExitStatus,
    /// The kernel killed something in this container for lack of memory meanwhile.
    pub out_of_memory: bool,
    /// End of standard error.
    pub last_words: String,
}

/// Decides how an exec attempt ended. `None`: it is no longer this worker's to end.
///
/// What a stopped agent prints on its way out is no result, unless it says `result`, or what to wait for, and exits 0 while
/// its task is handed over: then the work is done.
pub fn of_exec(cause: Option<Cause>, end: &End, mut output: Output) -> Option<Outcome> {
    let finished = end.status.success() && output.is_whole();
    Some(match cause {
        Some(Cause::Told(Why::Lost)) => return None,
        Some(Cause::Told(Why::Cancelled)) => Outcome::Interrupted(Interruption::Cancelled),
        Some(Cause::Told(Why::HandedOver)) if !finished => Outcome::Interrupted(Interruption::HandedOver),
        Some(Cause::Timeout { after_ms }) => Outcome::Failed(timeout(after_ms)),
        Some(Cause::TooLarge { limit }) => Outcome::Failed(too_large(limit)),
        Some(Cause::Told(Why::HandedOver)) | None => match output.error() {
            Some(failure) => Outcome::Failed(failure),
            None if end.status.success() => output.wait().map_or_else(|| of_output(output), Outcome::Waited),
            None => Outcome::Failed(of_exit(end)),
        },
    })
}

fn of_output(output: Output) -> Outcome {
    let limit = output.limit();
    match output.result() {
        Ok(result) => Outcome::Succeeded { result },
        Err(TooLarge) => Outcome::Failed(too_large(limit)),
    }
}

/// The failure of an agent process that ended by itself.
pub fn of_exit(end: &End) -> Failure {
    let (code, what) = match (end.status.code(), end.status.signal()) {
        (_, Some(nix::libc::SIGKILL)) if end.out_of_memory => {
            ("out_of_memory", "killed for lack of memory".to_owned())
        }
        (_, Some(signal)) => ("killed_by_signal", format!("killed by {}", signal_name(signal))),
        (code, None) => ("exit_status", format!("exit status {}", code.unwrap_or(-1))),
    };
    let message = match end.last_words.as_str() {
        "" => what,
        words => format!("{what}: {words}"),
    };
    Failure::new(code, message)
}

fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(signal) => format!("{} ({})", signal.as_str(), signal as i32),
        Err(_) => format!("signal {signal}"),
    }
}

pub fn timeout(after_ms: u64) -> Failure {
    let message = format!("the attempt took longer than {} s", after_ms as f64 / 1000.0);
    Failure::new(TIMEOUT, message)
}

pub fn too_large(limit: usize) -> Failure {
    let message = format!(
        "the agent's output is larger than result_limit, {limit} bytes; say `result` and log to standard error"
    );
    Failure::lasting("output_too_large", message)
}

pub fn spawn_failed(program: &str, error: &std::io::Error) -> Failure {
    let message = format!("could not start `{program}`: {error}");
    Failure::new("spawn_failed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(raw: i32, out_of_memory: bool) -> End {
        End { status: ExitStatus::from_raw(raw), out_of_memory, last_words: "boom".into() }
    }

    /// `raw` as wait(2) gives it: the exit status is in the second byte, a signal in the first.
    fn check(cause: Option<Cause>, raw: i32, written: &str, expected: &str) {
        let mut output = Output::new(1000);
        output.push(written.as_bytes(), &mut |_| {}).expect("fits");
        let outcome = match of_exec(cause, &end(raw, false), output) {
            None => "nothing".into(),
            Some(Outcome::Succeeded { result }) => format!("succeeded {}", result.text()),
            Some(Outcome::Failed(failure)) => format!("failed {} {}", failure.code, failure.retryable),
            Some(Outcome::Interrupted(cause)) => format!("interrupted {cause:?}"),
            Some(Outcome::Waited(_)) => "waited".into(),
        };
        assert_eq!(outcome, expected, "{cause:?} {raw} {written}");
    }

    const RESULT: &str = "{\"longshore\":\"result\",\"data\":1}\n";
    const ERROR: &str = "{\"longshore\":\"error\",\"message\":\"no\",\"retry\":false}\n";

    #[test]
    fn an_end_of_its_own_is_judged_by_status_and_events() {
        check(None, 0, "text\n", "succeeded \"text\"");
        check(None, 0, RESULT, "succeeded 1");
        check(None, 0, ERROR, "failed agent_error false");
        check(None, 1 << 8, ERROR, "failed agent_error false");
        check(None, 1 << 8, RESULT, "failed exit_status true");
        check(None, 11, RESULT, "failed killed_by_signal true");
    }

    #[test]
    fn an_agent_that_ends_well_may_wait_unless_it_has_a_result() {
        let wait = "{\"longshore\":\"wait\",\"data\":{\"children\":\"all\"}}\n";
        check(None, 0, wait, "waited");
        check(None, 0, &format!("text\n{wait}text\n"), "waited");
        check(None, 1 << 8, wait, "failed exit_status true");
        check(None, 0, &format!("{wait}{RESULT}"), "succeeded 1");
        check(None, 0, &format!("{wait}{ERROR}"), "failed agent_error false");
        check(Some(Cause::Told(Why::HandedOver)), 0, wait, "waited");
        check(Some(Cause::Told(Why::HandedOver)), 15, wait, "interrupted HandedOver");
        check(Some(Cause::Told(Why::Cancelled)), 0, wait, "interrupted Cancelled");
    }

    #[test]
    fn a_stopped_agents_last_output_is_no_result() {
        for (why, expected) in
            [(Why::Cancelled, "interrupted Cancelled"), (Why::HandedOver, "interrupted HandedOver")]
        {
            check(Some(Cause::Told(why)), 0, "cleaning up\n", expected);
            check(Some(Cause::Told(why)), 15, RESULT, expected);
        }
        check(Some(Cause::Told(Why::Cancelled)), 0, RESULT, "interrupted Cancelled");
        check(Some(Cause::Told(Why::HandedOver)), 0, RESULT, "succeeded 1");
        check(Some(Cause::Told(Why::Lost)), 0, RESULT, "nothing");
        check(Some(Cause::Timeout { after_ms: 1 }), 0, RESULT, "failed timeout true");
        check(Some(Cause::TooLarge { limit: 1 }), 9, "", "failed output_too_large false");
    }

    #[test]
    fn the_reason_holds_status_and_last_words() {
        assert_eq!(of_exit(&end(3 << 8, false)).message, "exit status 3: boom");
        assert_eq!(of_exit(&end(9, false)).message, "killed by SIGKILL (9): boom");
        assert_eq!(of_exit(&end(9, true)).code, "out_of_memory");
        assert_eq!(of_exit(&end(11, true)).code, "killed_by_signal");
    }
}
