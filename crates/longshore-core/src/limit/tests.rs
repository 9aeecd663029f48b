//! One call at a time first, then any sequence of calls against the calls that a plain list remembers.

use proptest::prelude::*;

use super::*;

fn limit(requests: Option<u64>, tokens: Option<u64>) -> Limit {
    Limit { requests_per_minute: requests, tokens_per_minute: tokens }
}

fn window(requests: u64, tokens: u64) -> Window {
    Window::new(limit(Some(requests), Some(tokens)))
}

fn ask(window: &mut Window, now_s: u64, tokens: u64) -> Answer {
    window.ask(now_s, Need { tokens })
}

fn admit(window: &mut Window, now_s: u64, tokens: u64) -> Permit {
    match ask(window, now_s, tokens) {
        Answer::Admitted(permit) => permit,
        other => panic!("{tokens} tokens at {now_s}: {other:?}"),
    }
}

/// A call that uses just what it reserved.
fn spend(window: &mut Window, now_s: u64, tokens: u64) {
    let permit = admit(window, now_s, tokens);
    window.settle(&permit, tokens);
}

/// Whether, or when, a call would be admitted.
fn check(window: &Window, now_s: u64, tokens: u64, expected: &str) {
    let seen = match ask(&mut window.clone(), now_s, tokens) {
        Answer::Admitted(_) => "admitted".to_owned(),
        Answer::Wait { seconds } => format!("wait {seconds}"),
        Answer::TooLarge { limit } => format!("more than {limit}"),
    };
    assert_eq!(seen, expected, "{tokens} tokens at {now_s}");
}

#[test]
fn calls_wait_until_enough_has_fallen_out_of_the_minute() {
    let mut window = window(100, 1_000);
    for (at, tokens) in [(10, 400), (20, 300), (30, 300)] {
        spend(&mut window, at, tokens);
    }
    check(&window, 30, 0, "admitted");
    check(&window, 30, 1, "wait 40");
    check(&window, 30, 401, "wait 50");
    check(&window, 30, 1_000, "wait 60");
    check(&window, 69, 1, "wait 1");
    check(&window, 70, 400, "admitted");
    assert_eq!((window.in_use(69), window.in_use(70), window.in_use(90)), ((3, 1_000), (2, 600), (0, 0)));
}

#[test]
fn requests_are_limited_beside_tokens() {
    let mut window = window(2, 1_000);
    for at in [0, 5] {
        spend(&mut window, at, 1);
    }
    check(&window, 5, 1, "wait 55");
    check(&window, 60, 1, "admitted");
}

#[test]
fn what_is_not_limited_is_admitted() {
    let mut window = Window::new(Limit::default());
    for _ in 0..3 {
        spend(&mut window, 0, u64::MAX);
    }
    assert_eq!(window.in_use(0), (3, u64::MAX));
    let mut requests_only = Window::new(limit(Some(1), None));
    spend(&mut requests_only, 0, u64::MAX);
    check(&requests_only, 1, 0, "wait 59");
}

#[test]
fn a_call_beyond_the_limit_is_never_admitted_and_does_not_wait() {
    let mut window = window(10, 1_000);
    window.block_until(500);
    check(&window, 0, 1_001, "more than 1000");
    check(&window, 0, 1_000, "wait 500");
    check(&Window::new(limit(Some(0), None)), 0, 1, "more than 0");
}

#[test]
fn settling_puts_what_was_used_where_it_was_reserved() {
    let mut window = window(10, 1_000);
    let permit = admit(&mut window, 3, 900);
    check(&window, 40, 500, "wait 23");
    window.settle(&permit, 100);
    assert_eq!(window.in_use(40), (1, 100));
    let second = admit(&mut window, 40, 900);
    window.settle(&second, 5_000);
    assert_eq!(window.in_use(40), (2, 5_100), "a call may use more than it reserved");
    check(&window, 63, 1, "wait 37");
}

