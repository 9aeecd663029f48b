//! The end of the tour: the numbers, whether everything held, and the words for people. Pure.

use std::collections::BTreeSet;

use longshore_core::provider::show_money;
use longshore_core::task::State;
use longshore_simulate::Bill;
use serde::Serialize;

use super::audit::TaskFacts;
use super::spent::{self, Spent};
use crate::output;

/// Everything that the verdict is made from.
#[derive(Clone, Debug)]
pub struct Facts {
    pub tasks: Vec<TaskFacts>,
    /// The LLM provider's.
    pub bill: Bill,
    /// How many the trace has.
    pub planned: usize,
    pub repeat_is_the_same: bool,
    /// Worker and moment (Unix ms).
    pub killed: Vec<(String, i64)>,
    pub drained: Vec<String>,
    /// Workers that are gone at the end.
    pub gone: BTreeSet<String>,
    pub peak: usize,
    /// Where each decision of the scaler led.
    pub desired: Vec<u32>,
    pub min: u32,
    pub max: u32,
    /// Workers when the tour ended, draining ones apart.
    pub at_end: usize,
    /// Processes that did not end with the control plane.
    pub leftovers: usize,
    pub seconds: f64,
    /// Why the tour was broken off, if it was.
    pub stuck: Option<String>,
}

/// The numbers: the last line of `--json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub submitted: usize,
    pub succeeded: usize,
    pub failed: usize,
    /// Acknowledged, but without an end.
    pub lost: usize,
    /// Ended more than once.
    pub written_twice: usize,
    pub workers_killed: usize,
    pub workers_drained: usize,
    pub interrupted: u64,
    /// Answers of the LLM that were bought, as the journals say.
    pub llm_calls_live: u64,
    /// Different requests on the provider's bill.
    pub llm_calls_distinct: u64,
    /// Calls that reached the provider, as it says.
    pub llm_calls_received: u64,
    /// Answers that were given again from a journal.
    pub llm_calls_replayed: u64,
    /// Calls without an answer that may have been billed.
    pub maybe_billed: u64,
    pub tokens_saved: u64,
    /// Dollars, as a decimal.
    pub cost_saved: String,
    pub peak_workers: usize,
    pub seconds: f64,
    /// What did not hold, in words; empty: everything did.
    pub broken: Vec<String>,
}

pub fn judge(facts: &Facts) -> Summary {
    let count = |is: fn(&TaskFacts) -> bool| facts.tasks.iter().filter(|task| is(task)).count();
    let spent = spent_by(&facts.tasks);
    let mut summary = Summary {
        submitted: facts.tasks.len(),
        succeeded: count(|task| task.state == Some(State::Succeeded)),
        failed: count(failed),
        lost: count(lost),
        written_twice: count(written_twice),
        workers_killed: facts.killed.len(),
        workers_drained: facts.drained.len(),
        interrupted: facts.tasks.iter().map(|task| task.interrupted).sum(),
        llm_calls_live: spent.live,
        llm_calls_distinct: facts.bill.distinct,
        llm_calls_received: facts.bill.totals.received,
        llm_calls_replayed: spent.replayed,
        maybe_billed: spent.maybe_billed,
        tokens_saved: spent.saved_tokens,
        cost_saved: show_money(spent.saved),
        peak_workers: facts.peak,
        seconds: (facts.seconds * 10.0).round() / 10.0,
        broken: Vec::new(),
    };
    summary.broken = broken(facts, &summary);
    summary
}

fn spent_by(tasks: &[TaskFacts]) -> Spent {
    tasks.iter().fold(Spent::default(), |sum, task| sum + task.spent)
}

fn lost(task: &TaskFacts) -> bool {
    !task.state.is_some_and(State::is_terminal)
}

fn failed(task: &TaskFacts) -> bool {
    matches!(task.state, Some(State::Failed | State::Cancelled))
}

fn written_twice(task: &TaskFacts) -> bool {
    let succeeded = task.attempts.iter().filter(|attempt| attempt.outcome == "succeeded").count();
    task.terminal_events > 1 || succeeded > 1
}

fn broken(facts: &Facts, summary: &Summary) -> Vec<String> {
    let mut rules = Rules { broken: facts.stuck.iter().cloned().collect() };
    rules.submissions(facts, summary);
    rules.tasks(&facts.tasks);
    rules.broken.extend(spent::broken(&spent_by(&facts.tasks), &facts.bill));
    rules.killed(facts);
    rules.drained(facts);
    rules.workers(facts);
    rules.broken
}

