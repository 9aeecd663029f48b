//! What to do after a try at the provider: give the answer to the agent, try again, or give up.
//!
//! Owns the rules of retrying model calls. Never waits and never reads headers off a connection: the gateway does.

use crate::retry::Backoff;
use crate::time::Timestamp;

const BACKOFF: Backoff = Backoff { base_ms: 500, cap_ms: 8_000 };

/// No provider is believed that asks for more.
const MOST_ASKED_MS: u64 = 3_600_000;

/// How one try ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<'a> {
    /// The provider was never reached.
    Connect,
    /// The connection broke after the request was sent, before the answer's head.
    Broken,
    /// No head or no next chunk came in time.
    TimedOut,
    Answer {
        status: u16,
        /// The first 64 KiB are enough.
        body: &'a [u8],
        retry_after_ms: Option<u64>,
        /// `x-should-retry`, if the provider said so.
        should_retry: Option<bool>,
    },
}

/// What was tried so far, the try that just ended included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Tries that did not end in a rate limit.
    pub count: u32,
    /// Tries that did.
    pub limited: u32,
    /// How many retries are allowed, those after rate limits apart.
    pub retries: u32,
    /// Milliseconds until the task's deadline.
    pub left_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The answer is final. Journaled when asking again would bring the same.
    Deliver { journal: bool },
    /// `limited`: the provider asked for patience, which is no fault of the call.
    Retry { wait_ms: u64, limited: bool },
    /// There is no answer to give: the gateway writes its own.
    GiveUp,
}

/// Decides what follows a try.
///
/// Shape: a rate limit (429, 529, 503 with a wait) is tried again for as long as the wait ends before the deadline;
/// other passing faults at most `retries` times. A wait is what the provider asked for and up to a tenth more, else
/// `1/4..1` of `min(8 s, 0.5 s * 2^n)`; `roll` lies in `[0, 1)`.
/// Errors: none. A time-out is not tried again, for the provider may still be at work on it and bill it.
pub fn next(outcome: &Outcome<'_>, tries: Tries, roll: f64) -> Next {
    let limited = is_rate_limit(outcome);
    let asked = asked_ms(outcome).filter(|ms| *ms > 0);
    let wait_ms = wait_ms(asked, if limited { tries.limited } else { tries.count }, roll);
    let allowed = limited || tries.count.max(1) <= tries.retries;
    if may_pass(outcome) && allowed && wait_ms < tries.left_ms {
        return Next::Retry { wait_ms, limited };
    }
    match outcome {
        Outcome::Answer { status, .. } => Next::Deliver { journal: is_lasting(*status) },
        Outcome::Connect | Outcome::Broken | Outcome::TimedOut => Next::GiveUp,
    }
}

/// Whether the provider may charge for the try: it answered, or may have worked without our seeing it.
pub fn may_be_billed(outcome: &Outcome<'_>) -> bool {
    match outcome {
        Outcome::Connect => false,
        Outcome::Broken | Outcome::TimedOut => true,
        // The second line: something between here and the model gave up on it, not the model itself.
        Outcome::Answer { status, .. } => {
            matches!(status, 200..=299) || matches!(status, 408 | 502 | 504 | 520..=524)
        }
    }
}

/// Reads how long the provider asks to be left alone, in milliseconds, at most an hour.
///
/// Shape: `retry_after_ms` (decimal milliseconds) is finer and goes first; `retry_after` holds decimal seconds or an
/// HTTP date, which is taken relative to `now`; a date in the past is zero.
/// Errors: `None` for what is neither, and for negative numbers.
/// Source: RFC 9110, section 10.2.3; `retry-after-ms` is Azure's.
pub fn parse_retry_after(
    retry_after_ms: Option<&str>,
    retry_after: Option<&str>,
    now: Timestamp,
) -> Option<u64> {
    let fine = retry_after_ms.and_then(|text| decimal_ms(text, 1.0));
    let coarse = || retry_after.and_then(|text| decimal_ms(text, 1_000.0).or_else(|| until_ms(text, now)));
    fine.or_else(coarse).map(|ms| ms.min(MOST_ASKED_MS))
}

fn decimal_ms(text: &str, unit_ms: f64) -> Option<u64> {
    let number: f64 = text.trim().parse().ok()?;
    // Rounded up: a wait that ends too early is refused again.
    (number.is_finite() && number >= 0.0).then(|| (number * unit_ms).ceil() as u64)
}

fn until_ms(date: &str, now: Timestamp) -> Option<u64> {
    let at = jiff::fmt::rfc2822::parse(date.trim()).ok()?.timestamp();
    let wait = Timestamp(at.as_millisecond()).since(now);
    u64::try_from(wait.as_millis()).ok()
}