#[test]
fn what_left_the_minute_can_no_longer_be_settled_or_withdrawn() {
    let mut window = window(10, 1_000);
    let (old, older) = (admit(&mut window, 7, 10), admit(&mut window, 7, 10));
    spend(&mut window, 67, 20);
    window.settle(&old, 500);
    window.withdraw(older);
    assert_eq!(window.in_use(67), (1, 20), "second 67 has the slot of second 7");
}

#[test]
fn a_block_holds_everything_back_and_is_never_shortened() {
    let mut window = window(10, 1_000);
    window.block_until(30);
    window.block_until(20);
    check(&window, 10, 1, "wait 20");
    check(&window, 30, 1, "admitted");
    spend(&mut window, 30, 1_000);
    window.block_until(35);
    check(&window, 31, 1, "wait 59");
}

#[test]
fn time_never_goes_back() {
    let mut window = window(10, 1_000);
    spend(&mut window, 100, 1_000);
    check(&window, 5, 1, "wait 60");
    assert_eq!(window.in_use(5), (1, 1_000));
}

#[test]
fn a_call_reserves_a_quarter_of_its_bytes_and_the_output_to_expect() {
    for (bytes, max, learned, tokens) in [
        (0, None, None, 1_024),
        (1, Some(100), None, 101),
        (400, Some(64_000), None, 1_124),
        (401, Some(64_000), Some(3_000), 3_101),
        (400, Some(2_000), Some(3_000), 2_100),
        (400, None, Some(3_000), 3_100),
        (400, None, Some(u64::MAX), u64::MAX),
    ] {
        assert_eq!(predict(bytes, max, learned), tokens, "{bytes} bytes, {max:?}, {learned:?}");
    }
}

#[derive(Clone, Debug)]
enum Act {
    Ask {
        after: u64,
        tokens: u64,
    },
    /// Of the permits given so far.
    Settle {
        which: usize,
        part: u64,
    },
    Withdraw {
        which: usize,
    },
    Block {
        seconds: u64,
    },
}

fn any_limit() -> impl Strategy<Value = Limit> {
    use proptest::option::of;
    (of(1u64..20), of(1u64..2_000)).prop_map(|(requests, tokens)| limit(requests, tokens))
}

fn any_acts() -> impl Strategy<Value = Vec<Act>> {
    let after = prop_oneof![6 => 0u64..4, 3 => 0u64..30, 1 => 50u64..200];
    let tokens = prop_oneof![8 => 0u64..300, 1 => 0u64..2_500];
    let act = prop_oneof![
        12 => (after, tokens).prop_map(|(after, tokens)| Act::Ask { after, tokens }),
        4 => (any::<usize>(), 0u64..=100).prop_map(|(which, part)| Act::Settle { which, part }),
        2 => any::<usize>().prop_map(|which| Act::Withdraw { which }),
        1 => (0u64..90).prop_map(|seconds| Act::Block { seconds }),
    ];
    proptest::collection::vec(act, 0..120)
}

/// Every call that was sent: when, and what it counts for.
#[derive(Default)]
struct Sent(Vec<(u64, u64)>);

impl Sent {
    fn in_minute_from(&self, first: u64) -> (u64, u64) {
        let within = self.0.iter().filter(|(at, _)| (first..first + SLOTS).contains(at));
        within.fold((0, 0), |(requests, sum), (_, tokens)| (requests + 1, sum + tokens))
    }
}

/// Plays acts, with each call's settlement at most what it reserved, and gives back the calls and the last second.
fn play(window: &mut Window, acts: Vec<Act>) -> Result<(Sent, u64), TestCaseError> {
    let (mut now, mut open, mut sent) = (0, Vec::new(), Sent::default());
    let mut blocked = 0;
    for act in acts {
        match act {
            Act::Ask { after, tokens } => {
                now += after;
                if let Answer::Admitted(permit) = ask(window, now, tokens) {
                    prop_assert!(now >= blocked, "sent at {now}, blocked until {blocked}");
                    sent.0.push((now, tokens));
                    open.push((sent.0.len() - 1, permit));
                }
            }
            Act::Settle { which, part } if !open.is_empty() => {
                let (nth, permit) = open.swap_remove(which % open.len());
                let used = permit.tokens * part / 100;
                window.settle(&permit, used);
                sent.0[nth].1 = used;
            }
            Act::Withdraw { which } if !open.is_empty() => {
                let (nth, permit) = open.swap_remove(which % open.len());
                window.withdraw(permit);
                // Nowhere near the others, so that the places of those stay.
                sent.0[nth] = (u64::MAX, 0);
            }
            Act::Block { seconds } => {
                blocked = blocked.max(now + seconds);
                window.block_until(now + seconds);
            }
            Act::Settle { .. } | Act::Withdraw { .. } => {}
        }
    }
    Ok((sent, now))
}

