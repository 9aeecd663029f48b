//! Reads `[fleet.NAME]`.

mod container;
mod providers;
mod retention;
mod rollout;

use std::collections::BTreeMap;

use self::providers::Gateway;
use super::resolve;
use super::section::{Section, text_of};
use super::tree::{Node, Value};
use crate::drain;
use crate::fleet::{
    Drain, DrainMode, Fleet, Platform, Probe, Protocol, ScaledBy, Scaling, TaskDefaults, TenantCaps,
    default_concurrency,
};
use crate::id::FleetName;
use crate::provider::ANY_MODEL;
use crate::provider::Provider;
use crate::rate::{self, Rate};
use crate::retry::Backoff;
use crate::task::{OnBusy, OnInterrupt};
use crate::units::{show_duration, show_size};
use crate::useful::LlmUse;

const COMMAND: &str = "an array such as command = [\"python\", \"agent.py\"]";
const SMALLEST_RESULT: u64 = 1 << 10;
const LARGEST_RESULT: u64 = 256 << 20;

/// What a fleet may refer to outside its own table.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// All that are declared.
    providers: &'a [Provider],
    base_dir: &'a str,
}

pub(super) fn read_fleets(root: &mut Section<'_>, providers: &[Provider], base_dir: &str) -> Vec<Fleet> {
    let Some(mut fleets) = root.section("fleet") else { return Vec::new() };
    let around = Around { providers, base_dir };
    let named = fleets.drain();
    named.into_iter().filter_map(|(name, node)| read_named(&mut fleets, &name, node, around)).collect()
}

fn read_named(fleets: &mut Section<'_>, name: &str, node: Node, around: Around<'_>) -> Option<Fleet> {
    let key_place = node.key_place.clone();
    let fleet_name =
        FleetName::new(name).map_err(|error| fleets.error_in(key_place, name, error.to_string())).ok();
    let section = fleets.open(name, node, "a table such as [fleet.research] with the fleet's keys in it")?;
    // The keys of a fleet with a bad name are checked all the same.
    let fleet = read_fleet(section, fleet_name.clone().unwrap_or_else(stand_in), around);
    fleet_name.map(|_| fleet)
}

fn stand_in() -> FleetName {
    FleetName::new("x").expect("one letter is a fleet name")
}

fn read_fleet(mut section: Section<'_>, name: FleetName, around: Around<'_>) -> Fleet {
    let Around { providers, base_dir } = around;
    let mut fleet = Fleet::new(name, Vec::new(), base_dir.to_owned());
    read_running(&mut section, &mut fleet, base_dir);
    let gateway = providers::read(&mut section, providers);
    fleet.env = read_env(&mut section, &gateway);
    fleet.secrets = read_secrets(&mut section, &fleet.env, &gateway, base_dir);
    fleet.providers = gateway.names();
    if let Some(path) = section.text("health_path", "a path such as \"/healthz\", or \"\" for none") {
        if !path.is_empty() && !path.starts_with('/') {
            section.error("health_path", "expected a path that begins with /, or \"\" for none".into());
        }
        fleet.health_path = path;
    }
    fleet.kill_grace_ms = section.duration_or_zero("kill_grace").unwrap_or(fleet.kill_grace_ms);
    fleet.task = read_task(&mut section);
    read_caps(&mut section, &mut fleet);
    fleet.scaling = read_scaling(&mut section, fleet.platform);
    fleet.llm_use = read_llm_use(&mut section);
    fleet.drain = read_drain(&mut section, fleet.kill_grace_ms);
    fleet.probe = read_probe(&mut section);
    fleet.retention = retention::read(&mut section);
    fleet.rollout = rollout::read(&mut section, fleet.platform);
    fleet.container = container::read(&mut section, fleet.platform);
    fleet.service = container::read_service(&mut section, &fleet);
    fleet.overlay = container::read_overlay(&mut section, fleet.platform, base_dir);
    section.finish();
    fleet
}

