//! Removes what runs made, and says what the engine will not remove.

use std::fmt;
use std::time::Duration;

use longshore_core::errors::chain;
use longshore_core::time::Timestamp;
use tokio::time::{sleep, timeout};

use super::container;
use crate::engine::{Engine, EngineError, Kind, Made};

/// How long what a run made may take to go.
const CLEAR_WITHIN: Duration = Duration::from_secs(15);

/// The same for what others left: nobody waits for that.
const SWEEP_WITHIN: Duration = Duration::from_secs(5);

/// No run takes that long: what is older belongs to one that was killed.
const OLD: Duration = Duration::from_secs(3600);

/// How soon what did not go is asked to go again.
const AGAIN: Duration = Duration::from_millis(200);

/// What stays, and why.
#[derive(Debug)]
pub struct Left {
    pub made: Made,
    /// `None`: the engine did not answer in time.
    pub why: Option<EngineError>,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{} stays: {}", self.made, chain(why)),
            None => write!(f, "{} stays: the engine did not answer in time", self.made),
        }
    }
}

/// Removes what a run made; nothing there is fine. Returns what stays.
pub async fn clear(engine: &Engine, name: &str) -> Vec<Left> {
    let containers = ["strict", "open"].map(|which| (Kind::Container, container(name, which)));
    let made = containers.into_iter().chain([(Kind::Network, name.to_owned())]);
    let made = made.map(|(kind, name)| Made { kind, name });
    until_gone(made.collect(), CLEAR_WITHIN, async |made| engine.remove(made).await).await
}

/// Removes what is there of runs that were killed before they could. Returns what stays.
pub async fn sweep(engine: &Engine, now: Timestamp) -> Result<Vec<Left>, EngineError> {
    let made = old(engine.made().await?, now);
    Ok(until_gone(made, SWEEP_WITHIN, async |made| engine.remove(made).await).await)
}

fn old(made: Vec<(Made, Timestamp)>, now: Timestamp) -> Vec<Made> {
    made.into_iter().filter(|(_, at)| now.since(*at) > OLD).map(|(made, _)| made).collect()
}

/// Asks in turn and again: a removal may be under way already, and a network goes after its containers.
async fn until_gone(
    made: Vec<Made>,
    within: Duration,
    remove: impl AsyncFn(&Made) -> Result<(), EngineError>,
) -> Vec<Left> {
    let mut left: Vec<Left> = made.into_iter().map(|made| Left { made, why: None }).collect();
    let all = async {
        while !left.is_empty() {
            let mut next = 0;
            while let Some(one) = left.get_mut(next) {
                match remove(&one.made).await {
                    Ok(()) => drop(left.remove(next)),
                    Err(why) => {
                        one.why = Some(why);
                        next += 1;
                    }
                }
            }
            if !left.is_empty() {
                sleep(AGAIN).await;
            }
        }
    };
    // Whether it was in time is told by what is left.
    let _ = timeout(within, all).await;
    left
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn made(name: &str) -> Made {
        Made { kind: Kind::Container, name: name.to_owned() }
    }

    fn busy() -> Result<(), EngineError> {
        Err(EngineError::Answer("DELETE".into()))
    }

    #[tokio::test]
    async fn what_does_not_go_at_once_is_asked_again() {
        let asked = RefCell::new(Vec::new());
        let left = until_gone(vec![made("a"), made("b")], CLEAR_WITHIN, async |it| {
            asked.borrow_mut().push(it.name.clone());
            if it.name == "a" && asked.borrow().len() < 3 { busy() } else { Ok(()) }
        });
        assert!(left.await.is_empty());
        assert_eq!(*asked.borrow(), ["a", "b", "a"]);
    }

    #[tokio::test]
    async fn what_stays_is_said_and_keeps_nothing_else() {
        let gone = RefCell::new(Vec::new());
        let left = until_gone(vec![made("stuck"), made("b")], AGAIN / 2, async |it| {
            if it.name == "stuck" {
                return busy();
            }
            gone.borrow_mut().push(it.name.clone());
            Ok(())
        });
        let said: Vec<String> = left.await.iter().map(Left::to_string).collect();
        assert_eq!(*gone.borrow(), ["b"]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("container `stuck` stays: the engine's answer"), "{said:?}");
    }

    #[tokio::test]
    async fn an_engine_that_hangs_is_not_waited_for() {
        let left = until_gone(vec![made("a")], AGAIN / 2, async |_| std::future::pending().await).await;
        assert_eq!(left[0].to_string(), "container `a` stays: the engine did not answer in time");
    }

    #[test]
    fn only_what_no_run_can_own_any_more_is_old() {
        let now = Timestamp(1_795_000_000_000);
        let of = |minutes: u64| now.before(Duration::from_secs(60 * minutes));
        let all = vec![(made("killed"), of(61)), (made("runs"), of(59)), (made("ahead"), now.after(OLD * 2))];
        assert_eq!(old(all, now), [made("killed")]);
    }
}
