//! Chance as a function: every draw follows from the seed and the request.
//!
//! Written out rather than taken from a library: an answer must stay the same when dependencies move.

use crate::digest::Digest;

/// A stream of numbers (splitmix64).
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64, digest: &Digest, purpose: &str) -> Draw {
        let start = Draw(seed).next() ^ digest.number();
        // Each purpose has a stream of its own, so that one more draw here changes nothing there.
        Draw(purpose.bytes().fold(start, |state, byte| Draw(state ^ u64::from(byte)).next()))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In `0..n`; 0 where `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// In `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn normal(&mut self) -> f64 {
        // 1 - unit is never 0, whose logarithm is not a number.
        let (radius, angle) = (1.0 - self.unit(), self.unit());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len() as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, purpose: &str) -> u64 {
        Draw::new(seed, &Digest::of(b"x"), purpose).next()
    }

    #[test]
    fn seed_and_purpose_decide() {
        assert_eq!(drawn(1, "a"), drawn(1, "a"));
        assert_ne!(drawn(1, "a"), drawn(2, "a"));
        assert_ne!(drawn(1, "a"), drawn(1, "b"));
    }

    #[test]
    fn a_log_normal_has_its_median_and_its_tail() {
        let mut draw = Draw::new(7, &Digest::of(b"x"), "tokens");
        let mut drawn: Vec<f64> = (0..20_000).map(|_| draw.log_normal(60.0, 0.99)).collect();
        drawn.sort_by(f64::total_cmp);
        assert!((57.0..63.0).contains(&drawn[10_000]), "{}", drawn[10_000]);
        assert!((520.0..690.0).contains(&drawn[19_800]), "{}", drawn[19_800]);
    }
}
