//! `longshore tasks show ID --journal`: a task's LLM calls and steps, for people.

use longshore_api::journal::{Call, Calls, Divergence, Journal, Step};

use crate::error::Outcome;
use crate::output::{self, Table, ago, clean, length, shorten, size};

pub fn print(journal: &Journal) -> Outcome<()> {
    output::line(&summary(&journal.totals))?;
    calls(&journal.calls)?;
    steps(&journal.steps)?;
    journal.divergences.iter().try_for_each(divergence)?;
    output::line(&format!("\n{} in the store, generation {}", size(journal.stored_bytes), journal.generation))
}

/// One line: what was bought, and what was not.
pub fn summary(calls: &Calls) -> String {
    if calls.none() {
        return "no LLM call went through the gateway".into();
    }
    let mut parts = vec![format!("{} bought", calls.live), format!("{} replayed", calls.replayed)];
    let more = [
        (calls.maybe_billed, "maybe billed besides"),
        (calls.bought_again, "bought again"),
        (calls.passed, "passed through"),
    ];
    parts.extend(more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
    let currency = calls.currency.as_deref().unwrap_or("");
    let mut text = format!(
        "{}; {} tokens in ({} cached), {} out",
        parts.join(", "),
        calls.input_tokens,
        calls.cached_tokens,
        calls.output_tokens
    );
    if calls.cost != "0" {
        text.push_str(&format!(", {} {currency}", calls.cost));
    }
    if calls.saved_tokens > 0 {
        text.push_str(&format!("; saved {} tokens", calls.saved_tokens));
        if calls.saved != "0" {
            text.push_str(&format!(", {} {currency}", calls.saved));
        }
    }
    text
}

fn calls(calls: &[Call]) -> Outcome<()> {
    if calls.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[
        "#",
        "CALL",
        "MODEL",
        "STATUS",
        "IN",
        "OUT",
        "COST",
        "FIRST",
        "TOOK",
        "ASKED BY ATTEMPT",
        "NOTE",
    ]);
    for (n, call) in (1..).zip(calls) {
        table.row(row(n, call));
    }
    output::line("")?;
    table.print()
}

fn row(n: usize, call: &Call) -> Vec<String> {
    let number = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
    let time = |value: Option<u64>| value.map_or_else(|| "-".into(), length);
    vec![
        n.to_string(),
        format!("{}{}", call.provider, clean(&call.path)),
        shorten(call.model.as_deref().unwrap_or("-"), 30),
        call.status.map_or_else(|| call.state.replace('_', " "), |status| status.to_string()),
        number(call.input_tokens),
        number(call.output_tokens),
        call.cost.clone().unwrap_or_else(|| "-".into()),
        time(call.first_ms),
        time(call.total_ms),
        asked_by(call),
        note(call),
    ]
}

/// `1 live, 2 replayed`: attempt 1 bought it, attempt 2 was given it again.
fn asked_by(call: &Call) -> String {
    let asks = call.asks.iter().map(|ask| {
        let how = match (&*ask.state, ask.live) {
            ("delivered", true) => "live",
            ("delivered", false) => "replayed",
            ("open", true) => "asking",
            ("open", false) => "waiting",
            (other, _) => other,
        };
        format!("{} {how}", ask.attempt)
    });
    asks.collect::<Vec<_>>().join(", ")
}

fn note(call: &Call) -> String {
    let mut notes = Vec::new();
    if call.maybe_billed > 0 {
        notes.push(format!("maybe billed {} more", call.maybe_billed));
    }
    if call.inherited {
        notes.push(format!("kept for generation {}", call.generation));
    } else if call.generation > 0 {
        notes.push(format!("generation {}", call.generation));
    }
    if call.occurrence > 0 {
        notes.push(format!("equal request no. {}", call.occurrence + 1));
    }
    notes.join("; ")
}

fn steps(steps: &[Step]) -> Outcome<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["STEP", "BEGUN", "STATE", "RESULT"]);
    for step in steps {
        let state = match (step.ended_at, step.begun) {
            (Some(at), _) => format!("done {} ago", ago(at)),
            (None, 1) => "begun".into(),
            (None, _) => "begun again: it may have run before".into(),
        };
        let result = step.result.as_ref().map_or_else(|| "-".into(), |result| shorten(result.text(), 60));
        table.row(vec![clean(&step.name), step.begun.to_string(), state, result]);
    }
    output::line("")?;
    table.print()
}

fn divergence(divergence: &Divergence) -> Outcome<()> {
    output::line(&format!(
        "\nattempt {} went another way: {} answers replayed, {} not asked for, {} bought again",
        divergence.attempt, divergence.replayed, divergence.unasked, divergence.bought_again
    ))?;
    let Some(difference) = &divergence.difference else { return Ok(()) };
    output::line(&format!("  first difference at {}", clean(&difference.path)))?;
    output::line(&format!("  was  {}", clean(&difference.was)))?;
    output::line(&format!("  now  {}", clean(&difference.now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_bought_and_what_was_saved() {
        assert_eq!(summary(&Calls::default()), "no LLM call went through the gateway");
        let calls = Calls {
            live: 3,
            replayed: 2,
            input_tokens: 100,
            cached_tokens: 10,
            output_tokens: 20,
            cost: "0.0125".into(),
            saved_tokens: 80,
            saved: "0.01".into(),
            currency: Some("USD".into()),
            ..Calls::default()
        };
        assert_eq!(
            summary(&calls),
            "3 bought, 2 replayed; 100 tokens in (10 cached), 20 out, 0.0125 USD; saved 80 tokens, 0.01 USD"
        );
        let more = Calls { maybe_billed: 1, bought_again: 2, cost: "0".into(), saved_tokens: 0, ..calls };
        assert_eq!(
            summary(&more),
            "3 bought, 2 replayed, 1 maybe billed besides, 2 bought again; 100 tokens in (10 cached), 20 out"
        );
    }
}
