//! What open streams take.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::load::{call, client, request, second_of_calls};
use super::stage::{Door, Pace, Stage};
use crate::plane::pause;
use crate::{Row, resident, row};

const STREAMS: u64 = 1_000;

/// Events that each stream has sent when it is held.
const SENT: usize = 10;

pub async fn of_streams() -> Vec<Row> {
    let stage = Stage::set(Pace { first_ms: 1, token_ms: 0.0 }, 32).await;
    let doors: Arc<[Door]> = stage.agents(32).await.into_iter().map(|agent| agent.door).collect();
    let (client, mut number) = (client(), STREAMS);
    second_of_calls(&client, &doors, 100, true, &mut number).await;
    let worker = stage.worker_pid().await;
    let pids = [stage.plane.pid(), worker];
    let before = pids.map(resident);
    stage.provider.hold(Some(SENT)).await;
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let (client, doors) = (client.clone(), Arc::clone(&doors));
        streams.spawn(async move {
            call(&client, &doors[number as usize % doors.len()], request(number, true)).await
        });
    }
    while stage.provider.waiting().await < STREAMS {
        pause().await;
    }
    // What was sent is on its way through.
    for _ in 0..25 {
        pause().await;
    }
    let open = pids.map(resident);
    stage.provider.hold(None).await;
    streams.join_all().await;
    let each = |at: usize| {
        let taken = open[at].saturating_sub(before[at]) as f64 / 1024.0 / STREAMS as f64;
        format!("{taken:.1} KiB ({:.1} MiB in all)", open[at] as f64 / f64::from(1 << 20))
    };
    vec![
        row("memory an open stream adds to `serve` (1,000 open)", each(0), ""),
        row("memory an open stream adds to its worker (1,000 open)", each(1), ""),
    ]
}
