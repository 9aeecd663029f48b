//! The end of the tour: the numbers, whether everything held, and the words for people. Pure.

use std::collections::BTreeSet;

use longshore_core::provider::show_money;
use longshore_core::task::State;
use longshore_simulate::Bill;
use serde::Serialize;

use super::audit::TaskFacts;
use super::deploy::Rolled;
use super::spent::{self, Spent};

mod text;

pub use text::text;

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
    /// The new release; `None`: it never began.
    pub rolled: Option<Rolled>,
    /// Workers that are gone at the end.
    pub gone: BTreeSet<String>,
    /// Apart from the rollout.
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
    /// Workers of the old release that left for the new one.
    pub workers_rolled: usize,
    pub rollout_seconds: f64,
    /// Attempts that ended as interrupted or failed with one of those.
    pub interrupted_by_rollout: usize,
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
    /// Apart from the rollout, which may start some more for a moment.
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
        workers_rolled: facts.rolled.as_ref().map_or(0, |rolled| rolled.workers.len()),
        rollout_seconds: facts.rolled.as_ref().map_or(0.0, |rolled| tenths(rolled.seconds)),
        interrupted_by_rollout: facts.rolled.iter().map(|rolled| cut_short(&facts.tasks, rolled)).sum(),
        interrupted: facts.tasks.iter().map(|task| task.interrupted).sum(),
        llm_calls_live: spent.live,
        llm_calls_distinct: facts.bill.distinct,
        llm_calls_received: facts.bill.totals.received,
        llm_calls_replayed: spent.replayed,
        maybe_billed: spent.maybe_billed,
        tokens_saved: spent.saved_tokens,
        cost_saved: show_money(spent.saved),
        peak_workers: facts.peak,
        seconds: tenths(facts.seconds),
        broken: Vec::new(),
    };
    summary.broken = broken(facts, &summary);
    summary
}

fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

/// Attempts that workers of the old release did not bring to their end.
fn cut_short(tasks: &[TaskFacts], rolled: &Rolled) -> usize {
    let attempts = tasks.iter().flat_map(|task| &task.attempts);
    attempts.filter(|it| rolled.workers.contains(&it.worker) && it.outcome != "succeeded").count()
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
    rules.rolled(facts, summary);
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

    fn rolled(&mut self, facts: &Facts, summary: &Summary) {
        let Some(rolled) = &facts.rolled else {
            self.broken.push("no new release was deployed".into());
            return;
        };
        let Rolled { to, phase, says, unfinished, workers, peak, surge, behind, .. } = rolled;
        self.hold(phase == "done", || format!("the rollout did not end as done: {says}"));
        self.hold(*unfinished > 0, || "the rollout began when there was nothing to interrupt".into());
        self.hold(!workers.is_empty(), || format!("no worker left for release {to}"));
        let cut = summary.interrupted_by_rollout;
        self.hold(cut == 0, || format!("{cut} attempts were interrupted or failed by the rollout"));
        let most = (facts.max + surge) as usize;
        self.hold(*peak <= most, || format!("{peak} workers were there during the rollout, above {most}"));
        self.hold(behind.is_empty(), || format!("{} does not run release {to}", behind.join(", ")));
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

#[cfg(test)]
mod tests;