fn read_running(section: &mut Section<'_>, fleet: &mut Fleet, base_dir: &str) {
    let protocols = [("exec", Protocol::Exec), ("http", Protocol::Http)];
    fleet.protocol = section.choice("protocol", &protocols, &[]).unwrap_or_default();
    let platforms =
        [Platform::Process, Platform::Docker, Platform::Compose, Platform::Kubernetes, Platform::External];
    let platforms = platforms.map(|it| (it.as_str(), it));
    fleet.platform = section.choice("platform", &platforms, &["ecs"]).unwrap_or_default();
    let default = default_concurrency(fleet.protocol);
    fleet.concurrency = section.whole("concurrency", 1..=10_000).unwrap_or(default);
    fleet.command = read_command(section, fleet.platform);
    let dir = section.text("working_dir", "a path");
    if dir.as_ref().is_some_and(|dir| dir.contains('\0')) {
        section.error("working_dir", "a path holds no zero byte".into());
    }
    match (fleet.platform, dir) {
        (Platform::Docker | Platform::Kubernetes, dir) => {
            fleet.working_dir = dir.unwrap_or_default();
            if !matches!(fleet.working_dir.chars().next(), None | Some('/')) {
                section.error("working_dir", "expected a path inside the image, which begins with /".into());
            }
        }
        (_, Some(dir)) => fleet.working_dir = resolve(base_dir, &dir),
        (_, None) => {}
    }
}

fn read_command(section: &mut Section<'_>, platform: Platform) -> Vec<String> {
    let Some(node) = section.take("command") else {
        if platform == Platform::Process {
            section.error("command", format!("missing: it says what to run; {COMMAND}"));
        }
        return Vec::new();
    };
    let problem = match &node.value {
        Value::Array(items) => match command_words(items) {
            Ok(words) => return words,
            Err(problem) => problem,
        },
        Value::Text(text) => format!("expected {}", as_array(text)),
        other => format!("expected {COMMAND}, found {}", other.kind()),
    };
    section.error("command", problem);
    Vec::new()
}

fn command_words(items: &[Node]) -> Result<Vec<String>, String> {
    let words: Option<Vec<String>> = items.iter().map(text_of).collect();
    let words = words.ok_or_else(|| format!("every word of a command is a string: {COMMAND}"))?;
    match words.first() {
        Some(program) if !program.is_empty() && !words.iter().any(|word| word.contains('\0')) => Ok(words),
        Some(program) if program.is_empty() => Err("the first word, the program, is empty".into()),
        Some(_) => Err("a word of a command holds no zero byte".into()),
        None => Err(format!("empty: expected {COMMAND}")),
    }
}

/// The array that somebody who wrote a string most likely wants.
fn as_array(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
    let needs_shell = text.contains(['|', '>', '<', '&', ';', '$', '\'', '"', '*', '`']);
    match (needs_shell, words.len()) {
        (false, 1..=12) => format!("an array: command = [{}]", words.join(", ")),
        _ => "an array: command = [\"sh\", \"-c\", \"…\"] for a line of shell".into(),
    }
}

fn read_env(section: &mut Section<'_>, gateway: &Gateway<'_>) -> BTreeMap<String, String> {
    let Some(mut env) = section.section("env") else { return BTreeMap::new() };
    let mut pairs = BTreeMap::new();
    for (name, node) in env.drain() {
        check_variable(&mut env, &name, &node);
        gateway.warn_of(&mut env, &name, &node);
        if looks_secret(&name) {
            env.warn_in(
                node.key_place.clone(),
                &name,
                "looks like a secret: declare it under `secrets`, which is never shown",
            );
        }
        match text_of(&node).filter(|text| !text.contains('\0')) {
            Some(text) => drop(pairs.insert(name, text)),
            None => {
                let problem = format!("expected a string, found {}: write it in quotes", node.value.kind());
                env.error_in(node.place, &name, problem);
            }
        }
    }
    pairs
}

fn read_secrets(
    section: &mut Section<'_>,
    env: &BTreeMap<String, String>,
    gateway: &Gateway<'_>,
    base_dir: &str,
) -> BTreeMap<String, crate::fleet::SecretSource> {
    let Some(mut secrets) = section.section("secrets") else { return BTreeMap::new() };
    let mut sources = BTreeMap::new();
    for (name, node) in secrets.drain() {
        check_variable(&mut secrets, &name, &node);
        gateway.warn_of(&mut secrets, &name, &node);
        if env.contains_key(&name) {
            secrets.error_in(
                node.key_place.clone(),
                &name,
                "is declared under `env` as well: keep one of them".into(),
            );
        }
        if let Some(source) = secrets.secret_in(&name, node, base_dir) {
            sources.insert(name, source);
        }
    }
    sources
}

