//! What a run says about an image; pure.

use std::fmt::Write;

use super::{Proof, STOP_WITHIN, Trial};
use crate::finding::{Code, Finding, Where};

pub fn judge(seen: &Proof, trial: &Trial) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |code, what: String| findings.push(Finding::new(code, Where::Run, what));
    let words = || match seen.last_words.as_str() {
        "" => String::new(),
        words => format!("; its last words: {words}"),
    };
    if let Some(status) = seen.died {
        let how =
            if seen.oom_killed { "of too little memory".into() } else { format!("with status {status}") };
        add(Code::DoesNotStart, format!("it ended by itself, {how}{}", words()));
        return findings;
    }
    if seen.uid == Some(0) {
        add(Code::RunsAsRoot, "its first process runs as user 0".into());
    }
    if seen.worker {
        if !seen.registered || seen.live == Some(false) {
            let what = if seen.registered {
                "/livez does not answer 200"
            } else {
                "it never called the control plane"
            };
            add(Code::NotLive, format!("{what}{}", words()));
        } else if seen.ready == Some(false) {
            add(Code::NotReady, format!("not ready within {} s{}", trial.start_within.as_secs(), words()));
        }
        if let Some(line) = &seen.not_json {
            add(Code::LogsNotJson, format!("standard output has a line that is no JSON object: {line}"));
        }
        if seen.tasks_succeeded == 0 && seen.tasks_failed > 0 {
            add(
                Code::TrialTaskFailed,
                format!("the trial task failed: {}", seen.failure.clone().unwrap_or_default()),
            );
        }
        if !seen.in_flight_at_stop && seen.ready == Some(true) {
            let what = "no task was under way when SIGTERM came, so that the drain was seen idle only";
            add(Code::NotProven, what.into());
        }
    }
    if let Some(health) = seen.health.as_deref().filter(|health| *health != "healthy") {
        add(Code::HealthcheckFails, format!("its HEALTHCHECK says `{health}`"));
    }
    match (seen.stopped_after_ms, seen.exit_status) {
        (None, _) => add(
            Code::StopTooSlow,
            format!("it was still there {} s after SIGTERM and was killed (137)", STOP_WITHIN.as_secs()),
        ),
        // A program that lets SIGTERM end it is told to by the kernel; that is no drain, but no fault of its own either.
        (Some(_), Some(143)) if !seen.worker => {}
        (Some(_), Some(0)) => {}
        (Some(ms), Some(status)) => {
            add(Code::StopStatus, format!("it ended {ms} ms after SIGTERM with status {status}"))
        }
        (Some(_), None) => {}
    }
    if !seen.zombies.is_empty() {
        add(Code::Zombies, format!("dead processes that nobody reaped: {}", listed(&seen.zombies)));
    }
    if !seen.writes.is_empty() {
        add(Code::WritesOutside, format!("with a writable root it wrote to {}", listed(&seen.writes)));
    }
    findings
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    let more = names.len() - shown.len();
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

