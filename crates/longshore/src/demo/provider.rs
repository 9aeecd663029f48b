//! The LLM provider of the tour: simulated, inside this process, with a bill that proves what was paid for.
//!
//! Writes as many tokens as it is allowed to, at the pace of the trace; so the agent decides how long its calls take.

use longshore_simulate::{Latency, Options, Pace, Prices, Sim, Trace};

use super::trace::TOKEN_MS;
use crate::error::{Fault, Outcome};

/// With this name it is where `OPENAI_BASE_URL` leads.
pub const NAME: &str = "openai";
pub const MODEL: &str = "simulated";

/// Dollars for a million tokens, the same on the provider's bill and in the configuration. For one token each is a whole
/// number of billionths, so both sums are exact and can be compared.
pub const INPUT: &str = "1.25";
pub const CACHED: &str = "0.125";
pub const OUTPUT: &str = "10";

/// The only one that the provider lets in; agents are not told it.
pub const KEY: &str = "key-of-the-simulated-provider";

const SEED: u64 = 7117;

/// Of every call. A task makes about three, which gives what the trace has for a task.
const FIRST_TOKEN_MS: u64 = 30;

/// More than anybody asks for.
const LONGEST: &str = "output_tokens\n1000000\n";

/// As slow as an LLM; `speed` divides its times.
pub async fn start(speed: u64) -> Outcome<Sim> {
    let latency = Latency {
        pace: Pace::None,
        ttft_ms: Some(FIRST_TOKEN_MS),
        token_ms: Some(TOKEN_MS as f64),
        speed: speed.max(1) as f64,
    };
    serve(latency).await
}

/// Gives the same answers, at once, on a bill of its own.
pub async fn start_twin() -> Outcome<Sim> {
    serve(Latency::default()).await
}

async fn serve(latency: Latency) -> Outcome<Sim> {
    let price = format!("{MODEL}={INPUT}/{CACHED}/{OUTPUT}");
    let options = Options {
        seed: SEED,
        key: Some(KEY.into()),
        models: vec![MODEL.into()],
        latency,
        prices: Prices(vec![Prices::parse(&price).map_err(|error| Fault::of(&error))?]),
        trace: Some(Trace::parse(LONGEST).map_err(|error| Fault::of(&error))?),
        ..Options::default()
    };
    let failed = |error| Fault::new("could not start the simulated provider").cause(&error);
    longshore_simulate::start(options).await.map_err(failed)
}
