//! Points in time: wall time for people, service time for leases.
//!
//! Neither is read here: whoever asks for a decision brings the time along.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in wall time, in milliseconds since 1970; written as RFC 3339 with zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The years that RFC 3339 can write, well inside what every store can hold.
    pub const MAX: Timestamp = Timestamp(253_402_207_200_000);

    pub fn after(self, wait: Duration) -> Timestamp {
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(wait).min(Self::MAX.0))
    }

    pub fn before(self, wait: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies ahead (clocks jump).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse::<jiff::Timestamp>().map(|at| Timestamp(at.as_millisecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| {
            serde::de::Error::custom(format!(
                "`{text}` is not a time: expected RFC 3339 such as 2026-11-23T21:00:00Z"
            ))
        })
    }
}

/// A point in service time: milliseconds for which the service was up, counted in the store.
///
/// Leases expire in it, so that neither an outage of the control plane nor a jump of a clock takes a task from a
/// worker that did nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceTime(pub i64);

/// The most that one tick may advance service time.
pub const TICK_CAP: Duration = Duration::from_secs(2);

impl ServiceTime {
    pub fn after(self, wait: Duration) -> ServiceTime {
        ServiceTime(self.0.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Returns service time after one tick of the leader.
    ///
    /// Units: `elapsed` is monotonic time since this leader's previous tick; `None` on its first tick, which adds 0.
    /// `link_seen`: a worker-link replica has shown itself within the last 2 s; without one no worker could have
    /// renewed anything, so time stands still.
    pub fn tick(self, elapsed: Option<Duration>, link_seen: bool) -> ServiceTime {
        match elapsed {
            Some(elapsed) if link_seen => self.after(elapsed.min(TICK_CAP)),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_written_with_zone_and_read_back() {
        let at = Timestamp(1_795_000_000_123);
        assert_eq!(at.to_string().parse::<Timestamp>().expect("own output parses"), at);
        assert!(at.to_string().ends_with('Z'), "{at}");
    }

    #[test]
    fn the_first_tick_adds_nothing() {
        assert_eq!(ServiceTime(5).tick(None, true), ServiceTime(5));
    }

    #[test]
    fn an_outage_of_an_hour_adds_two_seconds_at_most() {
        assert_eq!(ServiceTime(0).tick(Some(Duration::from_secs(3600)), true), ServiceTime(2000));
    }

    #[test]
    fn without_a_worker_link_time_stands_still() {
        assert_eq!(ServiceTime(7).tick(Some(Duration::from_secs(1)), false), ServiceTime(7));
    }

    proptest! {
        #[test]
        fn service_time_never_goes_back_and_never_outruns_the_cap(
            start in 0..i64::MAX / 2, elapsed in proptest::option::of(0u64..u64::MAX / 2), seen: bool,
        ) {
            let now = ServiceTime(start).tick(elapsed.map(Duration::from_millis), seen);
            prop_assert!(now.0 >= start && now.0 - start <= 2000);
        }
    }
}
