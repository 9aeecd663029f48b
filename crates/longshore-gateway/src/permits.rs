//! Admission against the providers' limits, for this process or for all gateways together.
//!
//! The decision is `longshore_core::limit`'s, or that of the limiter which gateways share; here callers wait for it, in the
//! order in which they came.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_core::limit::{Answer, Need, Permit, Window, predict};
use longshore_core::provider::{Limit, Provider};
use longshore_store::{SharedAnswer, SharedPermit, SharedPermits};
use tokio::time::Instant;

pub struct Permits {
    /// None: no other gateway calls these providers.
    shared: Option<Arc<SharedPermits>>,
    started: Instant,
    lines: Mutex<HashMap<(String, String), Arc<Line>>>,
    learned: Mutex<HashMap<(String, String), Outputs>>,
}

/// Those who wait for one limit.
struct Line {
    /// Over all gateways.
    name: String,
    /// First come, first served: a large call is not overtaken for ever by small ones.
    turn: tokio::sync::Mutex<()>,
    window: Mutex<Window>,
}

/// The right to send one call; given back by what becomes of it.
pub struct Admitted {
    line: Option<Arc<Line>>,
    right: Option<Right>,
    shared: Option<Arc<SharedPermits>>,
}

/// Who counts it.
enum Right {
    Own(Permit),
    Shared(SharedPermit),
}

/// Whether to go on waiting.
enum Asked {
    Admitted(Right),
    Wait(u64),
}

/// A call that no minute can hold.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge {
    pub needs: u64,
    pub limit: u64,
}

impl Permits {
    pub fn new(shared: Option<SharedPermits>) -> Permits {
        Permits {
            shared: shared.map(Arc::new),
            started: Instant::now(),
            lines: Mutex::default(),
            learned: Mutex::default(),
        }
    }

    /// There are more gateways now, or fewer.
    pub fn set_gateways(&self, gateways: u32) {
        if let Some(shared) = &self.shared {
            shared.set_gateways(gateways);
        }
    }

    /// Waits until the provider's limit lets the call through. Cancel-safe: whoever stops waiting takes nothing.
    pub async fn admit(
        &self,
        provider: &Provider,
        model: &str,
        input_bytes: usize,
        max_output: Option<u64>,
    ) -> Result<Admitted, TooLarge> {
        let Some((key, limit)) = provider.limit_for(model) else {
            return Ok(Admitted { line: None, right: None, shared: None });
        };
        let line = {
            let mut lines = lock(&self.lines);
            let fresh = || {
                let (turn, window) = (tokio::sync::Mutex::new(()), Mutex::new(Window::new(*limit)));
                Arc::new(Line { name: format!("{} {key}", provider.name), turn, window })
            };
            Arc::clone(lines.entry((provider.name.to_string(), key.to_owned())).or_insert_with(fresh))
        };
        let needs = predict(input_bytes, max_output, self.expected_output(provider, model));
        let _turn = line.turn.lock().await;
        loop {
            match self.ask(&line, *limit, needs).await? {
                Asked::Admitted(right) => {
                    let shared = self.shared.clone();
                    return Ok(Admitted { line: Some(Arc::clone(&line)), right: Some(right), shared });
                }
                Asked::Wait(seconds) if self.shared.is_some() => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                }
                Asked::Wait(seconds) => {
                    // Seconds are counted whole, from the start: wait for the beginning of that one.
                    let at = self.started + Duration::from_secs(self.now_s() + seconds);
                    tokio::time::sleep_until(at).await;
                }
            }
        }
    }

    async fn ask(&self, line: &Line, limit: Limit, needs: u64) -> Result<Asked, TooLarge> {
        let need = Need { tokens: needs };
        let Some(shared) = &self.shared else {
            return match lock(&line.window).ask(self.now_s(), need) {
                Answer::Admitted(permit) => Ok(Asked::Admitted(Right::Own(permit))),
                Answer::Wait { seconds } => Ok(Asked::Wait(seconds)),
                Answer::TooLarge { limit } => Err(TooLarge { needs, limit }),
            };
        };
        match shared.ask(&line.name, limit, need).await {
            SharedAnswer::Admitted(permit) => Ok(Asked::Admitted(Right::Shared(permit))),
            SharedAnswer::Wait { seconds } => Ok(Asked::Wait(seconds)),
            SharedAnswer::TooLarge { limit } => Err(TooLarge { needs, limit }),
        }
    }

    /// What a model's answers were like, for the next prediction.
    pub fn learn(&self, provider: &Provider, model: &str, output: u64) {
        let key = (provider.name.to_string(), model.to_owned());
        lock(&self.learned).entry(key).or_default().add(output);
    }

    fn expected_output(&self, provider: &Provider, model: &str) -> Option<u64> {
        let key = (provider.name.to_string(), model.to_owned());
        lock(&self.learned).get(&key).and_then(Outputs::high)
    }

    /// The provider asks to be left alone.
    pub fn pause(&self, admitted: &Admitted, wait: Duration) {
        let (Some(line), seconds) = (&admitted.line, wait.as_secs_f64().ceil() as u64) else { return };
        let Some(shared) = self.shared.clone() else {
            return lock(&line.window).block_until(self.now_s() + seconds);
        };
        let line = line.name.clone();
        tokio::spawn(async move { shared.block(&line, seconds).await });
    }

    fn now_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

