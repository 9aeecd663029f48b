//! Signals that end a long-running command.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Fault, Outcome};

/// Ctrl-C, SIGTERM, and the end of the terminal. From its creation on none of them ends the process by itself.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    pub fn listen() -> Outcome<Stop> {
        let on =
            |kind| signal(kind).map_err(|error| Fault::new("could not listen for signals").cause(&error));
        Ok(Stop {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next of them.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Resolves at Ctrl-C; never when it cannot be listened for (then it ends the process, as it always did).
pub async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
