//! A simulated LLM provider, named as one: it stands in for OpenAI and Anthropic in tests, demo and benchmarks.
//!
//! Speaks their wire formats over real sockets, fails on request, and keeps a bill that proves what was paid for. Its
//! answers are a function of the seed and the request. It understands nothing of what it is asked.

mod answer;
mod ask;
mod bill;
mod cache;
mod call;
mod control;
mod deliver;
mod digest;
mod draw;
mod fault;
mod front;
mod gzip;
mod hold;
mod limit;
mod options;
mod pace;
mod price;
mod schema;
mod serve;
mod spoil;
mod trace;
mod wire;
mod words;

pub use bill::{Bill, Line, Totals};
pub use fault::{Fault, FaultError, Match, What};
pub use limit::Limits;
pub use options::{Latency, Options, Pace};
pub use price::{Price, PriceError, Prices};
pub use serve::{Sim, start};
pub use trace::{Trace, TraceError};
