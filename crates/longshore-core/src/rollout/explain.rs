//! Says in a sentence where a rollout stands.

use std::fmt;

use super::{Phase, Plan, Step, Wait};
use crate::units::show_duration;

impl Phase {
    /// One word for it, for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Finishing => "finishing",
            Phase::Back { .. } => "rolling_back",
            Phase::Done => "done",
            Phase::RolledBack { .. } => "rolled_back",
            Phase::Superseded { .. } => "superseded",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { from, to, .. } = self;
        let step: &dyn fmt::Display = match &self.step {
            Step::Start { .. } | Step::Drain { .. } if self.watched => &"Kubernetes replaces the pods",
            step => step,
        };
        match &self.phase {
            Phase::Forward => write!(f, "release {from} is replaced by {to}: {step}"),
            Phase::Finishing => write!(f, "release {to} has replaced {from}: {step}"),
            Phase::Back { reason } => write!(f, "release {to} goes back to {from}, since {reason}: {step}"),
            Phase::Done => write!(f, "release {to} has replaced {from}"),
            Phase::RolledBack { reason } => write!(f, "release {to} was rolled back to {from}: {reason}"),
            Phase::Superseded { by } => write!(f, "release {to} was overtaken: {by}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Wait(wait) => write!(f, "{wait}"),
            Step::Start { release, by } => write!(f, "starts {} of release {release}", workers(*by)),
            Step::Drain { workers: names } => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                write!(f, "drains {}", names.join(", "))
            }
            Step::End => write!(f, "nothing is left to do"),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Begins => write!(f, "it begins"),
            Wait::Paused => write!(f, "it is paused"),
            Wait::Starting { workers: n } => write!(f, "{} not ready yet", are(*n)),
            Wait::Holding { workers: n, left_ms } => {
                write!(f, "{} ready, and watched for another {}", are(*n), show_duration(*left_ms))
            }
            Wait::Draining { workers: n } => write!(f, "{} still draining", are(*n)),
            Wait::Pinned { tasks: 1 } => write!(f, "1 task has to finish on the release that it began on"),
            Wait::Pinned { tasks } => {
                write!(f, "{tasks} tasks have to finish on the release that they began on")
            }
            Wait::Room => write!(f, "no worker can be spared yet"),
        }
    }
}

fn workers(n: u32) -> String {
    if n == 1 { "1 worker".into() } else { format!("{n} workers") }
}

fn are(n: u32) -> String {
    format!("{} {}", workers(n), if n == 1 { "is" } else { "are" })
}