impl Admitted {
    /// What the call used, once it is known.
    pub fn settle(mut self, tokens: u64) {
        match (&self.line, self.right.take(), self.shared.take()) {
            (Some(line), Some(Right::Own(permit)), _) => lock(&line.window).settle(&permit, tokens),
            (_, Some(Right::Shared(permit)), Some(shared)) => {
                tokio::spawn(async move { shared.settle(permit, tokens).await });
            }
            _ => {}
        }
    }

    /// The call was never sent.
    pub fn withdraw(mut self) {
        match (&self.line, self.right.take(), self.shared.take()) {
            (Some(line), Some(Right::Own(permit)), _) => lock(&line.window).withdraw(permit),
            (_, Some(Right::Shared(permit)), Some(shared)) => {
                tokio::spawn(async move { shared.withdraw(permit).await });
            }
            _ => {}
        }
    }
}

/// The newest outputs of a model.
#[derive(Default)]
struct Outputs(VecDeque<u64>);

const REMEMBERED: usize = 128;

impl Outputs {
    fn add(&mut self, output: u64) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(output);
    }

    /// The 99th of a hundred; nothing before a few are known.
    fn high(&self) -> Option<u64> {
        if self.0.len() < 8 {
            return None;
        }
        let mut sorted: Vec<u64> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_core::provider::{Kind, Limit, ProviderName};

    fn provider(requests: u64) -> Provider {
        let name = ProviderName::new("openai").expect("valid");
        let mut provider = Provider::new(name, Kind::OpenAi, "http://127.0.0.1:1/v1".into());
        let limit = Limit { requests_per_minute: Some(requests), tokens_per_minute: Some(10_000) };
        provider.limits.insert("*".into(), limit);
        provider
    }

    #[tokio::test(start_paused = true)]
    async fn callers_wait_for_the_minute_and_come_in_order() {
        let (permits, provider) = (Arc::new(Permits::new(None)), Arc::new(provider(2)));
        let begun = Instant::now();
        let mut order = Vec::new();
        for n in 0..5 {
            permits.admit(&provider, "m", 10, None).await.map(drop).expect("it fits");
            order.push((n, begun.elapsed().as_secs()));
        }
        assert_eq!(order, [(0, 0), (1, 0), (2, 60), (3, 60), (4, 120)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_sent_takes_no_room() {
        let (permits, provider) = (Permits::new(None), provider(1));
        let begun = Instant::now();
        permits.admit(&provider, "m", 10, None).await.expect("room").withdraw();
        permits.admit(&provider, "m", 10, None).await.expect("room").settle(5);
        assert_eq!(begun.elapsed().as_secs(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_fits_is_told_so_at_once() {
        let (permits, provider) = (Permits::new(None), provider(10));
        let refused = permits.admit(&provider, "m", 80_000, Some(1)).await.map(drop);
        assert_eq!(refused, Err(TooLarge { needs: 20_001, limit: 10_000 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_the_provider_asks_for_holds_for_all() {
        let (permits, provider) = (Permits::new(None), provider(100));
        let begun = Instant::now();
        let first = permits.admit(&provider, "m", 10, None).await.expect("room");
        permits.pause(&first, Duration::from_millis(2_500));
        permits.admit(&provider, "m", 10, None).await.map(drop).expect("room");
        assert_eq!(begun.elapsed().as_secs(), 3);
    }

    #[test]
    fn a_high_output_is_learned() {
        let mut outputs = Outputs::default();
        (1..=7).for_each(|n| outputs.add(n));
        assert_eq!(outputs.high(), None);
        (8..=200).for_each(|n| outputs.add(n));
        assert_eq!(outputs.high(), Some(199));
    }
}
