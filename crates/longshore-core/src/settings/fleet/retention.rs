//! Reads `[fleet.NAME.retention]`.

use crate::retention::Policy;
use crate::settings::section::Section;

pub(super) fn read(section: &mut Section<'_>) -> Policy {
    let default = Policy::default();
    let Some(mut section) = section.section("retention") else { return default };
    let tasks_ms = section.kept("tasks").unwrap_or(default.tasks_ms);
    // What is not said follows a shorter life of the tasks.
    let at_most = |kept: Option<u64>| match (kept, tasks_ms) {
        (Some(kept), Some(tasks)) => Some(kept.min(tasks)),
        (kept, tasks) => kept.or(tasks),
    };
    let policy = Policy {
        journal_ms: section.kept("journal").unwrap_or(at_most(default.journal_ms)),
        results_ms: section.kept("results").unwrap_or(at_most(default.results_ms)),
        tasks_ms,
        max_tasks: section.count("max_tasks"),
    };
    if let Err((key, problem)) = policy.check() {
        section.error(key, problem);
    }
    section.finish();
    policy
}
