//! What it costs to ask how deep a queue is, with much and with very much stored.

use std::time::{Duration, Instant};

use longshore_core::id::ConversationId;
use longshore_core::time::Timestamp;

use super::stage::Stage;
use crate::{EXTERNAL, Row, kib, row, task};

const STORED: [usize; 2] = [1_000_000, 10_000_000];
const PART: usize = 10_000;
const ASKED: usize = 200;
const CONVERSATIONS: usize = 10_000;

/// Any time long after this.
const LATER: Timestamp = Timestamp(4_000_000_000_000);

pub async fn depth() -> Vec<Row> {
    let Some(stage) = Stage::set(EXTERNAL).await else { return Vec::new() };
    let empty = asked(&stage).await;
    let mut rows = vec![row("shared: depth of a queue, nothing stored, p50 / p99", shown(&empty), "")];
    let mut stored = 0;
    for target in STORED {
        let begun = Instant::now();
        let before = stored;
        while stored < target {
            put(&stage, stored).await;
            stored += PART;
        }
        let rate = (stored - before) as f64 / begun.elapsed().as_secs_f64();
        let took = asked(&stage).await;
        let what = format!(
            "shared: the same, {} million stored (put in at {rate:.0}/s), p50 / p99",
            target / 1_000_000
        );
        rows.push(row(what, format!("{}; {}", shown(&took), exact(&stage).await), "cheap"));
    }
    rows
}

/// Of ten tasks one is scheduled, two are of conversations, the others could run.
async fn put(stage: &Stage, from: usize) {
    let line = |n: usize| {
        let mut task = task(kib(1));
        match n % 10 {
            0 => task.run_at = Some(LATER),
            1 | 2 => {
                let id = format!("c-{}", n % CONVERSATIONS);
                task.conversation = Some(ConversationId::new(id).expect("valid"));
            }
            _ => {}
        }
        serde_json::to_string(&task).expect("plain data") + "\n"
    };
    let lines: String = (from..from + PART).map(line).collect();
    stage.plane.client.submit_batch(lines.into_bytes(), None).await.expect("accepted");
}

async fn asked(stage: &Stage) -> Vec<Duration> {
    let mut took = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let begun = Instant::now();
        stage.plane.client.fleet("bench").await.expect("it is declared");
        took.push(begun.elapsed());
    }
    took.sort();
    took
}

fn shown(took: &[Duration]) -> String {
    let at = |share: f64| took[(took.len() as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("{:.1} / {:.1} ms", at(0.5), at(0.99))
}

/// What is told, beside what the rows themselves say.
async fn exact(stage: &Stage) -> String {
    let depth = stage.plane.client.fleet("bench").await.expect("it is declared").depth;
    let count = "SELECT count(*) FILTER (WHERE hold = 'ready'), count(*) FILTER (WHERE hold = 'scheduled'),
            count(*) FILTER (WHERE hold = 'conversation') FROM longshore.live";
    let begun = Instant::now();
    let counted = stage.database.query_one(count, &[]).await.expect("it answers");
    let counting = begun.elapsed();
    let counted: [i64; 3] = [0, 1, 2].map(|at| counted.get(at));
    let told = [depth.runnable, depth.scheduled, depth.held_by_conversation].map(|number| number as i64);
    let verdict = if told == counted { "exact" } else { "NOT exact" };
    format!(
        "{verdict}: {} runnable, {} scheduled, {} held; counting rows takes {counting:.1?}",
        told[0], told[1], told[2]
    )
}