/// Collects what did not hold.
struct Rules {
    broken: Vec<String>,
}

impl Rules {
    fn hold(&mut self, holds: bool, else_say: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(else_say());
        }
    }

    fn submissions(&mut self, facts: &Facts, summary: &Summary) {
        let Facts { planned, .. } = facts;
        let submitted = summary.submitted;
        self.hold(submitted == *planned, || format!("{submitted} of {planned} tasks were submitted"));
        let ids: BTreeSet<&str> = facts.tasks.iter().map(|task| task.id.as_str()).collect();
        self.hold(ids.len() == submitted, || "two submissions were given one task".into());
        self.hold(facts.repeat_is_the_same, || "a repeated submission became a second task".into());
    }

    fn tasks(&mut self, tasks: &[TaskFacts]) {
        self.no_task(tasks, "never ended", lost);
        self.no_task(tasks, "did not succeed", failed);
        self.no_task(tasks, "ended twice", written_twice);
        self.no_task(tasks, "have no end in their log", |task| !lost(task) && task.terminal_events == 0);
        self.no_task(tasks, "have a result that does not fit their input", |task| {
            task.state == Some(State::Succeeded) && !task.result_fits
        });
        self.no_task(tasks, "were interrupted and came to another result", |task| {
            task.as_undisturbed == Some(false)
        });
        self.no_task(tasks, "had answers and were not given them again", |task| {
            task.state == Some(State::Succeeded) && task.spent.replayed < task.had
        });
    }

    fn no_task(&mut self, tasks: &[TaskFacts], what: &str, is: fn(&TaskFacts) -> bool) {
        let found: Vec<&TaskFacts> = tasks.iter().filter(|task| is(task)).collect();
        self.hold(found.is_empty(), || some(&found, what));
    }

    fn killed(&mut self, facts: &Facts) {
        self.hold(!facts.killed.is_empty(), || "no busy worker was found to kill".into());
        for (worker, _) in &facts.killed {
            self.hold(facts.gone.contains(worker), || format!("{worker} was killed, but is still listed"));
            let stranded = facts.tasks.iter().filter(|task| stranded(task, worker)).count();
            self.hold(stranded == 0, || {
                format!("{stranded} tasks of {worker}, which was killed, did not succeed elsewhere")
            });
        }
    }

    fn drained(&mut self, facts: &Facts) {
        self.hold(!facts.drained.is_empty(), || "no busy worker was found to drain".into());
        for worker in &facts.drained {
            self.hold(facts.gone.contains(worker), || format!("{worker} was drained, but has not left"));
            let failed = facts.tasks.iter().filter(|task| ended(task, worker, "failed")).count();
            self.hold(failed == 0, || format!("{failed} attempts failed on {worker}, which was drained"));
        }
    }

    fn workers(&mut self, facts: &Facts) {
        let Facts { min, max, peak, at_end, leftovers, .. } = *facts;
        let outside = facts.desired.iter().find(|to| !(min..=max).contains(to));
        if let Some(to) = outside {
            self.broken.push(format!("the scaler wanted {to} workers, outside {min} to {max}"));
        }
        self.hold(peak <= max as usize, || format!("{peak} workers were there at once, above {max}"));
        self.hold(at_end == min as usize, || format!("{at_end} workers were left at the end, not {min}"));
        self.hold(leftovers == 0, || format!("{leftovers} processes had to be killed at the end"));
    }
}

/// Counts some tasks and names the first, with the reason if there is one.
fn some(found: &[&TaskFacts], what: &str) -> String {
    let first = found.first().map(|task| match &task.failure {
        Some(failure) => format!(" (such as {}: {failure})", task.id),
        None => format!(" (such as {})", task.id),
    });
    format!("{} tasks {what}{}", found.len(), first.unwrap_or_default())
}

fn ended(task: &TaskFacts, worker: &str, outcome: &str) -> bool {
    task.attempts.iter().any(|attempt| attempt.worker == worker && attempt.outcome == outcome)
}

/// It was interrupted on this worker and did not succeed on another one after that.
fn stranded(task: &TaskFacts, worker: &str) -> bool {
    let lost =
        task.attempts.iter().filter(|attempt| attempt.worker == worker && attempt.outcome != "succeeded");
    lost.map(|lost| lost.number).max().is_some_and(|number| {
        let later =
            task.attempts.iter().filter(|attempt| attempt.number > number && attempt.worker != worker);
        !later.into_iter().any(|attempt| attempt.outcome == "succeeded")
    })
}

