//! The rules one by one, and then all of them in every order.

mod model;

use super::*;

fn ask(occurrence: u32, state: AskState, ended: u64) -> Asked {
    Asked { occurrence, state, ended }
}

fn check(asks: &[Asked], retry: bool, expected: u32) {
    assert_eq!(allot(asks, retry), expected, "{asks:?}, retry {retry}");
}

#[test]
fn equal_requests_of_an_agent_stay_as_many_as_they_are() {
    check(&[], false, 0);
    check(&[ask(0, AskState::Open, 0)], false, 1);
    check(&[ask(0, AskState::Delivered, 1), ask(1, AskState::Open, 0)], false, 2);
}

#[test]
fn a_retry_takes_the_oldest_that_was_not_delivered() {
    check(&[], true, 0);
    check(&[ask(0, AskState::Undelivered, 1), ask(1, AskState::Failed, 2)], true, 0);
    check(&[ask(0, AskState::Delivered, 1), ask(1, AskState::Failed, 2)], true, 1);
    check(&[ask(0, AskState::Open, 0), ask(1, AskState::Undelivered, 2)], true, 1);
}

#[test]
fn a_retry_of_something_that_was_delivered_takes_the_one_that_ended_last() {
    check(&[ask(0, AskState::Delivered, 5), ask(1, AskState::Delivered, 3)], true, 0);
    check(&[ask(0, AskState::Delivered, 1), ask(1, AskState::Open, 0)], true, 0);
    check(&[ask(0, AskState::Open, 0)], true, 1);
}

#[test]
fn an_occurrence_stands_as_its_newest_ask_does() {
    let retried =
        [ask(0, AskState::Undelivered, 1), ask(1, AskState::Undelivered, 2), ask(0, AskState::Open, 0)];
    check(&retried, true, 1);
    let done =
        [ask(0, AskState::Undelivered, 1), ask(1, AskState::Delivered, 2), ask(0, AskState::Delivered, 3)];
    check(&done, true, 0);
}

#[test]
fn the_first_failure_keeps_what_it_can_and_the_second_nothing() {
    assert_eq!((0..5).map(inherits).collect::<Vec<_>>(), [false, true, false, true, false]);
}

fn spans(spans: &[(u64, u64, bool)], expected: &[bool]) {
    let spans: Vec<Span> =
        spans.iter().map(|&(begun, ended, delivered)| Span { begun, ended, delivered }).collect();
    assert_eq!(tainted(&spans), expected);
}

#[test]
fn the_last_delivered_answer_and_what_overlapped_it_are_not_inherited() {
    spans(&[], &[]);
    spans(&[(1, 2, true), (3, 4, true)], &[false, true]);
    // Three in parallel, one of them ended before the last began to overlap anything.
    spans(&[(1, 2, true), (3, 6, true), (4, 5, true)], &[false, true, true]);
    // One that never ended was under way.
    spans(&[(1, 0, false), (2, 3, true)], &[true, true]);
    spans(&[(1, 2, false), (3, 4, false)], &[false, false]);
}

const FENCE: u64 = 1;

fn journal() -> Journal {
    let mut journal = Journal::default();
    journal.owner_starts(1);
    journal.grant(FENCE);
    journal
}

/// Asks, answers and delivers.
fn call(journal: &mut Journal, (fence, call): (u64, u64), request: u64) -> bool {
    match journal.begin((fence, call), request, false, 1).expect("the fence is valid") {
        Begun::Live { key } => {
            assert!(journal.answer(key, 1, fence, 100 + call));
            journal.ended((fence, call), true);
            true
        }
        Begun::Replay { .. } => {
            journal.ended((fence, call), true);
            false
        }
        Begun::Join { .. } => panic!("nothing is under way"),
    }
}