fn check_variable(section: &mut Section<'_>, name: &str, node: &Node) {
    let problem = if name.is_empty() || name.contains(['=', '\0']) {
        "an environment variable's name is not empty and holds no `=`"
    } else if name.starts_with("LONGSHORE_") {
        "names that begin with LONGSHORE_ are longshore's own"
    } else {
        return;
    };
    section.error_in(node.key_place.clone(), name, problem.into());
}

fn looks_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["_KEY", "_TOKEN", "SECRET", "PASSWORD"].iter().any(|end| name.ends_with(end))
}

fn read_task(section: &mut Section<'_>) -> TaskDefaults {
    let mut task = TaskDefaults::default();
    let Some(mut section) = section.section("task") else { return task };
    task.timeout_ms = section.duration("timeout").unwrap_or(task.timeout_ms);
    task.total_timeout_ms = section.duration("total_timeout");
    task.max_attempts = section.whole("max_attempts", 1..=1_000).unwrap_or(task.max_attempts);
    let choices = [("resume", OnInterrupt::Resume), ("fail", OnInterrupt::Fail), ("ask", OnInterrupt::Ask)];
    task.on_interrupt = section.choice("on_interrupt", &choices, &[]).unwrap_or_default();
    let choices = OnBusy::ALL.map(|choice| (choice.as_str(), choice));
    task.on_busy = section.choice("on_busy", &choices, &[]).unwrap_or_default();
    if let Some(backoff) = section.section("backoff") {
        task.backoff = read_backoff(backoff);
    }
    if let Some(limit) = section.size("result_limit") {
        if !(SMALLEST_RESULT..=LARGEST_RESULT).contains(&limit) {
            let (low, high) = (show_size(SMALLEST_RESULT), show_size(LARGEST_RESULT));
            section.error("result_limit", format!("expected a size from \"{low}\" to \"{high}\""));
        }
        task.result_limit = limit;
    }
    section.finish();
    task
}

fn read_caps(section: &mut Section<'_>, fleet: &mut Fleet) {
    fleet.max_running = section.whole("max_running", 1..=u32::MAX);
    if let Some(rate) = section.section("rate") {
        fleet.rate = read_rate(rate);
    }
    if let Some(mut section) = section.section("tenants") {
        fleet.tenants = TenantCaps { max_running: section.whole("max_running", 1..=u32::MAX) };
        section.finish();
    }
}

fn read_rate(mut section: Section<'_>) -> Option<Rate> {
    let (tasks, per_ms) = (section.whole("tasks", 1..=rate::MOST_TASKS), section.duration("per"));
    for key in ["tasks", "per"] {
        if !section.was_given(key) {
            section.error(key, "missing: a rate is written { tasks = 100, per = \"1m\" }".into());
        }
    }
    if per_ms.is_some_and(|ms| ms > rate::LONGEST_MS) {
        section.error("per", "expected 31 days at most".into());
    }
    section.finish();
    Some(Rate { tasks: tasks?, per_ms: per_ms? })
}

fn read_backoff(mut section: Section<'_>) -> Backoff {
    let default = Backoff::default();
    let (base, cap) = (section.duration_or_zero("base"), section.duration_or_zero("cap"));
    // A base beyond the default cap lifts it.
    let base_ms = base.unwrap_or_else(|| default.base_ms.min(cap.unwrap_or(u64::MAX)));
    let cap_ms = cap.unwrap_or(default.cap_ms.max(base_ms));
    if cap_ms < base_ms {
        let problem = format!("{} is shorter than `base`, {}", show_duration(cap_ms), show_duration(base_ms));
        section.error("cap", problem);
    }
    section.finish();
    Backoff { base_ms, cap_ms }
}

