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
        release: Some(1),
    }
}

fn bill(calls: u64) -> Bill {
    let (input_tokens, output_tokens) = (24, 30);
    let cost = "0.00033".into();
    let totals =
        Totals { received: calls, answered: calls, input_tokens, output_tokens, cost, ..Totals::default() };
    Bill { distinct: calls, totals, requests: Vec::new() }
}

fn rolled() -> Rolled {
    Rolled {
        from: 1,
        to: 2,
        phase: "done".into(),
        says: "release 2 has replaced 1".into(),
        seconds: 9.04,
        unfinished: 2,
        workers: vec!["w-3".into()],
        peak: 10,
        surge: 2,
        behind: Vec::new(),
    }
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
        rolled: Some(rolled()),
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
        "workers_drained": 1, "workers_rolled": 1, "rollout_seconds": 9.0, "interrupted_by_rollout": 0, "interrupted": 1, "llm_calls_live": 6, "llm_calls_distinct": 6, "llm_calls_received": 6,
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

fn change_rollout(change: impl FnOnce(&mut Rolled), expected: &str) -> Summary {
    check(|facts| change(facts.rolled.as_mut().expect("there is one")), &[expected])
}

#[test]
fn a_rollout_must_come_through_while_tasks_run() {
    check(|facts| facts.rolled = None, &["no new release was deployed"]);
    let back = |rolled: &mut Rolled| {
        (rolled.phase, rolled.says) = ("rolled_back".into(), "release 2 was rolled back to 1: so".into());
    };
    change_rollout(back, "the rollout did not end as done: release 2 was rolled back to 1: so");
    let idle = "the rollout began when there was nothing to interrupt";
    change_rollout(|rolled| rolled.unfinished = 0, idle);
    change_rollout(|rolled| rolled.workers.clear(), "no worker left for release 2");
    change_rollout(|rolled| rolled.behind = vec!["w-4".into()], "w-4 does not run release 2");
    change_rollout(|rolled| rolled.peak = 11, "11 workers were there during the rollout, above 10");
}

#[test]
fn a_rollout_must_interrupt_nothing() {
    for outcome in ["interrupted", "failed"] {
        let cut = |facts: &mut Facts| facts.tasks[2].attempts.insert(0, attempt(0, "w-3", outcome));
        let summary = check(cut, &["1 attempts were interrupted or failed by the rollout"]);
        assert_eq!(summary.interrupted_by_rollout, 1);
    }
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
    let mut facts = good();
    facts.tasks[2].release = Some(2);
    let text = text(&facts, &judge(&facts), "longshore");
    for part in [
        "3 tasks submitted: 3 succeeded, 0 failed, 0 lost, 0 written twice.",
        "w-1 in mid-task, which ran again on w-3 after 500ms",
        "w-2 finished its task and left",
        "release 2 replaced 1 worker of release 1 in 9.0 s, interrupted nothing, and ran 1 task",
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
