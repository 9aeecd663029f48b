//! How a simulated provider is to behave. Every default is here.

use std::net::{Ipv4Addr, SocketAddr};

use crate::fault::Fault;
use crate::limit::Limits;
use crate::price::Prices;
use crate::trace::Trace;

#[derive(Clone, Debug)]
pub struct Options {
    pub addr: SocketAddr,
    /// Another seed gives other answers to the same requests.
    pub seed: u64,
    /// The only key that is let in; without one any key will do.
    pub key: Option<String>,
    /// The models that exist; empty: any name is one.
    pub models: Vec<String>,
    pub latency: Latency,
    pub limits: Limits,
    pub prices: Prices,
    /// Where the lengths of answers come from, and with [`Pace::Real`] their durations.
    pub trace: Option<Trace>,
    pub faults: Vec<Fault>,
    /// Whether the tokens of an answer that broke off are on the bill.
    pub bill_broken: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 1,
            key: None,
            models: Vec::new(),
            latency: Latency::default(),
            limits: Limits::default(),
            prices: Prices::default(),
            trace: None,
            faults: Vec::new(),
            bill_broken: true,
        }
    }
}

/// How long answers take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub pace: Pace,
    /// Time to the first token, instead of what the pace says.
    pub ttft_ms: Option<u64>,
    /// Time for each further token, instead of what the pace says.
    pub token_ms: Option<f64>,
    /// Divides every wait.
    pub speed: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { pace: Pace::None, ttft_ms: None, token_ms: None, speed: 1.0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as it goes.
    None,
    /// So long until the first token, the rest at once.
    Fixed { ms: u64 },
    /// Drawn: a median of 400 ms until the first token, 15 ms for each further one; or as the trace says.
    Real,
}