#[test]
fn after_an_interruption_everything_is_given_again() {
    let mut journal = journal();
    for n in 0..3 {
        assert!(call(&mut journal, (1, n), n));
    }
    journal.interrupt();
    journal.grant(2);
    for n in 0..3 {
        assert!(!call(&mut journal, (2, 10 + n), n));
    }
    assert!(call(&mut journal, (2, 20), 3), "what is new is bought");
    assert_eq!(journal.divergence(2), Divergence { replayed: 3, unasked: 0, live: 1 });
}

#[test]
fn after_a_failure_the_last_answer_is_asked_for_anew() {
    let mut journal = journal();
    for n in 0..3 {
        call(&mut journal, (1, n), n);
    }
    journal.fail_attempt();
    journal.grant(2);
    let live: Vec<bool> = (0..3).map(|n| call(&mut journal, (2, 10 + n), n)).collect();
    assert_eq!(live, [false, false, true]);
    journal.fail_attempt();
    journal.grant(3);
    let live: Vec<bool> = (0..3).map(|n| call(&mut journal, (3, 20 + n), n)).collect();
    assert_eq!(live, [true, true, true], "the second failure begins with nothing");
    journal.fail_attempt();
    journal.grant(4);
    let live: Vec<bool> = (0..3).map(|n| call(&mut journal, (4, 30 + n), n)).collect();
    assert_eq!(live, [false, false, true], "the count restarts");
}

#[test]
fn another_way_is_counted_and_what_was_bought_again() {
    let mut journal = journal();
    for n in 0..5 {
        call(&mut journal, (1, n), n);
    }
    journal.interrupt();
    journal.grant(2);
    for (n, request) in [0, 1, 12, 13, 14, 15].into_iter().enumerate() {
        call(&mut journal, (2, 10 + n as u64), request);
    }
    let divergence = journal.divergence(2);
    assert_eq!(divergence, Divergence { replayed: 2, unasked: 3, live: 4 });
    assert!(divergence.diverged());
    assert_eq!(divergence.bought_again(), 3);
}

#[test]
fn an_old_fence_gets_nothing_and_its_unsent_call_is_withdrawn() {
    let mut journal = journal();
    let key = journal.begin((1, 1), 7, false, 1).expect("valid").key();
    journal.interrupt();
    assert_eq!(journal.begin((1, 2), 7, false, 1), None);
    assert!(!journal.may_send(key, 1));
    assert_eq!(journal.entry(key), None);
}

#[test]
fn an_unsent_call_goes_on_when_a_newer_fence_has_joined() {
    let mut journal = journal();
    let key = journal.begin((1, 1), 7, false, 1).expect("valid").key();
    journal.interrupt();
    journal.grant(2);
    assert_eq!(journal.begin((2, 9), 7, false, 1), Some(Begun::Join { key }));
    assert!(journal.may_send(key, 1));
}

#[test]
fn an_answer_restores_an_intent_that_was_lost_but_never_replaces_another() {
    let mut journal = journal();
    let key = Key { generation: 0, request: 7, occurrence: 0 };
    assert!(journal.answer(key, 1, 1, 5));
    assert!(!journal.answer(key, 1, 1, 6));
    assert_eq!(journal.entry(key).and_then(|entry| entry.answer), Some(5));
}

#[test]
fn a_lost_owners_call_is_taken_over_once_and_marked() {
    let mut journal = journal();
    let key = journal.begin((1, 1), 7, false, 1).expect("valid").key();
    journal.owner_is_gone(1);
    journal.owner_starts(2);
    journal.owner_starts(3);
    assert_eq!(journal.begin((1, 1), 7, false, 2), Some(Begun::Live { key }));
    assert_eq!(journal.begin((1, 1), 7, false, 3), Some(Begun::Join { key }));
    assert!(!journal.answer(key, 1, 1, 5), "the old owner comes too late");
    assert!(journal.answer(key, 2, 1, 6));
    assert_eq!(journal.entry(key).map(|entry| entry.maybe_billed), Some(1));
}