fn wait_ms(asked: Option<u64>, failures: u32, roll: f64) -> u64 {
    let roll = if roll.is_finite() { roll.clamp(0.0, 1.0) } else { 0.0 };
    match asked {
        // Never earlier than asked, and spread, since everybody was told the same.
        Some(asked) => asked.saturating_add((asked as f64 * 0.1 * roll) as u64),
        None => BACKOFF.wait(failures.saturating_sub(1), 0.25 + 0.75 * roll).as_millis() as u64,
    }
}

fn asked_ms(outcome: &Outcome<'_>) -> Option<u64> {
    match outcome {
        Outcome::Answer { retry_after_ms, .. } => *retry_after_ms,
        _ => None,
    }
}

fn is_rate_limit(outcome: &Outcome<'_>) -> bool {
    match outcome {
        Outcome::Answer { status: 429 | 529, .. } => true,
        Outcome::Answer { status: 503, retry_after_ms, .. } => retry_after_ms.is_some(),
        _ => false,
    }
}

/// Whether the same request may fare better later.
fn may_pass(outcome: &Outcome<'_>) -> bool {
    match outcome {
        Outcome::Connect | Outcome::Broken => true,
        Outcome::TimedOut | Outcome::Answer { should_retry: Some(false), .. } => false,
        Outcome::Answer { status: 429, body, .. } => !is_hopeless(body),
        Outcome::Answer { status, .. } => matches!(status, 408 | 409 | 500..=599),
    }
}

/// A limit that no waiting lifts: the request exceeds it alone, the account is empty, or the limit is zero.
fn is_hopeless(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let zero = |(at, found): (usize, &str)| {
        let after = text[at + found.len()..].as_bytes();
        !matches!(after, [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..])
    };
    ["Request too large", "request too large", "insufficient_quota"]
        .iter()
        .any(|hopeless| text.contains(hopeless))
        || text.match_indices("limit: 0").any(zero)
}

