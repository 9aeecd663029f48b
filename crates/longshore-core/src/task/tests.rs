//! What becomes of a task: single endings first, then whole lives.

use proptest::prelude::*;

use super::*;
use crate::retry::Backoff;

const NOW: Timestamp = Timestamp(1_795_000_000_000);

fn standing() -> Standing {
    Standing {
        failed_attempts: 0,
        max_attempts: 3,
        strikes: 0,
        cancel_requested: false,
        expired: false,
        on_interrupt: OnInterrupt::Resume,
        progressed: false,
        alone: true,
    }
}

fn failure(code: &str, retryable: bool) -> Failure {
    Failure { retryable, ..Failure::new(code, "m") }
}

fn verdict(ending: Ending, standing: &Standing) -> Verdict {
    after(&ending, standing, &Backoff::default(), NOW, 0.5)
}

/// The code of the failure that the task ends with.
fn final_code(next: &Next) -> Option<&str> {
    match next {
        Next::Fail(failure) => Some(&failure.code),
        _ => None,
    }
}

#[test]
fn a_failure_backs_off_until_attempts_are_used_up() {
    let mut now = standing();
    for (before, wait) in [(0, 500), (1, 1_000)] {
        let verdict = verdict(Ending::Failed(failure("exit_status", true)), &now);
        let wait = Duration::from_millis(wait);
        assert_eq!(verdict.next, Next::RetryAt { at: NOW.after(wait), wait });
        assert_eq!(verdict.failed_attempts, before + 1);
        now.failed_attempts = verdict.failed_attempts;
    }
    let last = verdict(Ending::Failed(failure("exit_status", true)), &now);
    assert_eq!(final_code(&last.next), Some("exit_status"));
}

#[test]
fn a_failure_that_cannot_be_mended_is_final() {
    let verdict = verdict(Ending::Failed(failure("output_too_large", false)), &standing());
    assert_eq!(final_code(&verdict.next), Some("output_too_large"));
}

#[test]
fn an_agent_says_when_to_try_again_but_not_how_often() {
    let busy = |ms| Failure { retry_after_ms: Some(ms), ..failure("agent_error", true) };
    let wait = Duration::from_millis(31_500);
    let next = verdict(Ending::Failed(busy(30_000)), &standing()).next;
    assert_eq!(next, Next::RetryAt { at: NOW.after(wait), wait });
    let last = Standing { failed_attempts: 2, ..standing() };
    assert_eq!(final_code(&verdict(Ending::Failed(busy(30_000)), &last).next), Some("agent_error"));
    let both = Failure { retryable: false, ..busy(30_000) };
    assert_eq!(final_code(&verdict(Ending::Failed(both), &standing()).next), Some("agent_error"));
}

#[test]
fn after_its_deadline_a_task_ends_unless_it_had_succeeded_or_was_cancelled() {
    let late = Standing { expired: true, ..standing() };
    let endings = [
        Ending::Failed(failure("exit_status", true)),
        Ending::Interrupted(Interruption::Cancelled),
        Ending::Interrupted(Interruption::LeaseExpired),
    ];
    for ending in endings {
        assert_eq!(final_code(&verdict(ending.clone(), &late).next), Some("deadline_exceeded"), "{ending:?}");
        let cancelled = Standing { cancel_requested: true, ..late.clone() };
        assert_eq!(verdict(ending, &cancelled).next, Next::Cancel);
    }
    assert_eq!(verdict(Ending::Succeeded, &late).next, Next::Succeed);
    assert_eq!(verdict(Ending::Interrupted(Interruption::Cancelled), &standing()).next, Next::Cancel);
}

#[test]
fn a_newcomer_does_nothing_to_a_conversation_that_is_not_busy() {
    for policy in OnBusy::ALL {
        assert_eq!(policy.arrival(false), Arrival::LineUp);
    }
    let busy = OnBusy::ALL.map(|policy| policy.arrival(true));
    assert_eq!(busy, [Arrival::LineUp, Arrival::Refuse, Arrival::MakeWay]);
}

