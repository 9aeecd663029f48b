//! Ticks as people read them on a clock, and plans as a line of words.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect(text)
}

/// The next ticks after a time, as the zone's clocks show them.
fn ticks(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let timing = Timing::new(cron, zone).expect(cron);
    timing.after(at(after)).take(count).map(|tick| timing.local(tick)).collect()
}

fn refused(cron: &str, zone: &str, why: &str) {
    let error = Timing::new(cron, zone).expect_err(cron).to_string();
    assert!(error.contains(why), "{cron} in {zone}: {error}");
}

#[test]
fn a_fixed_time_in_the_gap_of_spring_comes_right_after_it() {
    let berlin = ticks("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3);
    assert_eq!(
        berlin,
        [
            "2026-03-28T02:30:00+01:00[Europe/Berlin]",
            "2026-03-29T03:00:00+02:00[Europe/Berlin]",
            "2026-03-30T02:30:00+02:00[Europe/Berlin]",
        ]
    );
    let york = ticks("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2);
    assert_eq!(
        york,
        ["2026-03-08T03:00:00-04:00[America/New_York]", "2026-03-09T02:30:00-04:00[America/New_York]"]
    );
}

#[test]
fn a_fixed_time_in_the_repeated_hour_of_autumn_comes_once() {
    let berlin = ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
    assert_eq!(
        berlin,
        ["2026-10-25T02:30:00+02:00[Europe/Berlin]", "2026-10-26T02:30:00+01:00[Europe/Berlin]"]
    );
    let york = ticks("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2);
    assert_eq!(
        york,
        ["2026-11-01T01:30:00-04:00[America/New_York]", "2026-11-02T01:30:00-05:00[America/New_York]"]
    );
}

#[test]
fn every_hour_is_every_hour_on_the_days_that_clocks_change() {
    for (zone, after) in [
        ("Europe/Berlin", "2026-03-28T20:00:00Z"),
        ("Europe/Berlin", "2026-10-24T20:00:00Z"),
        ("America/New_York", "2026-03-08T00:00:00Z"),
        ("America/New_York", "2026-11-01T00:00:00Z"),
    ] {
        let timing = Timing::new("0 * * * *", zone).expect("valid");
        let hours: Vec<Timestamp> = timing.after(at(after)).take(24).collect();
        let gaps: Vec<u64> = hours.windows(2).map(|two| two[1].since(two[0]).as_secs()).collect();
        assert_eq!(gaps, [3600; 23], "{zone} {after}");
    }
}

#[test]
fn a_leap_day_comes_every_four_years_and_not_in_2100() {
    let days = ticks("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 1);
    assert_eq!(days, ["2028-02-29T00:00:00+00:00[UTC]"]);
    let days = ticks("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1);
    assert_eq!(days, ["2104-02-29T00:00:00+00:00[UTC]"]);
}

#[test]
fn days_are_named_counted_from_the_end_and_alternatives() {
    let friday = ticks("0 9 * * fri#1", "UTC", "2026-01-01T00:00:00Z", 2);
    assert_eq!(friday, ["2026-01-02T09:00:00+00:00[UTC]", "2026-02-06T09:00:00+00:00[UTC]"]);
    let last = ticks("0 0 L * *", "UTC", "2026-02-01T00:00:00Z", 2);
    assert_eq!(last, ["2026-02-28T00:00:00+00:00[UTC]", "2026-03-31T00:00:00+00:00[UTC]"]);
    let either = ticks("0 0 13 * fri", "UTC", "2026-02-01T00:00:00Z", 3);
    assert_eq!(
        either,
        [
            "2026-02-06T00:00:00+00:00[UTC]",
            "2026-02-13T00:00:00+00:00[UTC]",
            "2026-02-20T00:00:00+00:00[UTC]"
        ]
    );
    assert_eq!(ticks("@daily", "UTC", "2026-02-01T00:00:00Z", 1), ["2026-02-02T00:00:00+00:00[UTC]"]);
}

#[test]
fn a_tick_is_not_found_again_from_within_its_second() {
    for within in ["2026-01-01T10:00:00Z", "2026-01-01T10:00:00.001Z", "2026-01-01T10:00:00.999Z"] {
        assert_eq!(ticks("0 * * * *", "UTC", within, 1), ["2026-01-01T11:00:00+00:00[UTC]"], "{within}");
    }
    let just_before = ticks("0 * * * *", "UTC", "2026-01-01T09:59:59.999Z", 1);
    assert_eq!(just_before, ["2026-01-01T10:00:00+00:00[UTC]"]);
}

#[test]
fn what_cannot_be_or_is_too_fine_is_refused_with_its_reason() {
    refused("0 0 30 2 *", "UTC", "never comes");
    refused("0 0 31 4,6,9,11 *", "UTC", "never comes");
    refused("* * * * * *", "UTC", "6 fields: expected five");
    refused("0 0 0 1 1 * 2030", "UTC", "7 fields");
    refused("", "UTC", "0 fields");
    refused("61 * * * *", "UTC", "is not a cron expression");
    refused("0 25 * * *", "UTC", "is not a cron expression");
    refused("* * * * x", "UTC", "is not a cron expression");
    refused("@sometimes", "UTC", "is not a cron expression");
    refused("0 0 * * *", "Europe/Nowhere", "is not a time zone");
    refused("0 0 * * *", "", "is not a time zone");
}

/// Plans for an hourly schedule and says what comes of it: hours that fire, and how many do not.
fn check(policy: (Missed, u32, Overlap), cursor: &str, now: &str, running: bool, expected: &str) {
    let timing = Timing::new("0 * * * *", "UTC").expect("valid");
    let day = |clock: &str| at(&format!("2026-05-05T{clock}:00Z"));
    let plan = plan(&timing, policy, Standing { cursor: day(cursor), now: day(now), running });
    let clock = |tick: &Timestamp| tick.to_string()[11..16].to_owned();
    let fire: Vec<String> = plan.fire.iter().map(clock).collect();
    let told = format!(
        "fire {}; missed {}; overlapped {}; cursor {}",
        fire.join(" "),
        plan.missed,
        plan.overlapped,
        clock(&plan.cursor)
    );
    assert_eq!(told, expected, "{policy:?} from {cursor} at {now}");
    assert!(!plan.more);
}

const SKIP: (Missed, u32, Overlap) = (Missed::Skip, 10, Overlap::Allow);
const ONCE: (Missed, u32, Overlap) = (Missed::Once, 10, Overlap::Allow);
const ALL: (Missed, u32, Overlap) = (Missed::All, 3, Overlap::Allow);

#[test]
fn nothing_is_due_before_the_next_tick() {
    for policy in [SKIP, ONCE, ALL] {
        check(policy, "10:00", "10:59", false, "fire ; missed 0; overlapped 0; cursor 10:00");
    }
}

#[test]
fn a_tick_on_time_fires_whatever_the_policy() {
    for policy in [SKIP, ONCE, ALL] {
        check(policy, "10:00", "11:00", false, "fire 11:00; missed 0; overlapped 0; cursor 11:00");
        check(policy, "10:00", "11:01", false, "fire 11:00; missed 0; overlapped 0; cursor 11:00");
    }
}

#[test]
fn missed_ticks_are_skipped_made_up_for_once_or_all() {
    check(SKIP, "10:00", "15:30", false, "fire ; missed 5; overlapped 0; cursor 15:00");
    check(SKIP, "10:00", "15:00", false, "fire 15:00; missed 4; overlapped 0; cursor 15:00");
    check(ONCE, "10:00", "15:30", false, "fire 15:00; missed 4; overlapped 0; cursor 15:00");
    check(ALL, "10:00", "12:30", false, "fire 11:00 12:00; missed 0; overlapped 0; cursor 12:00");
    check(ALL, "10:00", "15:30", false, "fire 13:00 14:00 15:00; missed 2; overlapped 0; cursor 15:00");
}

#[test]
fn a_task_that_still_runs_keeps_the_next_away_if_it_is_to() {
    let alone = |missed| (missed, 3, Overlap::Skip);
    check(alone(Missed::Skip), "10:00", "11:00", true, "fire ; missed 0; overlapped 1; cursor 11:00");
    check(alone(Missed::Skip), "10:00", "11:00", false, "fire 11:00; missed 0; overlapped 0; cursor 11:00");
    check(alone(Missed::All), "10:00", "12:30", false, "fire 12:00; missed 0; overlapped 1; cursor 12:00");
    check(SKIP, "10:00", "11:00", true, "fire 11:00; missed 0; overlapped 0; cursor 11:00");
}

#[test]
fn a_clock_that_goes_back_makes_nothing_due() {
    check(ALL, "12:00", "09:30", false, "fire ; missed 0; overlapped 0; cursor 12:00");
}

#[test]
fn nicknames_and_the_finer_points_of_days_are_known() {
    let next = |cron: &str| ticks(cron, "UTC", "2026-02-01T00:30:00Z", 1)[0][..16].to_owned();
    for (cron, expected) in [
        ("@hourly", "2026-02-01T01:00"),
        ("@daily", "2026-02-02T00:00"),
        ("@weekly", "2026-02-08T00:00"),
        ("@monthly", "2026-03-01T00:00"),
        ("@yearly", "2027-01-01T00:00"),
        ("0 0 * * fri#L", "2026-02-27T00:00"),
        ("0 0 15W * *", "2026-02-16T00:00"),
        ("0 0 13 * +fri", "2026-02-13T00:00"),
        ("0 0 1 jan *", "2027-01-01T00:00"),
    ] {
        assert_eq!(next(cron), expected, "{cron}");
    }
}

#[test]
fn the_newest_of_a_long_absence_are_made_up_for() {
    let timing = Timing::new("* * * * *", "UTC").expect("valid");
    let (start, now) =
        (at("2026-04-20T00:00:00Z"), Timestamp(at("2026-04-20T00:00:00Z").0 + 10_001 * 60_000));
    let policy = (Missed::All, LARGEST_LIMIT, Overlap::Allow);
    let first = plan(&timing, policy, Standing { cursor: start, now, running: false });
    assert_eq!((first.missed, first.more), (9_000, true));
    let last = plan(&timing, policy, Standing { cursor: first.cursor, now, running: false });
    assert_eq!((last.missed, last.fire.len(), last.fire.last()), (1, 1_000, Some(&now)));
}

#[test]
fn a_long_absence_is_gone_through_in_pieces() {
    let timing = Timing::new("* * * * *", "UTC").expect("valid");
    let now = at("2026-05-05T00:00:30Z");
    let mut cursor = at("2026-04-20T00:00:30Z");
    let (mut missed, mut rounds) = (0, 0);
    let last = loop {
        rounds += 1;
        let plan = plan(&timing, ONCE, Standing { cursor, now, running: false });
        assert!(plan.cursor > cursor);
        (missed, cursor) = (missed + plan.missed, plan.cursor);
        if !plan.more {
            break plan;
        }
        assert_eq!(plan.fire, []);
    };
    assert_eq!((rounds, missed, last.fire), (3, 15 * 24 * 60 - 1, vec![at("2026-05-05T00:00:00Z")]));
}

fn any_policy() -> impl Strategy<Value = (Missed, u32, Overlap)> {
    let missed = prop_oneof![Just(Missed::Skip), Just(Missed::Once), Just(Missed::All)];
    (missed, 1u32..6, prop_oneof![Just(Overlap::Allow), Just(Overlap::Skip)])
}

proptest! {
    /// However often and when it is looked at, each tick is dealt with once.
    #[test]
    fn every_tick_is_fired_or_counted_once(
        policy in any_policy(), looks in proptest::collection::vec((0i64..20_000_000, any::<bool>()), 1..20),
        zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe")],
        cron in prop_oneof![Just("*/20 * * * *"), Just("30 2 * * *"), Just("0 0 * * *"), Just("15 1,2 * * *")],
    ) {
        let timing = Timing::new(cron, zone).expect("valid");
        // Over a change of clocks in each of the zones.
        let start = at("2026-10-24T12:00:00Z");
        let (mut now, mut cursor, mut fired, mut counted) = (start, start, Vec::new(), 0);
        for (step, running) in looks {
            now = Timestamp(now.0 + step);
            let plan = plan(&timing, policy, Standing { cursor, now, running });
            prop_assert!(plan.cursor >= cursor && plan.cursor <= now && !plan.more);
            counted += plan.missed + plan.overlapped;
            cursor = plan.cursor;
            fired.extend(plan.fire);
        }
        let all: Vec<Timestamp> = timing.after(start).take_while(|tick| *tick <= now).collect();
        prop_assert!(fired.windows(2).all(|two| two[0] < two[1]), "in order, none twice");
        prop_assert!(fired.iter().all(|tick| all.contains(tick)));
        prop_assert_eq!(fired.len() as u64 + counted, all.len() as u64);
    }
}