/// Answers that asking again would bring again.
fn is_lasting(status: u16) -> bool {
    matches!(status, 200..=299 | 400 | 404 | 413 | 422)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRIES: Tries = Tries { count: 1, limited: 1, retries: 2, left_ms: 60_000 };
    const DELIVER: Next = Next::Deliver { journal: false };
    const FINAL: Next = Next::Deliver { journal: true };

    fn answer(status: u16) -> Outcome<'static> {
        Outcome::Answer { status, body: b"", retry_after_ms: None, should_retry: None }
    }

    fn asking(status: u16, ms: u64) -> Outcome<'static> {
        Outcome::Answer { status, body: b"", retry_after_ms: Some(ms), should_retry: None }
    }

    fn saying(body: &'static str) -> Outcome<'static> {
        Outcome::Answer { status: 429, body: body.as_bytes(), retry_after_ms: Some(10), should_retry: None }
    }

    fn retry(wait_ms: u64, limited: bool) -> Next {
        Next::Retry { wait_ms, limited }
    }

    fn check(outcome: Outcome<'_>, tries: Tries, expected: Next) {
        assert_eq!(next(&outcome, tries, 0.0), expected, "{outcome:?} {tries:?}");
    }

    #[test]
    fn answers_go_to_the_agent_and_lasting_ones_to_the_journal() {
        for status in [200, 201, 400, 404, 413, 422] {
            check(answer(status), TRIES, FINAL);
        }
        for status in [304, 401, 402, 403, 405, 415, 499] {
            check(answer(status), TRIES, DELIVER);
        }
    }

    #[test]
    fn passing_faults_are_tried_again_a_few_times() {
        for status in [408, 409, 500, 502, 503, 504, 520] {
            check(answer(status), TRIES, retry(125, false));
            check(answer(status), Tries { count: 2, ..TRIES }, retry(250, false));
            check(answer(status), Tries { count: 3, ..TRIES }, DELIVER);
        }
        for outcome in [Outcome::Connect, Outcome::Broken] {
            check(outcome.clone(), TRIES, retry(125, false));
            check(outcome, Tries { count: 3, ..TRIES }, Next::GiveUp);
        }
        check(answer(500), Tries { retries: 0, ..TRIES }, DELIVER);
    }

    #[test]
    fn a_time_out_may_have_been_billed_and_is_not_tried_again() {
        check(Outcome::TimedOut, TRIES, Next::GiveUp);
    }

    #[test]
    fn rate_limits_are_waited_out_however_often_they_come() {
        let often = Tries { count: 3, limited: 50, ..TRIES };
        check(answer(429), often, retry(2_000, true));
        check(answer(529), often, retry(2_000, true));
        check(asking(503, 7_000), often, retry(7_000, true));
        check(asking(429, 7_000), often, retry(7_000, true));
        check(asking(429, 60_000), often, DELIVER);
        check(asking(429, 7_000), Tries { left_ms: 7_000, ..often }, DELIVER);
    }

    #[test]
    fn a_wait_of_zero_is_no_invitation_to_spin() {
        check(asking(429, 0), TRIES, retry(125, true));
    }

    #[test]
    fn nothing_is_tried_again_past_the_deadline() {
        check(answer(500), Tries { left_ms: 125, ..TRIES }, DELIVER);
        check(Outcome::Connect, Tries { left_ms: 0, ..TRIES }, Next::GiveUp);
    }

    #[test]
    fn the_provider_may_forbid_a_retry() {
        for status in [429, 500, 529] {
            let no = Outcome::Answer { status, body: b"", retry_after_ms: None, should_retry: Some(false) };
            check(no, TRIES, DELIVER);
        }
        let yes = Outcome::Answer { status: 400, body: b"", retry_after_ms: None, should_retry: Some(true) };
        check(yes, TRIES, FINAL);
    }

    #[test]
    fn limits_that_no_waiting_lifts_are_final() {
        check(saying(r#"{"error":{"message":"Request too large for gpt-5: Limit 30000"}}"#), TRIES, DELIVER);
        check(saying(r#"{"error":{"message":"request too large"}}"#), TRIES, DELIVER);
        check(saying(r#"{"error":{"code":"insufficient_quota"}}"#), TRIES, DELIVER);
        check(saying(r#"{"error":{"message":"quota exceeded, limit: 0\nPlease"}}"#), TRIES, DELIVER);
        check(saying("limit: 0."), TRIES, DELIVER);
        check(saying("limit: 0.5 per second"), TRIES, retry(10, true));
        check(
            saying(r#"{"error":{"message":"Rate limit reached. Limit 30000, Used 29000"}}"#),
            TRIES,
            retry(10, true),
        );
    }

    #[test]
    fn only_tries_that_may_have_reached_a_model_may_be_billed() {
        for outcome in [Outcome::Broken, Outcome::TimedOut, answer(200), answer(408), answer(504)] {
            assert!(may_be_billed(&outcome), "{outcome:?}");
        }
        for outcome in [Outcome::Connect, answer(400), answer(429), answer(500), answer(503), answer(529)] {
            assert!(!may_be_billed(&outcome), "{outcome:?}");
        }
    }

    #[test]
    fn every_spelling_of_a_wait_is_read() {
        let now: Timestamp = "2015-10-21T07:27:00Z".parse().expect("a time");
        let check =
            |ms, plain, expected| assert_eq!(parse_retry_after(ms, plain, now), expected, "{ms:?} {plain:?}");
        check(None, None, None);
        check(Some("174"), Some("9"), Some(174));
        check(Some("0.5"), None, Some(1));
        check(Some("soon"), Some("2"), Some(2_000));
        check(None, Some(" 1.5 "), Some(1_500));
        check(None, Some("Wed, 21 Oct 2015 07:28:00 GMT"), Some(60_000));
        check(None, Some("Wed, 21 Oct 2015 07:00:00 GMT"), Some(0));
        check(None, Some("Wed, 21 Oct 2037 07:00:00 GMT"), Some(3_600_000));
        check(None, Some("1e300"), Some(3_600_000));
        for nonsense in ["-1", "inf", "NaN", "", "later"] {
            check(None, Some(nonsense), None);
        }
    }

    fn any_outcome() -> impl Strategy<Value = Outcome<'static>> {
        let status = prop_oneof![100u16..600, Just(429), Just(503), Just(529)];
        let asked = prop::option::of(prop_oneof![0u64..100_000, any::<u64>()]);
        let answers =
            (status, asked, any::<Option<bool>>()).prop_map(|(status, retry_after_ms, should_retry)| {
                Outcome::Answer { status, body: b"", retry_after_ms, should_retry }
            });
        prop_oneof![Just(Outcome::Connect), Just(Outcome::Broken), Just(Outcome::TimedOut), answers]
    }

    fn any_tries() -> impl Strategy<Value = Tries> {
        (any::<u32>(), any::<u32>(), 0u32..5, prop_oneof![0u64..20_000, any::<u64>()])
            .prop_map(|(count, limited, retries, left_ms)| Tries { count, limited, retries, left_ms })
    }

    proptest! {
        #[test]
        fn a_retry_waits_and_begins_before_the_deadline(outcome in any_outcome(), tries in any_tries(), roll: f64) {
            if let Next::Retry { wait_ms, limited } = next(&outcome, tries, roll) {
                let asked = asked_ms(&outcome).filter(|ms| *ms > 0);
                prop_assert!(wait_ms < tries.left_ms && wait_ms >= asked.unwrap_or(125));
                prop_assert!(asked.is_some() || wait_ms <= 8_000);
                prop_assert!(limited || tries.count <= tries.retries);
            }
        }

        #[test]
        fn an_answer_is_never_replaced_by_a_made_up_one(outcome in any_outcome(), tries in any_tries(), roll: f64) {
            let answered = matches!(outcome, Outcome::Answer { .. });
            prop_assert!(!answered || next(&outcome, tries, roll) != Next::GiveUp);
        }
    }
}
