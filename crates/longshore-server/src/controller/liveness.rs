//! Asks a worker's `/livez`, as an orchestrator would.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use longshore_core::fleet::Probe;
use longshore_core::id::WorkerId;
use longshore_platform::{Running, Signal};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::app::App;

/// How soon one that was killed and has not ended is killed again: an engine may be away, or not get it done.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// Watches until the worker ends; kills it after `failures` failures in a row, so that it is replaced.
pub async fn watch(app: App, worker: WorkerId, running: Running, probe: Probe) {
    let asked = ask_for_ever(&app, &worker, &running, probe);
    tokio::select! {
        _ = running.ended() => {}
        why = asked => {
            warn!(worker = %worker, why, "worker is not alive: it is killed and will be replaced");
            kill_until(running.ended(), || running.signal(Signal::SIGKILL)).await;
        }
    }
}

/// Kills again and again: what cannot be killed holds its room, and may work beside whoever has its tasks next.
pub async fn kill_until(ended: impl Future, mut kill: impl FnMut()) {
    let mut ended = std::pin::pin!(ended);
    loop {
        kill();
        if timeout(KILL_AGAIN, &mut ended).await.is_ok() {
            return;
        }
    }
}

/// Resolves with the reason when the worker must be given up.
async fn ask_for_ever(app: &App, worker: &WorkerId, running: &Running, probe: Probe) -> String {
    let limit = Duration::from_millis(probe.timeout_ms);
    let born = tokio::time::Instant::now();
    let mut failures = 0;
    // Whether a service of docker-compose is reached from here at all, only an answer tells.
    let mut reached = !matches!(running, Running::Compose(_));
    loop {
        sleep(Duration::from_millis(probe.interval_ms)).await;
        let Ok(Some(record)) = app.store.worker(worker.clone()).await else { continue };
        // In a container it knows its port, but not by which address it is reached.
        let told = record.probe_addr.map(|told| running.probe_addr().unwrap_or(told));
        let Some(addr) = told else {
            if born.elapsed() > Duration::from_millis(probe.startup_ms) {
                return format!("it did not register within {} ms", probe.startup_ms);
            }
            continue;
        };
        let answer = timeout(limit, ask(&addr)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        match answer {
            Ok(status) if status.is_success() => (failures, reached) = (0, true),
            Ok(_) | Err(_) if !reached => {}
            Ok(status) => failures = note(worker, failures, &format!("/livez answers {status}")),
            Err(error) => failures = note(worker, failures, &format!("/livez: {error}")),
        }
        if failures >= probe.failures {
            return format!("{failures} failed liveness probes in a row");
        }
    }
}

fn note(worker: &WorkerId, failures: u32, why: &str) -> u32 {
    warn!(%worker, why, failures = failures + 1, "liveness probe fails");
    failures + 1
}

async fn ask(addr: &str) -> io::Result<StatusCode> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get("/livez").header(header::HOST, addr).body(Empty::<Bytes>::new());
    let answered = sender.send_request(request.map_err(io::Error::other)?);
    tokio::select! {
        answer = answered => Ok(answer.map_err(io::Error::other)?.status()),
        ended = connection => Err(ended.err().map_or(io::ErrorKind::UnexpectedEof.into(), io::Error::other)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_killed_again_until_it_does() {
        let kills = Cell::new(0);
        // The engine takes the third one.
        let ended = async {
            while kills.get() < 3 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let killed = kill_until(ended, || kills.set(kills.get() + 1));
        timeout(Duration::from_secs(60), killed).await.expect("it ends");
        assert_eq!(kills.get(), 3, "and nobody is killed who has ended");
    }
}