/// The last lines for people; `program` is what they call longshore by.
pub fn text(facts: &Facts, summary: &Summary, program: &str) -> String {
    let Summary { submitted, succeeded, failed, lost, written_twice, interrupted, .. } = summary;
    let mut lines = vec![
        format!(
            "{submitted} tasks submitted: {succeeded} succeeded, {failed} failed, {lost} lost, {written_twice} written twice."
        ),
        String::new(),
        format!("  scaling      {} workers became {}, and {} again", facts.min, facts.peak, facts.at_end),
    ];
    lines.extend(
        facts
            .killed
            .iter()
            .map(|(worker, at)| format!("  kill -9      {worker}{}", after_kill(facts, worker, *at))),
    );
    lines.extend(
        facts.drained.iter().map(|worker| format!("  drain        {worker}{}", after_drain(facts, worker))),
    );
    let attempts = if *interrupted == 1 { "1 attempt".to_owned() } else { format!("{interrupted} attempts") };
    lines.push(format!("  interrupted  {attempts}, at no cost to the tasks' own tries"));
    lines.extend(calls(facts, summary));
    lines.push(format!("  took         {:.0} s", summary.seconds));
    lines.push(String::new());
    match summary.broken.is_empty() {
        true => lines.extend([
            "Every task was looked up by its id, every result compared with its input, every call with the bill.".into(),
            String::new(),
            "Next, an agent of your own:".into(),
            String::new(),
            format!("  {program} init python    write an agent, its longshore.toml and a Dockerfile"),
            format!("  {program} up             run it on this machine"),
        ]),
        false => {
            lines.push("This did not hold:".into());
            lines.extend(summary.broken.iter().map(|what| format!("  - {what}")));
        }
    }
    lines.join("\n")
}

/// The provider is named as what it is: nobody paid anything.
fn calls(facts: &Facts, summary: &Summary) -> [String; 2] {
    let Summary { llm_calls_live, llm_calls_distinct, llm_calls_received, .. } = summary;
    let Summary { llm_calls_replayed, tokens_saved, .. } = summary;
    let spent = spent_by(&facts.tasks);
    let once = llm_calls_received <= llm_calls_distinct && llm_calls_live <= llm_calls_distinct;
    let once = if once { ", none of them twice" } else { "" };
    let answers = if *llm_calls_replayed == 1 { "answer" } else { "answers" };
    [
        format!(
            "  llm calls    {llm_calls_live} bought from a simulated provider for {}{once}",
            dollars(spent.cost)
        ),
        format!(
            "  replayed     {llm_calls_replayed} {answers} given again from the journal: {tokens_saved} tokens, {} saved",
            dollars(spent.saved)
        ),
    ]
}

/// For eyes: the exact sums are in the JSON.
fn dollars(nano: u64) -> String {
    format!("${:.4}", nano as f64 / 1e9)
}

fn after_kill(facts: &Facts, worker: &str, at: i64) -> String {
    let lost = facts.tasks.iter().filter(|task| ended(task, worker, "interrupted"));
    let again: Vec<(&str, i64)> = lost.filter_map(|task| next_attempt(task, worker)).collect();
    match again.as_slice() {
        [] => " had just finished its task".into(),
        [(next, started)] => {
            format!(" in mid-task, which ran again on {next} after {}", length(started - at))
        }
        several => {
            let last = several.iter().map(|(_, started)| started - at).max().unwrap_or(0);
            format!(" with {} tasks, which all ran again within {}", several.len(), length(last))
        }
    }
}

fn next_attempt<'a>(task: &'a TaskFacts, worker: &str) -> Option<(&'a str, i64)> {
    let lost =
        task.attempts.iter().find(|attempt| attempt.worker == worker && attempt.outcome == "interrupted")?;
    let next = task.attempts.iter().find(|attempt| attempt.number == lost.number + 1)?;
    Some((&next.worker, next.started_ms))
}

fn after_drain(facts: &Facts, worker: &str) -> String {
    let handed = facts.tasks.iter().filter(|task| ended(task, worker, "interrupted")).count();
    match handed {
        0 => " finished its task and left".into(),
        handed => format!(" handed over {handed} of its tasks and left"),
    }
}