#[test]
fn a_deadline_stops_what_runs_and_ends_what_waits() {
    for state in State::ALL {
        let expected = match state {
            State::Running => AtDeadline::Stop,
            state if state.is_terminal() => AtDeadline::Nothing,
            _ => AtDeadline::Fail,
        };
        assert_eq!(at_deadline(state), expected);
    }
}

#[test]
fn a_submission_says_more_than_its_fleet_about_the_deadline() {
    let after = |seconds| NOW.after(Duration::from_secs(seconds));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(deadline(None, None, None, None, NOW), None);
    assert_eq!(deadline(None, None, seconds(5), None, NOW), Some(after(5)));
    assert_eq!(deadline(None, None, seconds(5), Some(after(10)), NOW), Some(after(15)));
    assert_eq!(deadline(None, seconds(9), seconds(5), Some(after(10)), NOW), Some(after(9)));
    assert_eq!(deadline(Some(after(7)), seconds(9), seconds(5), None, NOW), Some(after(7)));
}

#[test]
fn an_interruption_costs_nothing_and_runs_again_at_once() {
    let late = Standing { failed_attempts: 2, strikes: 2, ..standing() };
    let causes = [
        Interruption::HandedOver,
        Interruption::WorkerEnded,
        Interruption::LeaseExpired,
        Interruption::CallBroken,
    ];
    for cause in causes {
        let verdict = verdict(Ending::Interrupted(cause), &late);
        assert_eq!(verdict, Verdict { next: Next::Requeue { alone: false }, failed_attempts: 2, strikes: 2 });
    }
}

#[test]
fn a_fleet_whose_tools_must_not_run_twice_fails_when_interrupted() {
    let careful = Standing { on_interrupt: OnInterrupt::Fail, ..standing() };
    let verdict = verdict(Ending::Interrupted(Interruption::WorkerEnded), &careful);
    assert_eq!(final_code(&verdict.next), Some("interrupted"));
}

const MAY_HAVE_RUN: [Interruption; 6] = [
    Interruption::HandedOver,
    Interruption::WorkerEnded,
    Interruption::WorkerCrashed,
    Interruption::AgentCrashed,
    Interruption::LeaseExpired,
    Interruption::Superseded,
];

#[test]
fn a_fleet_that_wants_to_be_asked_is_asked_when_interrupted() {
    let asks = Standing { on_interrupt: OnInterrupt::Ask, failed_attempts: 2, ..standing() };
    for cause in MAY_HAVE_RUN {
        let verdict = verdict(Ending::Interrupted(cause), &asks);
        assert_eq!((verdict.next, verdict.failed_attempts), (Next::Ask, 2), "{cause:?}");
    }
    let failed = verdict(Ending::Failed(failure("exit_status", false)), &asks);
    assert_eq!(final_code(&failed.next), Some("exit_status"), "a failure is no interruption");
}

#[test]
fn a_task_whose_agent_never_started_runs_again_without_question() {
    for on_interrupt in [OnInterrupt::Resume, OnInterrupt::Fail, OnInterrupt::Ask] {
        let verdict =
            verdict(Ending::Interrupted(Interruption::NotHeld), &Standing { on_interrupt, ..standing() });
        assert_eq!(verdict.next, Next::Requeue { alone: false }, "{on_interrupt:?}");
    }
}

#[test]
fn poison_is_failed_and_nobody_is_asked() {
    for on_interrupt in [OnInterrupt::Fail, OnInterrupt::Ask] {
        let twice = Standing { on_interrupt, strikes: 2, ..standing() };
        let verdict = verdict(Ending::Interrupted(Interruption::WorkerCrashed), &twice);
        assert_eq!(final_code(&verdict.next), Some("poison"), "{on_interrupt:?}");
    }
}

