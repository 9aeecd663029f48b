//! Which tasks are meant: the same words for listing, cancelling and retrying.

use longshore_api::search::Filter;
use longshore_core::batch::BatchId;
use longshore_core::id::TaskId;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use longshore_core::units::parse_duration;

use crate::output::now;

#[derive(Debug, Default, clap::Args)]
pub struct Filters {
    /// Only of this fleet
    #[arg(long, value_name = "FLEET")]
    fleet: Option<String>,

    /// Only in these states: queued, running, waiting, succeeded, failed, cancelled
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    state: Vec<State>,

    /// Only of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,

    /// Only of this conversation
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,

    /// Only with this label; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// Only of this batch
    #[arg(long, value_name = "ID")]
    batch: Option<BatchId>,

    /// Only children of this task
    #[arg(long, value_name = "ID")]
    parent: Option<TaskId>,

    /// Only with a failure of this code, such as timeout or poison
    #[arg(long, value_name = "CODE")]
    code: Option<String>,

    /// Only submitted since a time such as 2026-11-23T21:00:00Z, or within the last 2h
    #[arg(long, value_name = "TIME|2h", value_parser = time)]
    created_after: Option<Timestamp>,

    /// Only submitted before a time, or longer ago than that
    #[arg(long, value_name = "TIME|2h", value_parser = time)]
    created_before: Option<Timestamp>,

    /// Only ended since a time, or within the last 2h
    #[arg(long, value_name = "TIME|2h", value_parser = time)]
    finished_after: Option<Timestamp>,

    /// Only ended before a time, or longer ago than that
    #[arg(long, value_name = "TIME|2h", value_parser = time)]
    finished_before: Option<Timestamp>,
}

fn state(text: &str) -> Result<State, String> {
    State::parse(text).ok_or_else(|| {
        let all: Vec<_> = State::ALL.iter().map(|state| state.as_str()).collect();
        format!("expected one of {}", all.join(", "))
    })
}

fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = parse_duration(text)
        .map_err(|_| "expected a time such as 2026-11-23T21:00:00Z, or how long ago: 2h")?;
    Ok(now().before(std::time::Duration::from_millis(ago)))
}

impl Filters {
    pub fn filter(&self) -> Filter {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let states: Vec<_> = self.state.iter().map(|state| state.as_str()).collect();
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Filter {
            fleet: self.fleet.clone(),
            state: some(states.join(",")),
            tenant: self.tenant.clone(),
            conversation: self.conversation.clone(),
            label: some(self.label.join(",")),
            batch: self.batch.map(|id| id.to_string()),
            parent: self.parent.map(|id| id.to_string()),
            code: self.code.clone(),
            created_after: time(self.created_after),
            created_before: time(self.created_before),
            finished_after: time(self.finished_after),
            finished_before: time(self.finished_before),
        }
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.filter() == Filter::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_how_long_ago() {
        assert_eq!(
            time("2026-11-23T21:00:00Z").map(|at| at.to_string()),
            Ok("2026-11-23T21:00:00.000Z".into())
        );
        let hours = time("2h").expect("a duration");
        assert!(now().since(hours).as_secs() >= 7200 && now().since(hours).as_secs() < 7260);
        assert!(time("yesterday").is_err());
    }
}
