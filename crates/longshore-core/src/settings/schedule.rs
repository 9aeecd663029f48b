//! Reads `[schedule.NAME]`.

use std::collections::BTreeMap;

use super::named::{known_fleet, read_all};
use super::section::{Section, text_of};
use super::tree::{Node, Value};
use crate::fleet::Fleet;
use crate::id::{ConversationId, FleetName};
use crate::json::Json;
use crate::schedule::{LARGEST_LIMIT, Missed, Overlap, Schedule, ScheduleName, Timing, TimingError};
use crate::task::OnInterrupt;

const CRON: &str = "a cron expression such as \"30 6 * * mon-fri\"";
const DEFAULT_LIMIT: u32 = 100;

/// Two of a task's 32 labels are the schedule's own.
const MOST_LABELS: usize = 30;
const LONGEST_LABEL: usize = 128;

/// What labels of ours begin with.
const OWN: &str = "longshore.";

/// Reads all schedules, in order of name; `fleets` are those that are declared, if that is known here.
pub(super) fn read_schedules(root: &mut Section<'_>, fleets: Option<&[Fleet]>) -> Vec<Schedule> {
    let expected = "a table such as [schedule.nightly] with the schedule's keys in it";
    read_all(root, "schedule", expected, ScheduleName::new, |section, name| {
        read_schedule(section, name, fleets)
    })
}

fn read_schedule(mut section: Section<'_>, name: ScheduleName, fleets: Option<&[Fleet]>) -> Option<Schedule> {
    let fleet = read_fleet(&mut section, fleets);
    let (cron, timezone) = read_timing(&mut section);
    let choices = [("skip", Missed::Skip), ("once", Missed::Once), ("all", Missed::All)];
    let missed = section.choice("missed", &choices, &[]).unwrap_or_default();
    let missed_limit = section.whole("missed_limit", 1..=LARGEST_LIMIT).unwrap_or(DEFAULT_LIMIT);
    if section.was_given("missed_limit") && missed != Missed::All {
        section.warn("missed_limit", "only `missed = \"all\"` has a limit");
    }
    let overlaps = [("allow", Overlap::Allow), ("skip", Overlap::Skip)];
    let overlap = section.choice("overlap", &overlaps, &[]).unwrap_or_default();
    let paused = section.boolean("paused").unwrap_or(false);
    let input = read_input(&mut section);
    let conversation = read_conversation(&mut section);
    let priority = section.integer("priority", -1000..=1000).unwrap_or(0);
    let timeout_ms = section.duration("timeout");
    let max_attempts = section.whole("max_attempts", 1..=100);
    let choices = [("resume", OnInterrupt::Resume), ("fail", OnInterrupt::Fail), ("ask", OnInterrupt::Ask)];
    let on_interrupt = section.choice("on_interrupt", &choices, &[]);
    let labels = read_labels(&mut section);
    section.finish();
    Some(Schedule {
        name,
        fleet: fleet?,
        cron: cron?,
        timezone,
        missed,
        missed_limit,
        overlap,
        paused,
        input,
        conversation,
        priority,
        timeout_ms,
        max_attempts,
        on_interrupt,
        labels,
    })
}

fn read_fleet(section: &mut Section<'_>, fleets: Option<&[Fleet]>) -> Option<FleetName> {
    let expected = "the name of the fleet that its tasks are for";
    let given = section.text("fleet", expected);
    if given.is_none() && !section.was_given("fleet") {
        section.error("fleet", format!("missing: expected {expected}"));
    }
    match known_fleet(&given?, fleets) {
        Ok(fleet) => Some(fleet),
        Err(problem) => {
            section.error("fleet", problem);
            None
        }
    }
}

/// The expression and its zone, once they were found to mean something.
fn read_timing(section: &mut Section<'_>) -> (Option<String>, String) {
    let cron = section.text("cron", CRON);
    let zone =
        section.text("timezone", "a time zone such as \"Europe/Berlin\"").unwrap_or_else(|| "UTC".into());
    if cron.is_none() && !section.was_given("cron") {
        section.error("cron", format!("missing: it says when; expected {CRON}"));
    }
    if let Err(error) = cron.as_deref().map_or(Ok(()), |cron| Timing::new(cron, &zone).map(drop)) {
        let key = if matches!(error, TimingError::Zone(_)) { "timezone" } else { "cron" };
        section.error(key, error.to_string());
    }
    (cron, zone)
}

fn read_conversation(section: &mut Section<'_>) -> Option<ConversationId> {
    let given = section.text("conversation", "a conversation's id")?;
    ConversationId::new(given).map_err(|error| section.error("conversation", error.to_string())).ok()
}

fn read_input(section: &mut Section<'_>) -> Json {
    let Some(node) = section.take("input") else { return Json::null() };
    match as_json(&node).and_then(|value| Json::parse(value.to_string()).map_err(|error| error.to_string())) {
        Ok(json) => json,
        Err(problem) => {
            section.error_in(node.place, "input", problem);
            Json::null()
        }
    }
}

/// A value of TOML as JSON means it.
fn as_json(node: &Node) -> Result<serde_json::Value, String> {
    use serde_json::Value as Out;
    Ok(match &node.value {
        Value::Text(text) => Out::from(text.as_str()),
        Value::Integer(number) => Out::from(*number),
        Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(Out::Number)
            .ok_or("JSON has no number for infinity, or for what is none")?,
        Value::Boolean(flag) => Out::from(*flag),
        Value::Array(items) => Out::Array(items.iter().map(as_json).collect::<Result<_, _>>()?),
        Value::Table(table) => {
            let pairs = table.iter().map(|(key, node)| Ok((key.clone(), as_json(node)?)));
            Out::Object(pairs.collect::<Result<_, String>>()?)
        }
        Value::Other(kind) => return Err(format!("JSON cannot hold {kind}: write it as a string")),
    })
}

fn read_labels(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let Some(mut labels) = section.section("labels") else { return BTreeMap::new() };
    let (mut pairs, named) = (BTreeMap::new(), labels.drain());
    if named.len() > MOST_LABELS {
        labels.error_here(format!("{} labels: at most {MOST_LABELS}", named.len()));
    }
    for (name, node) in named {
        let text = text_of(&node).filter(|text| text.chars().count() <= LONGEST_LABEL);
        let problem = match (&text, name.chars().count()) {
            (_, count) if !(1..=LONGEST_LABEL).contains(&count) => "a label's name has 1 to 128 characters",
            _ if name.starts_with(OWN) => "labels that begin with longshore. are longshore's own",
            (None, _) => "expected a string of at most 128 characters",
            (Some(_), _) => "",
        };
        if !problem.is_empty() {
            labels.error_in(node.place.clone(), &name, problem.into());
        }
        pairs.extend(text.map(|text| (name, text)));
    }
    pairs
}