impl Proof {
    /// For people: what was seen.
    pub fn text(&self) -> String {
        let user = self.uid.map_or(String::new(), |uid| format!(", as user {uid}"));
        let mut text = format!("ran read-only{user}, without capabilities and without a way out\n");
        if let Some(ms) = self.ready_after_ms {
            let _ = writeln!(
                text,
                "  live and ready after {ms} ms{}",
                match self.health.as_deref() {
                    Some(health) => format!("; HEALTHCHECK {health}"),
                    None => String::new(),
                }
            );
        }
        if self.worker && self.died.is_none() {
            let under_way = if self.in_flight_at_stop { "one under way" } else { "none under way" };
            let _ = writeln!(
                text,
                "  {} tasks given, {} succeeded, {} failed, {} handed over; {under_way} when SIGTERM came",
                self.tasks_given, self.tasks_succeeded, self.tasks_failed, self.handed_over
            );
        }
        if let (Some(ms), Some(status)) = (self.stopped_after_ms, self.exit_status) {
            let _ = writeln!(text, "  ended {ms} ms after SIGTERM with status {status}");
        }
        if self.worker && self.died.is_none() {
            let lines = if self.not_json.is_none() { ", all of them JSON" } else { "" };
            let orphan =
                if self.orphan_tried { "an orphan was reaped" } else { "no orphan could be made (no shell)" };
            let zombies = if self.zombies.is_empty() { orphan } else { "zombies were left" };
            let _ = writeln!(text, "  {} lines on standard output{lines}; {zombies}", self.log_lines);
        }
        let writes = if self.writes.is_empty() {
            "nothing was written outside of /tmp"
        } else {
            "it wrote outside of /tmp"
        };
        let _ = writeln!(text, "  {writes}");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use longshore_core::fleet::Protocol;
    use longshore_core::json::Json;

    use super::*;

    fn trial() -> Trial {
        Trial {
            image: "x".into(),
            name: "y".into(),
            worker: true,
            healthcheck: None,
            protocol: Protocol::Exec,
            command: Vec::new(),
            input: Json::null(),
            env: Vec::new(),
            start_within: Duration::from_secs(30),
        }
    }

    fn good() -> Proof {
        Proof {
            worker: true,
            registered: true,
            ready_after_ms: Some(400),
            live: Some(true),
            ready: Some(true),
            health: Some("healthy".into()),
            uid: Some(10001),
            tasks_given: 3,
            tasks_succeeded: 2,
            in_flight_at_stop: true,
            handed_over: 1,
            stopped_after_ms: Some(3100),
            exit_status: Some(0),
            log_lines: 12,
            orphan_tried: true,
            ..Proof::default()
        }
    }

    fn check(change: impl Fn(&mut Proof), expected: &[Code]) {
        let mut seen = good();
        change(&mut seen);
        let codes: Vec<Code> = judge(&seen, &trial()).iter().map(|finding| finding.code).collect();
        assert_eq!(codes, expected, "{seen:?}");
    }

    #[test]
    fn a_worker_that_keeps_the_contract_has_no_fault() {
        check(|_| {}, &[]);
    }

    #[test]
    fn each_breach_is_told_by_its_code() {
        check(|seen| seen.uid = Some(0), &[Code::RunsAsRoot]);
        check(|seen| (seen.live, seen.ready) = (Some(false), Some(false)), &[Code::NotLive]);
        check(|seen| seen.ready = Some(false), &[Code::NotReady]);
        check(|seen| seen.not_json = Some("hi".into()), &[Code::LogsNotJson]);
        check(|seen| seen.health = Some("unhealthy".into()), &[Code::HealthcheckFails]);
        check(|seen| (seen.stopped_after_ms, seen.exit_status) = (None, Some(137)), &[Code::StopTooSlow]);
        check(|seen| seen.exit_status = Some(1), &[Code::StopStatus]);
        check(|seen| seen.zombies = vec!["sleep".into()], &[Code::Zombies]);
        check(|seen| seen.writes = vec!["/agent/x".into()], &[Code::WritesOutside]);
        check(|seen| seen.in_flight_at_stop = false, &[Code::NotProven]);
    }

    #[test]
    fn one_that_ends_by_itself_is_told_once_with_its_last_words() {
        let mut seen = Proof { died: Some(1), last_words: "no module".into(), ..good() };
        let told = judge(&seen, &trial());
        assert_eq!((told.len(), told[0].code), (1, Code::DoesNotStart));
        assert!(told[0].what.contains("status 1; its last words: no module"));
        seen.oom_killed = true;
        assert!(judge(&seen, &trial())[0].what.contains("of too little memory"));
    }

    #[test]
    fn an_image_without_longshore_is_held_to_less() {
        check(
            |seen| {
                *seen = Proof {
                    uid: Some(10001),
                    stopped_after_ms: Some(9),
                    exit_status: Some(143),
                    ..Proof::default()
                }
            },
            &[],
        );
        check(
            |seen| *seen = Proof { uid: Some(10001), exit_status: Some(137), ..Proof::default() },
            &[Code::StopTooSlow],
        );
    }
}
