//! Heartbeats of one worker on one connection that stays: by hand, since 10,000 whole clients would cost more than they
//! measure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longshore_api::link::{self, Condition, Heartbeat, WorkerState};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{EVERY, Holder};

/// How long each is held: real workers ask for 4 s of 5.
const HELD_MS: u64 = 4_000;

/// Heartbeats that were answered.
#[derive(Clone, Default)]
pub struct Count(Arc<AtomicU64>);

impl Count {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Begins after a while and goes on until it is stopped.
pub async fn keep(address: String, token: String, of: Holder, first: Duration, answered: Count) {
    let host = address.trim_start_matches("http://").to_owned();
    let beat = Heartbeat {
        worker: of.worker,
        nonce: of.nonce,
        held: of.held,
        last_claim: 1,
        cancelling: Vec::new(),
        condition: Condition { state: WorkerState::Ready, reason: String::new(), memory: 20 << 20 },
        wait_ms: HELD_MS,
    };
    let body = serde_json::to_string(&beat).expect("plain data");
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        link::HEARTBEAT,
        body.len()
    );
    let mut next = Instant::now() + first;
    tokio::time::sleep_until(next).await;
    let mut stream = BufReader::new(TcpStream::connect(&host).await.expect("it listens"));
    loop {
        stream.get_mut().write_all(request.as_bytes()).await.expect("it is read");
        answer(&mut stream).await;
        answered.0.fetch_add(1, Ordering::Relaxed);
        next += EVERY;
        tokio::time::sleep_until(next).await;
    }
}

async fn answer(stream: &mut BufReader<TcpStream>) {
    let (mut line, mut length) = (String::new(), 0);
    stream.read_line(&mut line).await.expect("an answer");
    assert!(line.contains(" 200 "), "{line}");
    loop {
        line.clear();
        stream.read_line(&mut line).await.expect("a header");
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        length =
            lower.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().expect("a number"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("the whole answer");
}
