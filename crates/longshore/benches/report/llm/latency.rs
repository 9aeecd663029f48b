//! What longshore adds to a call: the same load through it and past it, in turns of a second.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::load::{Seen, call, client, request, second_of_calls};
use super::stage::{Door, Pace, Stage};
use crate::{Row, row};

const RATES: [u32; 3] = [50, 200, 500];

/// Each of so many turns, through longshore and past it.
const TURNS: usize = 4;

/// The disk and the neighbours are noisy: the best round counts, and the worst is told.
const ROUNDS: usize = 3;

/// A half and a hundredth of the calls took longer.
#[derive(Clone, Copy)]
struct Spread {
    p50: f64,
    p99: f64,
}

/// One round: through longshore and past it.
struct Round {
    through: Vec<Seen>,
    direct: Vec<Seen>,
}

pub async fn added() -> Vec<Row> {
    let stage = Stage::set(Pace { first_ms: 20, token_ms: 1.0 }, 32).await;
    let through: Arc<[Door]> = stage.agents(32).await.into_iter().map(|agent| agent.door).collect();
    let direct: Arc<[Door]> = [stage.provider.door.clone()].into();
    let mut rows = vec![disk(stage.plane.dir()), alone().await];
    let mut number = 0;
    for rate in RATES {
        for stream in [true, false] {
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                rounds.push(round(&through, &direct, rate, stream, &mut number).await);
            }
            rows.extend(told(&rounds, rate, stream));
        }
    }
    rows
}

/// One caller, and a provider that answers at once: nothing waits for a timer or for others.
async fn alone() -> Row {
    let stage = Stage::set(Pace { first_ms: 0, token_ms: 0.0 }, 1).await;
    let through = stage.agents(1).await.remove(0).door;
    let (client, mut rounds, mut number) = (client(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let mut round = Round { through: Vec::new(), direct: Vec::new() };
        for _ in 0..500 {
            number += 2;
            round.through.push(call(&client, &through, request(number, true)).await);
            round.direct.push(call(&client, &stage.provider.door, request(number + 1, true)).await);
        }
        rounds.push(round);
    }
    let what = "added to the first token, streamed, one caller, a provider that answers at once, p50 / p99";
    row(what, figure(&rounds, |seen| seen.first), "")
}

async fn round(
    through: &Arc<[Door]>,
    direct: &Arc<[Door]>,
    rate: u32,
    stream: bool,
    number: &mut u64,
) -> Round {
    let client = client();
    let mut round = Round { through: Vec::new(), direct: Vec::new() };
    // The first turns make the connections.
    second_of_calls(&client, through, rate, stream, number).await;
    second_of_calls(&client, direct, rate, stream, number).await;
    for _ in 0..TURNS {
        round.through.extend(second_of_calls(&client, through, rate, stream, number).await);
        round.direct.extend(second_of_calls(&client, direct, rate, stream, number).await);
    }
    round
}

fn told(rounds: &[Round], rate: u32, stream: bool) -> Vec<Row> {
    let form = if stream { "streamed" } else { "not streamed" };
    let what = |part| format!("added to the {part}, {form}, {rate} calls/s, p50 / p99");
    let last = row(what("last byte"), figure(rounds, |seen| seen.last), "");
    if !stream {
        return vec![last];
    }
    let aim = if rate == 200 { "0.5 ms / 3 ms" } else { "" };
    vec![row(what("first token"), figure(rounds, |seen| seen.first), aim), last]
}

fn figure(rounds: &[Round], part: impl Fn(&Seen) -> Duration + Copy) -> String {
    let added = |round: &Round| {
        let (through, direct) =
            (spread(round.through.iter().map(part)), spread(round.direct.iter().map(part)));
        (through.p50 - direct.p50, through.p99 - direct.p99, direct)
    };
    let mut rounds: Vec<_> = rounds.iter().map(added).collect();
    rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (best, worst) = (rounds[0], rounds[rounds.len() - 1]);
    format!(
        "{:.2} / {:.2} ms (worst round {:.2} / {:.2}; direct {:.2} / {:.2})",
        best.0, best.1, worst.0, worst.1, best.2.p50, best.2.p99
    )
}

fn spread(taken: impl Iterator<Item = Duration>) -> Spread {
    let mut taken: Vec<f64> = taken.map(|taken| taken.as_secs_f64() * 1e3).collect();
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken[(taken.len() as f64 * share) as usize];
    Spread { p50: at(0.5), p99: at(0.99) }
}

/// What one commit takes at the least, where the store lies.
fn disk(folder: &Path) -> Row {
    let mut file = std::fs::File::create(folder.join("disk")).expect("the folder is writable");
    let taken = (0..500).map(|_| {
        file.write_all(&[7; 4096]).expect("there is room");
        let begun = Instant::now();
        file.sync_data().expect("the disk works");
        begun.elapsed()
    });
    let spread = spread(taken);
    row("fdatasync of 4 KiB, p50 / p99", format!("{:.2} / {:.2} ms", spread.p50, spread.p99), "")
}
