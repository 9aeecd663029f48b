//! Signals: which make this worker drain, which are passed on, which say that a child ended.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::process::Host;

/// SIGTERM and SIGINT.
pub struct StopSignals {
    term: Stream,
    int: Stream,
    told: bool,
}

impl StopSignals {
    pub fn listen() -> io::Result<StopSignals> {
        Ok(StopSignals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            told: false,
        })
    }

    /// Waits for the next one; returns its name. Loses none when it is dropped.
    pub async fn next(&mut self) -> &'static str {
        let name = tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        };
        self.told = true;
        name
    }

    /// Whether one has come.
    pub fn told(&self) -> bool {
        self.told
    }
}

/// Reaps children and passes signals on, for ever. What an agent has no say in, such as SIGTERM, is not passed on.
pub struct Family {
    child: Stream,
    passed_on: [(Stream, Signal); 4],
}

impl Family {
    pub fn listen() -> io::Result<Family> {
        let on = |kind, name| Ok::<_, io::Error>((signal(kind)?, name));
        Ok(Family {
            child: signal(SignalKind::child())?,
            passed_on: [
                on(SignalKind::hangup(), Signal::SIGHUP)?,
                on(SignalKind::user_defined1(), Signal::SIGUSR1)?,
                on(SignalKind::user_defined2(), Signal::SIGUSR2)?,
                on(SignalKind::window_change(), Signal::SIGWINCH)?,
            ],
        })
    }

    pub async fn serve(mut self, host: &Host) {
        let [hup, usr1, usr2, winch] = &mut self.passed_on;
        loop {
            // What ended before this began to listen.
            host.reap();
            tokio::select! {
                _ = self.child.recv() => {}
                _ = hup.0.recv() => host.forward(hup.1),
                _ = usr1.0.recv() => host.forward(usr1.1),
                _ = usr2.0.recv() => host.forward(usr2.1),
                _ = winch.0.recv() => host.forward(winch.1),
            }
        }
    }
}
