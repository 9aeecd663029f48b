//! Looks now and then whether the LLM APIs can be reached: a connection, never a call of a model.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_gateway::Gateway;
use tracing::{info, warn};

use super::sleep_or_stop;
use crate::app::App;

const EVERY: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// So many times in a row, and it is said: one lost packet must not make workers unready.
const FAILURES: u32 = 3;

pub async fn run(app: App, gateway: Gateway) -> &'static str {
    let mut failures: BTreeMap<String, u32> = BTreeMap::new();
    loop {
        let found = gateway.unreachable(PATIENCE).await;
        failures = found.keys().map(|name| (name.clone(), failures.get(name).unwrap_or(&0) + 1)).collect();
        let lost: BTreeMap<String, String> =
            found.into_iter().filter(|(name, _)| failures[name] >= FAILURES).collect();
        let before = std::mem::replace(&mut *app.llm.lock().expect("no holder panics"), lost.clone());
        for (name, why) in lost.iter().filter(|(name, _)| !before.contains_key(*name)) {
            warn!(provider = name, why, "provider cannot be reached");
        }
        for name in before.keys().filter(|name| !lost.contains_key(*name)) {
            info!(provider = name, "provider can be reached again");
        }
        if sleep_or_stop(&app, EVERY).await {
            return "providers";
        }
    }
}
