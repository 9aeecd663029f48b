//! The last lines of the tour, for people. Pure.

use super::{Facts, Rolled, Summary, TaskFacts, cut_short, ended, spent_by};
use crate::output;

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
    lines.extend(facts.rolled.iter().map(|rolled| deployed(facts, rolled)));
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

fn deployed(facts: &Facts, rolled: &Rolled) -> String {
    let Rolled { from, to, seconds, workers, .. } = rolled;
    let ran = facts.tasks.iter().filter(|task| task.release == Some(*to)).count();
    let cut = match cut_short(&facts.tasks, rolled) {
        0 => "interrupted nothing".to_owned(),
        cut => format!("cut {} short", counted(cut, "attempt")),
    };
    let (workers, ran) = (counted(workers.len(), "worker"), counted(ran, "task"));
    format!(
        "  deploy       release {to} replaced {workers} of release {from} in {seconds:.1} s, {cut}, and ran {ran}"
    )
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn length(ms: i64) -> String {
    output::length(u64::try_from(ms).unwrap_or(0))
}