/// What is not declared follows what is: `max` is never below `min` by default, nor the lower threshold above the upper.
fn read_scaling(section: &mut Section<'_>, platform: Platform) -> Scaling {
    let default = Scaling::default();
    let Some(mut section) = section.section("scaling") else { return default };
    let (min, max) = (section.whole("min", 0..=10_000), section.whole("max", 1..=10_000));
    let above = section.number("scale_up_above", "a number above 0", |number| number > 0.0);
    let below = section.number("scale_down_below", "a number, 0 or above", |number| number >= 0.0);
    let scale_up_above = above.unwrap_or_else(|| default.scale_up_above.max(below.unwrap_or(0.0) * 4.0));
    let choices = ScaledBy::ALL.map(|choice| (choice.as_str(), choice));
    let scaling = Scaling {
        by: section.choice("by", &choices, &[]).unwrap_or_default(),
        min: min.unwrap_or(default.min.min(max.unwrap_or(u32::MAX))),
        max: max.unwrap_or(default.max.max(min.unwrap_or(0))),
        scale_up_above,
        scale_down_below: below.unwrap_or(default.scale_down_below.min(scale_up_above / 4.0)),
        scale_up_wait_ms: section.duration("scale_up_wait").unwrap_or(default.scale_up_wait_ms),
        scale_down_after_ms: section.duration("scale_down_after").unwrap_or(default.scale_down_after_ms),
        step: section.whole("step", 1..=10_000).unwrap_or(default.step),
    };
    check_scaling(&mut section, &scaling, platform);
    section.finish();
    scaling
}

fn read_llm_use(section: &mut Section<'_>) -> Option<LlmUse> {
    let mut section = section.section("llm_use")?;
    let model = section.text("model", "a model such as \"gpt-5-mini\", as its limit is declared");
    let mut each = |key| section.number(key, "a number, 0 or above", |number| number >= 0.0).unwrap_or(0.0);
    let (requests_per_minute, tokens_per_minute) = (each("requests_per_minute"), each("tokens_per_minute"));
    if requests_per_minute == 0.0 && tokens_per_minute == 0.0 {
        let problem =
            "says nothing: give `requests_per_minute`, `tokens_per_minute` or both, for one running task";
        section.error("requests_per_minute", problem.into());
    }
    section.finish();
    let model = model.unwrap_or_else(|| ANY_MODEL.into());
    Some(LlmUse { model, requests_per_minute, tokens_per_minute })
}

fn check_scaling(section: &mut Section<'_>, scaling: &Scaling, platform: Platform) {
    let Scaling { min, max, scale_up_above, scale_down_below, .. } = *scaling;
    if min > max {
        section.error("min", format!("{min} is more than `max`, {max}"));
    }
    if scale_down_below >= scale_up_above {
        let problem = format!("{scale_down_below} must be less than `scale_up_above`, {scale_up_above}");
        section.error("scale_down_below", problem);
    }
    if scaling.by != ScaledBy::Direct && platform != Platform::Kubernetes {
        let problem = format!(
            "only fleets of platform `kubernetes` are scaled by others, and this one is of `{}`",
            platform.as_str()
        );
        section.error("by", problem);
    }
    if scaling.by != ScaledBy::Direct && min == 0 {
        section.warn("min", "an HPA does not go below 1: the fleet keeps one worker");
    }
    if min < 2 && platform != Platform::External {
        section.warn("min", "below 2: while the only worker is replaced or lost, nothing runs");
    }
}

fn read_drain(section: &mut Section<'_>, kill_grace_ms: u64) -> Drain {
    let mut drain = Drain::default();
    if let Some(mut section) = section.section("drain") {
        drain.timeout_ms = section.duration("timeout").unwrap_or(drain.timeout_ms);
        let modes = [("wait", DrainMode::Wait), ("handover", DrainMode::Handover)];
        drain.mode = section.choice("mode", &modes, &[]).unwrap_or_default();
        section.finish();
    }
    let wait = drain::handover_after(drain.timeout_ms, kill_grace_ms, drain.mode);
    if drain.mode == DrainMode::Wait && wait.is_zero() {
        let problem = "its timeout leaves no time to wait: it must be longer than `kill_grace` and 2s";
        section.warn("drain", problem);
    }
    drain
}

fn read_probe(section: &mut Section<'_>) -> Probe {
    let default = Probe::default();
    let Some(mut section) = section.section("probe") else { return default };
    let probe = Probe {
        interval_ms: section.duration("interval").unwrap_or(default.interval_ms),
        timeout_ms: section.duration("timeout").unwrap_or(default.timeout_ms),
        failures: section.whole("failures", 1..=100).unwrap_or(default.failures),
        startup_ms: section.duration("startup").unwrap_or(default.startup_ms),
    };
    section.finish();
    probe
}