#[test]
fn three_deaths_alone_without_progress_are_poison() {
    let mut now = standing();
    for strikes in [1, 2] {
        let verdict = verdict(Ending::Interrupted(Interruption::WorkerCrashed), &now);
        assert_eq!((&verdict.next, verdict.strikes), (&Next::Requeue { alone: true }, strikes));
        now.strikes = verdict.strikes;
    }
    let last = verdict(Ending::Interrupted(Interruption::WorkerCrashed), &now);
    assert_eq!((final_code(&last.next), last.strikes), (Some("poison"), 3));
}

#[test]
fn progress_and_company_prevent_a_strike_and_reset_nothing() {
    let two = Standing { strikes: 2, ..standing() };
    for spared in [Standing { progressed: true, ..two.clone() }, Standing { alone: false, ..two }] {
        let crashed = verdict(Ending::Interrupted(Interruption::WorkerCrashed), &spared);
        assert_eq!((&crashed.next, crashed.strikes), (&Next::Requeue { alone: true }, 2));
        let killed = verdict(Ending::Failed(failure("out_of_memory", true)), &spared);
        assert_eq!((final_code(&killed.next), killed.strikes), (None, 2));
    }
}

#[test]
fn an_out_of_memory_kill_is_a_failure_and_a_strike() {
    let many = Standing { max_attempts: 10, strikes: 2, ..standing() };
    let verdict = verdict(Ending::Failed(failure("out_of_memory", true)), &many);
    assert_eq!((final_code(&verdict.next), verdict.failed_attempts), (Some("poison"), 1));
}

#[test]
fn a_result_that_is_there_outlives_a_cancellation() {
    let cancelled = Standing { cancel_requested: true, ..standing() };
    assert_eq!(verdict(Ending::Succeeded, &cancelled).next, Next::Succeed);
}

#[test]
fn waiting_costs_nothing_and_a_cancelled_task_does_not_wait() {
    let waits = Ending::Waited(Awaits::Answer { question: "q".into() });
    let before = Standing { failed_attempts: 2, strikes: 2, ..standing() };
    let verdict = verdict(waits.clone(), &before);
    assert_eq!(verdict, Verdict { next: Next::Wait, failed_attempts: 2, strikes: 2 });
    let cancelled = Standing { cancel_requested: true, ..standing() };
    assert_eq!(after(&waits, &cancelled, &Backoff::default(), NOW, 0.5).next, Next::Cancel);
}

fn any_ending() -> impl Strategy<Value = Ending> {
    let interruption = prop_oneof![
        Just(Interruption::HandedOver),
        Just(Interruption::WorkerEnded),
        Just(Interruption::WorkerCrashed),
        Just(Interruption::AgentCrashed),
        Just(Interruption::LeaseExpired),
        Just(Interruption::NotHeld),
        Just(Interruption::Superseded),
        Just(Interruption::Cancelled),
        Just(Interruption::CallBroken),
    ];
    let failed = (prop_oneof![Just("exit_status"), Just("out_of_memory"), Just("timeout")], any::<bool>());
    prop_oneof![
        1 => Just(Ending::Succeeded),
        4 => failed.prop_map(|(code, retryable)| Ending::Failed(failure(code, retryable))),
        8 => interruption.prop_map(Ending::Interrupted),
        2 => Just(Ending::Waited(Awaits::Answer { question: "q".into() })),
    ]
}

fn any_on_interrupt() -> impl Strategy<Value = OnInterrupt> {
    prop_oneof![Just(OnInterrupt::Resume), Just(OnInterrupt::Fail), Just(OnInterrupt::Ask)]
}

prop_compose! {
    fn any_standing()(
        failed_attempts in prop_oneof![0u32..10, Just(u32::MAX)], max_attempts in 0u32..10,
        strikes in prop_oneof![0u32..5, Just(u32::MAX)], cancel_requested: bool, progressed: bool,
        alone: bool, on_interrupt in any_on_interrupt(),
    ) -> Standing {
        let expired = false;
        Standing { failed_attempts, max_attempts, strikes, cancel_requested, expired, on_interrupt, progressed, alone }
    }
}