fn length(ms: i64) -> String {
    output::length(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::audit::AttemptFacts;
    use longshore_simulate::Totals;

    fn attempt(number: u32, worker: &str, outcome: &str) -> AttemptFacts {
        let started_ms = 1_000 * i64::from(number);
        AttemptFacts { number, worker: worker.into(), started_ms, outcome: outcome.into() }
    }

    fn task(id: &str, attempts: Vec<AttemptFacts>) -> TaskFacts {
        let interrupted = attempts.iter().filter(|attempt| attempt.outcome == "interrupted").count() as u64;
        TaskFacts {
            id: id.into(),
            state: Some(State::Succeeded),
            interrupted,
            attempts,
            terminal_events: 1,
            result_fits: true,
            failure: None,
            spent: Spent { live: 2, input: 8, output: 10, cost: 110_000, ..Spent::default() },
            had: 0,
            as_undisturbed: None,
        }
    }

    fn bill(calls: u64) -> Bill {
        let (input_tokens, output_tokens) = (24, 30);
        let cost = "0.00033".into();
        let totals = Totals {
            received: calls,
            answered: calls,
            input_tokens,
            output_tokens,
            cost,
            ..Totals::default()
        };
        Bill { distinct: calls, totals, requests: Vec::new() }
    }

    /// Three tasks: one of a killed worker, one of a drained one, one of neither.
    fn good() -> Facts {
        let mut killed = task("a", vec![attempt(1, "w-1", "interrupted"), attempt(2, "w-3", "succeeded")]);
        (killed.had, killed.as_undisturbed) = (1, Some(true));
        (killed.spent.replayed, killed.spent.saved_tokens, killed.spent.saved) = (1, 9, 55_000);
        Facts {
            tasks: vec![
                killed,
                task("b", vec![attempt(1, "w-2", "succeeded")]),
                task("c", vec![attempt(1, "w-3", "succeeded")]),
            ],
            bill: bill(6),
            planned: 3,
            repeat_is_the_same: true,
            killed: vec![("w-1".into(), 1_500)],
            drained: vec!["w-2".into()],
            gone: ["w-1", "w-2"].map(String::from).into(),
            peak: 8,
            desired: vec![2, 8, 2],
            min: 2,
            max: 8,
            at_end: 2,
            leftovers: 0,
            seconds: 61.26,
            stuck: None,
        }
    }

    fn check(change: impl FnOnce(&mut Facts), expected: &[&str]) -> Summary {
        let mut facts = good();
        change(&mut facts);
        let summary = judge(&facts);
        assert_eq!(summary.broken, expected);
        summary
    }

    #[test]
    fn a_good_tour_breaks_nothing() {
        let summary = check(|_| {}, &[]);
        let json = serde_json::to_value(&summary).expect("plain data");
        let expected = serde_json::json!({
            "submitted": 3, "succeeded": 3, "failed": 0, "lost": 0, "written_twice": 0, "workers_killed": 1,
            "workers_drained": 1, "interrupted": 1, "llm_calls_live": 6, "llm_calls_distinct": 6, "llm_calls_received": 6,
            "llm_calls_replayed": 1, "maybe_billed": 0, "tokens_saved": 9, "cost_saved": "0.000055", "peak_workers": 8, "seconds": 61.3, "broken": [],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_task_without_an_end_is_lost_whether_known_or_not() {
        let summary =
            check(|facts| facts.tasks[1].state = Some(State::Running), &["1 tasks never ended (such as b)"]);
        assert_eq!((summary.lost, summary.succeeded), (1, 2));
        let summary = check(|facts| facts.tasks[2].state = None, &["1 tasks never ended (such as c)"]);
        assert_eq!(summary.lost, 1);
    }

    #[test]
    fn a_failed_task_is_named_with_its_reason() {
        let fail = |facts: &mut Facts| {
            facts.tasks[2].state = Some(State::Failed);
            facts.tasks[2].failure = Some("exit status 1".into());
        };
        assert_eq!(check(fail, &["1 tasks did not succeed (such as c: exit status 1)"]).failed, 1);
    }

    #[test]
    fn two_ends_are_seen_in_the_log_and_in_the_attempts() {
        let twice = ["1 tasks ended twice (such as c)"];
        assert_eq!(check(|facts| facts.tasks[2].terminal_events = 2, &twice).written_twice, 1);
        let again = |facts: &mut Facts| facts.tasks[2].attempts.push(attempt(2, "w-4", "succeeded"));
        assert_eq!(check(again, &twice).written_twice, 1);
    }

    #[test]
    fn an_end_that_is_not_in_the_log_does_not_count_as_one() {
        check(|facts| facts.tasks[0].terminal_events = 0, &["1 tasks have no end in their log (such as a)"]);
    }

    #[test]
    fn a_result_must_fit_its_input() {
        let what = "1 tasks have a result that does not fit their input (such as b)";
        check(|facts| facts.tasks[1].result_fits = false, &[what]);
    }

    #[test]
    fn an_interrupted_task_must_come_to_the_result_of_an_undisturbed_one() {
        let what = "1 tasks were interrupted and came to another result (such as a)";
        check(|facts| facts.tasks[0].as_undisturbed = Some(false), &[what]);
    }

    #[test]
    fn answers_that_were_there_must_be_given_again() {
        let what = "1 tasks had answers and were not given them again (such as a)";
        check(|facts| facts.tasks[0].spent.replayed = 0, &[what]);
        check(|facts| facts.tasks[0].had = 2, &[what]);
    }

    #[test]
    fn what_the_provider_was_asked_for_twice_is_told() {
        let twice = |facts: &mut Facts| facts.bill.totals.received = 7;
        let what = "the provider received 7 calls: 6 different ones, and 0 may be billed twice";
        check(twice, &[what, "1 calls were open at the end"]);
    }

    #[test]
    fn a_killed_workers_task_must_succeed_elsewhere() {
        let what = "1 tasks of w-1, which was killed, did not succeed elsewhere";
        check(|facts| facts.tasks[0].attempts[1].worker = "w-1".into(), &[what]);
        check(|facts| drop(facts.tasks[0].attempts.pop()), &[what]);
    }

    #[test]
    fn a_drain_must_end_and_fail_nothing() {
        check(|facts| facts.gone.retain(|worker| worker != "w-2"), &["w-2 was drained, but has not left"]);
        let fail = |facts: &mut Facts| facts.tasks[1].attempts.insert(0, attempt(0, "w-2", "failed"));
        check(fail, &["1 attempts failed on w-2, which was drained"]);
    }

    #[test]
    fn the_number_of_workers_stays_within_its_limits_and_returns_to_the_least() {
        check(|facts| facts.desired.push(9), &["the scaler wanted 9 workers, outside 2 to 8"]);
        check(|facts| facts.desired.push(1), &["the scaler wanted 1 workers, outside 2 to 8"]);
        check(|facts| facts.peak = 9, &["9 workers were there at once, above 8"]);
        check(|facts| facts.at_end = 3, &["3 workers were left at the end, not 2"]);
    }

    #[test]
    fn a_tour_without_kill_or_drain_shows_nothing() {
        check(|facts| facts.killed.clear(), &["no busy worker was found to kill"]);
        check(|facts| facts.drained.clear(), &["no busy worker was found to drain"]);
    }

    #[test]
    fn submissions_are_counted_and_never_doubled() {
        check(|facts| facts.planned = 4, &["3 of 4 tasks were submitted"]);
        check(|facts| facts.repeat_is_the_same = false, &["a repeated submission became a second task"]);
        check(|facts| facts.tasks[1].id = "a".into(), &["two submissions were given one task"]);
    }

    #[test]
    fn what_had_to_be_killed_at_the_end_is_said() {
        check(|facts| facts.leftovers = 2, &["2 processes had to be killed at the end"]);
    }

    #[test]
    fn the_summary_says_what_happened_and_what_to_try_next() {
        let facts = good();
        let text = text(&facts, &judge(&facts), "longshore");
        for part in [
            "3 tasks submitted: 3 succeeded, 0 failed, 0 lost, 0 written twice.",
            "w-1 in mid-task, which ran again on w-3 after 500ms",
            "w-2 finished its task and left",
            "6 bought from a simulated provider for $0.0003, none of them twice",
            "1 answer given again from the journal: 9 tokens, $0.0001 saved",
            "longshore init python",
            "longshore up",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    }

    #[test]
    fn nothing_is_said_to_be_bought_once_if_it_was_not() {
        let mut facts = good();
        facts.bill.totals.received = 7;
        assert!(!text(&facts, &judge(&facts), "longshore").contains("twice\n  replayed"));
    }

    #[test]
    fn a_broken_tour_lists_what_broke_and_suggests_nothing_else() {
        let mut facts = good();
        facts.leftovers = 2;
        let text = text(&facts, &judge(&facts), "longshore");
        assert!(text.ends_with("This did not hold:\n  - 2 processes had to be killed at the end"), "{text}");
    }
}
