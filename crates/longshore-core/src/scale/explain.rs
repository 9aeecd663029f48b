//! An answer as a sentence, with the numbers in it.

use std::fmt;

use super::{Answer, Decision, GrowReason, HoldReason, ShrinkReason, Standstill};
use crate::units::show_duration;

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = self.crew.workers();
        match &self.decision {
            Decision::Hold(reason) => write!(f, "holds at {}: {}", count(workers), self.hold(reason))?,
            Decision::Grow { by, reason } => {
                write!(f, "grows by {by} from {workers} to {}: {}", count(self.desired), self.grow(reason))?
            }
            Decision::Shrink { by, reason } => write!(
                f,
                "shrinks by {by} from {workers} to {}: {}",
                count(self.desired),
                self.shrink(reason)
            )?,
        }
        self.inputs(f)
    }
}

impl Answer {
    fn hold(&self, reason: &HoldReason) -> String {
        let Self { policy, ratio, .. } = self;
        match reason {
            HoldReason::MetricNotFresh => {
                "the queue could not be read, and that is not taken for an empty one".into()
            }
            HoldReason::InBand => format!(
                "{} pending per worker is within {} to {}",
                number(ratio.unwrap_or(0.0)),
                policy.scale_down_below,
                policy.scale_up_above
            ),
            HoldReason::Idle => "nothing is pending and none are asked for".into(),
            HoldReason::Standstill(Standstill::Paused) => "the fleet is paused".into(),
            HoldReason::Standstill(Standstill::Provider) => {
                "a provider of its agents cannot be reached".into()
            }
            HoldReason::AtMax { max, wanted } => {
                format!("{wanted} are wanted, but {max} is the most allowed")
            }
            HoldReason::AtMin { min } => format!("little is pending, but {min} is the least allowed"),
            HoldReason::Busy { .. } => {
                "little is pending, but the running and the pending tasks need them all".into()
            }
            HoldReason::Settling { wanted, left_ms, .. } => {
                format!("{wanted} would do, if that stays so for another {}", show_duration(*left_ms))
            }
            HoldReason::Starting { wanted, starting, left_ms } => format!(
                "{wanted} would do, but {starting} are still starting, and have another {} for that",
                show_duration(*left_ms)
            ),
            HoldReason::JustGrew { left_ms } => format!(
                "the oldest task has waited too long, but workers were just added; looks again in {}",
                show_duration(*left_ms)
            ),
            HoldReason::AsOrdered { asked, max } => as_ordered(*asked, *max),
            HoldReason::OrderBelowNeed { asked, needed } => {
                format!("the operator asked for {asked}, but running and pending tasks need {needed}")
            }
        }
    }

    fn grow(&self, reason: &GrowReason) -> String {
        match reason {
            GrowReason::BelowMin { min } => format!("{min} is the least allowed"),
            GrowReason::Backlog => match self.ratio {
                Some(ratio) => {
                    format!("{} pending per worker is above {}", number(ratio), self.policy.scale_up_above)
                }
                None => "tasks are pending and there is no worker".into(),
            },
            GrowReason::LongWait { waited_ms } => format!(
                "no slot is free and the oldest task has waited {}, {} or longer",
                show_duration(*waited_ms),
                show_duration(self.policy.scale_up_wait_ms)
            ),
            GrowReason::Ordered { asked, max } => as_ordered(*asked, *max),
        }
    }

    fn shrink(&self, reason: &ShrinkReason) -> String {
        match reason {
            ShrinkReason::AboveMax { max } => format!("{max} is the most allowed"),
            ShrinkReason::Quiet { for_ms } => format!(
                "{} pending per worker is below {}, and fewer have been enough for {}",
                number(self.ratio.unwrap_or(0.0)),
                self.policy.scale_down_below,
                show_duration(*for_ms)
            ),
            ShrinkReason::Ordered { asked, needed } if self.desired > *asked => {
                format!("the operator asked for {asked}, and running and pending tasks need {needed}")
            }
            ShrinkReason::Ordered { asked, .. } => format!("the operator asked for {asked}"),
        }
    }

    fn inputs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load, crew, .. } = self;
        if load.fresh {
            write!(f, " ({} pending, {} running", load.runnable, load.running)?;
            if let Some(waited) = load.oldest_wait_ms {
                write!(f, ", oldest waits {}", show_duration(waited))?;
            }
        } else {
            write!(f, " (queue unknown")?;
        }
        write!(f, "; {} ready, {} starting, {} draining)", crew.ready, crew.starting, crew.draining)
    }
}

fn as_ordered(asked: u32, max: u32) -> String {
    match asked > max {
        true => format!("the operator asked for {asked}, but {max} is the most allowed"),
        false => format!("the operator asked for {asked}"),
    }
}

fn count(workers: u32) -> String {
    format!("{workers} worker{}", if workers == 1 { "" } else { "s" })
}

/// Two decimals at most, and none that say nothing.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