proptest! {
    #[test]
    fn counters_only_grow_and_interruptions_never_cost_an_attempt(
        ending in any_ending(), standing in any_standing(), roll in 0.0..1.0f64,
    ) {
        let verdict = after(&ending, &standing, &Backoff::default(), NOW, roll);
        let failed = u64::from(verdict.failed_attempts) - u64::from(standing.failed_attempts);
        let struck = u64::from(verdict.strikes) - u64::from(standing.strikes);
        prop_assert!(failed <= 1 && struck <= 1);
        prop_assert!(failed == 0 || matches!(ending, Ending::Failed(_)));
        prop_assert!(struck == 0 || standing.alone && !standing.progressed);
    }

    #[test]
    fn a_cancelled_task_never_runs_again(ending in any_ending(), standing in any_standing()) {
        let cancelled = Standing { cancel_requested: true, ..standing };
        let next = after(&ending, &cancelled, &Backoff::default(), NOW, 0.5).next;
        prop_assert!(matches!(next, Next::Cancel | Next::Succeed), "{next:?}");
        prop_assert_eq!(next == Next::Succeed, ending == Ending::Succeeded);
    }

    #[test]
    fn a_retry_lies_within_the_cap(
        standing in any_standing(), base_ms: u64, cap_ms: u64, now in i64::MIN..Timestamp::MAX.0, roll in 0.0..1.0f64,
    ) {
        let now = Timestamp(now);
        let ending = Ending::Failed(failure("exit_status", true));
        if let Next::RetryAt { at, wait } = after(&ending, &standing, &Backoff { base_ms, cap_ms }, now, roll).next {
            prop_assert!(wait <= Duration::from_millis(cap_ms));
            prop_assert!(now <= at && at <= Timestamp::MAX);
        }
    }

    /// A whole life under any endings: it ends at most once, failures are bounded by `max_attempts`, crashes by three.
    #[test]
    fn a_life_ends_by_its_rules(
        endings in proptest::collection::vec((any_ending(), any::<bool>(), any::<bool>()), 0..60),
        max_attempts in 1u32..6, on_interrupt in any_on_interrupt(),
    ) {
        let mut now = Standing { max_attempts, on_interrupt, ..standing() };
        let (mut failures, mut strikes) = (0, 0);
        for (ending, progressed, alone) in endings {
            (now.progressed, now.alone) = (progressed, alone);
            let verdict = after(&ending, &now, &Backoff::default(), NOW, 0.5);
            failures += u32::from(matches!(ending, Ending::Failed(_)));
            strikes += u32::from(verdict.strikes > now.strikes);
            (now.failed_attempts, now.strikes) = (verdict.failed_attempts, verdict.strikes);
            match verdict.next {
                // A person who is asked may let it go on, and so does what it waits for.
                Next::Requeue { .. } | Next::RetryAt { .. } | Next::Ask | Next::Wait => {
                    prop_assert!(failures < max_attempts && strikes < POISON_STRIKES);
                }
                end => {
                    prop_assert!(end_is_earned(&end, &ending, failures, strikes, max_attempts), "{end:?} {ending:?}");
                    return Ok(());
                }
            }
        }
    }
}

fn end_is_earned(end: &Next, ending: &Ending, failures: u32, strikes: u32, max_attempts: u32) -> bool {
    match end {
        Next::Succeed => *ending == Ending::Succeeded,
        Next::Cancel => *ending == Ending::Interrupted(Interruption::Cancelled),
        Next::Fail(last) if last.code == "poison" => strikes == POISON_STRIKES,
        Next::Fail(last) => !last.retryable || failures == max_attempts,
        Next::Requeue { .. } | Next::RetryAt { .. } | Next::Ask | Next::Wait => false,
    }
}
