//! How long to wait before the control plane is asked again.

use std::time::Duration;

use tokio::time::Instant;

const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);

/// One request's patience with a control plane that is away.
pub struct Patience {
    pause: Duration,
    /// How long a token that is not accepted is shown again: a control plane may start before it knows its fleets.
    unauthorised: Duration,
    unauthorised_since: Option<Instant>,
}

impl Patience {
    pub fn new(unauthorised: Duration) -> Patience {
        Patience { pause: SHORTEST, unauthorised, unauthorised_since: None }
    }

    /// Waits; each time about twice as long. Spread out, since all agents lose a control plane at the same moment.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.pause.mul_f64(rand::random_range(0.5..1.0))).await;
        self.pause = (self.pause * 2).min(LONGEST);
    }

    pub fn authorised(&mut self) {
        self.unauthorised_since = None;
    }

    /// Whether to show the worker's token once more after it was not accepted.
    pub fn with_unauthorised(&mut self) -> bool {
        self.unauthorised_since.get_or_insert_with(Instant::now).elapsed() < self.unauthorised
    }
}

/// The worker's token is not accepted: nothing that the agent could mend.
pub fn is_unauthorised(status: u16, code: &str) -> bool {
    status == 401 && code == "bad_worker_token"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_two_seconds() {
        let mut patience = Patience::new(Duration::from_secs(5));
        let began = Instant::now();
        patience.wait().await;
        assert!(began.elapsed() <= Duration::from_millis(201), "{:?}", began.elapsed());
        for _ in 0..10 {
            patience.wait().await;
        }
        let before = Instant::now();
        patience.wait().await;
        let last = before.elapsed();
        assert!((Duration::from_secs(1)..=Duration::from_millis(2001)).contains(&last), "{last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_not_accepted_is_given_up_in_the_end() {
        let mut patience = Patience::new(Duration::from_secs(5));
        assert!(patience.with_unauthorised());
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(patience.with_unauthorised());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!patience.with_unauthorised());
    }
}
