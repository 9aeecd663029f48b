//! Writes that the API server refuses since the object has changed: for a moment that is as it should be, for long it is not.

use std::time::{Duration, Instant};

/// After so long without one, the next is a new beginning.
const APART: Duration = Duration::from_secs(30);

/// Those in a row.
#[derive(Default)]
pub struct Conflicts(Option<Row>);

struct Row {
    since: Instant,
    last: Instant,
}

impl Conflicts {
    /// A write was taken.
    pub fn none(&mut self) {
        self.0 = None;
    }

    /// Another one. Returns for how long they have gone on.
    pub fn another(&mut self, now: Instant) -> Duration {
        let row = self.0.take().filter(|row| now.duration_since(row.last) < APART);
        let since = row.map_or(now, |row| row.since);
        self.0 = Some(Row { since, last: now });
        now.duration_since(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_in_a_row_get_longer_until_something_is_written() {
        let (mut conflicts, start) = (Conflicts::default(), Instant::now());
        let mut at = |seconds| conflicts.another(start + Duration::from_secs(seconds)).as_secs();
        assert_eq!((at(0), at(5), at(11)), (0, 5, 11));
        assert_eq!((at(60), at(61)), (0, 1), "they were long ago");
        conflicts.none();
        assert_eq!(conflicts.another(start + Duration::from_secs(62)), Duration::ZERO);
    }
}
