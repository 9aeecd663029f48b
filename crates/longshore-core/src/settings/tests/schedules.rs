//! `[schedule.NAME]`.

use super::*;
use crate::json::Json;
use crate::schedule::{Missed, Overlap, Schedule};

fn with(schedule: &str) -> String {
    format!("{MINIMAL}[schedule.nightly]\n{schedule}")
}

fn only(schedule: &str) -> Schedule {
    let [schedule] = <[Schedule; 1]>::try_from(good(&with(schedule), &[]).schedules).expect("one schedule");
    schedule
}

const SMALL: &str = "fleet = \"research\"\ncron = \"0 6 * * *\"\n";

fn refused(more: &str, expected: &str) {
    let seen = complaints(&with(more), &[]);
    assert!(seen.contains(expected), "{more}: {seen}");
}

#[test]
fn everything_that_is_declared_is_read_and_printed_so_that_it_is_read_again() {
    let text = r#"
        fleet = "research"
        cron = "*/5 8-17 * * mon-fri"
        timezone = "Europe/Berlin"
        missed = "all"
        missed_limit = 7
        overlap = "skip"
        paused = true
        input = { b = [1, 2.5, true, "x\"y"], a = { "key with space" = -3 } }
        conversation = "c-1"
        priority = -4
        timeout = "90s"
        max_attempts = 2
        on_interrupt = "fail"
        labels = { "team.name" = "ops" }
    "#;
    let schedule = only(text);
    let input = r#"{"a":{"key with space":-3},"b":[1,2.5,true,"x\"y"]}"#;
    assert_eq!(schedule.input, Json::parse(input).expect("valid"));
    assert_eq!((schedule.missed, schedule.missed_limit, schedule.overlap), (Missed::All, 7, Overlap::Skip));
    assert_eq!((schedule.priority, schedule.timeout_ms, schedule.max_attempts), (-4, Some(90_000), Some(2)));
    assert!(schedule.paused);
    let printed = good(&with(text), &[]).to_string();
    assert_eq!(good(&printed, &[]).schedules, [schedule], "{printed}");
}

#[test]
fn what_is_wrong_with_a_schedule_is_said_at_its_key() {
    refused("cron = \"0 6 * * *\"", "schedule.nightly.fleet: missing");
    refused("fleet = \"research\"", "schedule.nightly.cron: missing");
    refused(
        "fleet = \"reserch\"\ncron = \"0 6 * * *\"",
        "there is no fleet `reserch`; did you mean `research`?",
    );
    refused("fleet = \"research\"\ncron = \"0 0 30 2 *\"", "never comes");
    refused("fleet = \"research\"\ncron = \"* * * * * *\"", "expected five");
    refused(
        &format!("{SMALL}timezone = \"Mars/Base\""),
        "schedule.nightly.timezone: `Mars/Base` is not a time zone",
    );
    refused(&format!("{SMALL}missed = \"sometimes\""), "\"skip\" or \"once\" or \"all\"");
    refused(&format!("{SMALL}missed_limit = 0"), "from 1 to 1000");
    refused(&format!("{SMALL}priority = 2000"), "from -1000 to 1000");
    refused(&format!("{SMALL}input = {{ when = 2026-01-01 }}"), "JSON cannot hold a date or time");
    refused(&format!("{SMALL}input = inf"), "infinity");
    refused(&format!("{SMALL}labels = {{ \"longshore.tick\" = \"x\" }}"), "longshore's own");
    refused(&format!("{SMALL}crom = \"x\""), "did you mean `cron`?");
    let seen = complaints(&format!("{MINIMAL}[schedule.Bad_Name]\n{SMALL}"), &[]);
    assert!(seen.contains("schedule name"), "{seen}");
}

#[test]
fn a_limit_that_limits_nothing_is_warned_about() {
    let seen = warnings(&with(&format!("{SMALL}missed_limit = 5")), &[]);
    assert!(seen.contains("only `missed = \"all\"` has a limit"), "{seen}");
}

#[test]
fn fleets_of_the_api_are_not_known_here() {
    let text = format!("[server]\nfleets = \"api\"\n[schedule.nightly]\n{SMALL}");
    assert_eq!(good(&text, &[]).schedules[0].fleet.as_str(), "research");
}

#[test]
fn a_variable_changes_a_schedule_and_adds_none() {
    let file = with(SMALL);
    let schedules = good(&file, &[("LONGSHORE__SCHEDULE__NIGHTLY__CRON", "0 7 * * *")]).schedules;
    assert_eq!(schedules[0].cron, "0 7 * * *");
    let seen = complaints(&file, &[("LONGSHORE__SCHEDULE__OTHER__CRON", "0 7 * * *")]);
    assert!(seen.contains("there is no schedule `other`"), "{seen}");
}