fn within(limit: Limit, (requests, tokens): (u64, u64)) -> bool {
    limit.requests_per_minute.is_none_or(|most| requests <= most)
        && limit.tokens_per_minute.is_none_or(|most| tokens <= most)
}

proptest! {
    #[test]
    fn no_minute_holds_more_than_the_limit(limit in any_limit(), acts in any_acts()) {
        let (sent, last) = play(&mut Window::new(limit), acts)?;
        for first in 0..=last {
            let used = sent.in_minute_from(first);
            prop_assert!(within(limit, used), "from second {first}: {used:?} of {limit:?}");
        }
    }

    #[test]
    fn the_window_counts_what_the_last_minute_holds(limit in any_limit(), acts in any_acts(), later in 0u64..70) {
        let mut window = Window::new(limit);
        let (sent, last) = play(&mut window, acts)?;
        let now = last + later;
        let before = |at: &u64| now.checked_sub(SLOTS).is_none_or(|out| *at > out);
        let counted = sent.0.iter().filter(|(at, _)| *at <= now && before(at));
        let expected = counted.fold((0, 0), |(requests, sum), (_, tokens)| (requests + 1, sum + tokens));
        prop_assert_eq!(window.in_use(now), expected);
    }

    #[test]
    fn who_waits_as_told_is_admitted_and_not_a_second_before(
        limit in any_limit(), acts in any_acts(), tokens in 0u64..2_000,
    ) {
        let mut window = Window::new(limit);
        let (_, now) = play(&mut window, acts)?;
        let Answer::Wait { seconds } = ask(&mut window, now, tokens) else { return Ok(()) };
        prop_assert!(seconds >= 1);
        let early = ask(&mut window.clone(), now + seconds - 1, tokens);
        prop_assert_eq!(early, Answer::Wait { seconds: 1 });
        let answer = ask(&mut window, now + seconds, tokens);
        prop_assert!(matches!(answer, Answer::Admitted(_)), "after {seconds} s: {answer:?}");
    }

    #[test]
    fn a_refused_call_changes_nothing_that_counts(limit in any_limit(), acts in any_acts(), tokens in 0u64..2_500) {
        let mut window = Window::new(limit);
        let (_, now) = play(&mut window, acts)?;
        let before = window.clone();
        if !matches!(ask(&mut window, now, tokens), Answer::Admitted(_)) {
            prop_assert_eq!(window, before);
        }
    }

    #[test]
    fn withdrawing_restores_what_was_there(limit in any_limit(), acts in any_acts(), tokens in 0u64..2_000) {
        let mut window = Window::new(limit);
        let (_, now) = play(&mut window, acts)?;
        let before: Vec<(u64, u64)> = (now..now + 61).map(|second| window.in_use(second)).collect();
        if let Answer::Admitted(permit) = ask(&mut window, now, tokens) {
            window.withdraw(permit);
        }
        let after: Vec<(u64, u64)> = (now..now + 61).map(|second| window.in_use(second)).collect();
        prop_assert_eq!(after, before);
    }

    #[test]
    fn an_earlier_second_counts_as_the_newest(limit in any_limit(), acts in any_acts(), back: u64, tokens in 0u64..2_000) {
        let mut window = Window::new(limit);
        let (_, now) = play(&mut window, acts)?;
        // Blocks and settlements do not move time; an ask does.
        let _ = ask(&mut window, now, u64::MAX);
        let earlier = ask(&mut window.clone(), now.saturating_sub(back), tokens);
        prop_assert_eq!(earlier, ask(&mut window, now, tokens));
    }
}
