//! Submits the burst as it arrives.
//!
//! Each task has an idempotency key, so that a submission whose answer was lost can be repeated without doubling it.

use std::time::Duration;

use longshore_api::client::{Client, ClientError};
use longshore_api::task::Submit;
use longshore_core::id::{FleetName, TaskId};
use longshore_core::json::Json;
use tokio::time::{Instant, sleep, sleep_until};

use super::trace::Arrival;
use crate::error::{Fault, Outcome};

/// A task that the control plane acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub id: TaskId,
    pub arrival: Arrival,
}

/// What came of it.
#[derive(Debug)]
pub struct Burst {
    pub sent: Vec<Sent>,
    /// Repeating the first submission gave the first task again.
    pub repeat_is_the_same: bool,
}

const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Submits every arrival at its time; returns when all are acknowledged.
pub async fn burst(client: Client, fleet: FleetName, arrivals: Vec<Arrival>) -> Outcome<Burst> {
    let start = Instant::now();
    let mut sent = Vec::with_capacity(arrivals.len());
    for (index, arrival) in arrivals.into_iter().enumerate() {
        sleep_until(start + arrival.after).await;
        sent.push(Sent { id: submit(&client, &fleet, index, &arrival).await?, arrival });
    }
    let repeat_is_the_same = match sent.first() {
        Some(first) => submit(&client, &fleet, 0, &first.arrival).await? == first.id,
        None => true,
    };
    Ok(Burst { sent, repeat_is_the_same })
}

async fn submit(client: &Client, fleet: &FleetName, index: usize, arrival: &Arrival) -> Outcome<TaskId> {
    let input = serde_json::json!({ "tokens": arrival.tokens });
    let task = Submit::new(fleet.clone(), Json::of(&input));
    let key = format!("burst-{index}");
    for _ in 1..TRIES {
        match client.submit(&task, Some(&key)).await {
            Err(ClientError::Unreachable { .. }) => sleep(PAUSE).await,
            answer => return Ok(answer?.id),
        }
    }
    client.submit(&task, Some(&key)).await.map(|task| task.id).map_err(Fault::from)
}
