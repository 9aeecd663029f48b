//! The cache that the agents of a fleet share: what fits into it.

/// The largest value, bytes.
pub const VALUE_LIMIT: usize = 1 << 20;

/// All values of one fleet together, bytes. What expires soonest makes room.
pub const TOTAL_LIMIT: u64 = 64 << 20;

/// A small entry takes room as well: its key, its row.
pub const OVERHEAD: u64 = 128;

pub const KEY_LIMIT: usize = 512;

/// How long a value is kept that was put without a time to live.
pub const DEFAULT_TTL_MS: u64 = 3_600_000;

pub const LONGEST_TTL_MS: u64 = 30 * 24 * 3_600_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a key has 1 to {KEY_LIMIT} bytes and no control characters")]
    Key,
    #[error("the value holds {0} bytes; at most {VALUE_LIMIT} are kept")]
    TooLarge(usize),
    #[error("a time to live lies between 1ms and 30 days")]
    Ttl,
}

pub fn check_key(key: &str) -> Result<(), Refused> {
    let valid = (1..=KEY_LIMIT).contains(&key.len()) && !key.chars().any(char::is_control);
    if valid { Ok(()) } else { Err(Refused::Key) }
}

/// Checks what is to be kept. Returns how long, in milliseconds.
pub fn check(key: &str, bytes: usize, ttl_ms: Option<u64>) -> Result<u64, Refused> {
    check_key(key)?;
    if bytes > VALUE_LIMIT {
        return Err(Refused::TooLarge(bytes));
    }
    match ttl_ms.unwrap_or(DEFAULT_TTL_MS) {
        ms @ 1..=LONGEST_TTL_MS => Ok(ms),
        _ => Err(Refused::Ttl),
    }
}

/// What an entry counts, bytes.
pub fn weight(key: &str, bytes: usize) -> u64 {
    (key.len() + bytes) as u64 + OVERHEAD
}

/// How many bytes have to go so that the rest fits.
pub fn excess(total: u64) -> u64 {
    total.saturating_sub(TOTAL_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_values_and_times_have_limits() {
        assert_eq!(check("k", VALUE_LIMIT, None), Ok(DEFAULT_TTL_MS));
        assert_eq!(check("k", 0, Some(1)), Ok(1));
        assert_eq!(check("k", VALUE_LIMIT + 1, None), Err(Refused::TooLarge(VALUE_LIMIT + 1)));
        for ttl in [0, LONGEST_TTL_MS + 1] {
            assert_eq!(check("k", 0, Some(ttl)), Err(Refused::Ttl));
        }
        for key in ["", "a\nb", &"k".repeat(KEY_LIMIT + 1)] {
            assert_eq!(check(key, 0, None), Err(Refused::Key));
        }
    }

    #[test]
    fn many_small_entries_reach_the_limit_too() {
        assert_eq!(excess(weight("k", 0) * (TOTAL_LIMIT / OVERHEAD)), TOTAL_LIMIT / OVERHEAD);
        assert_eq!(excess(TOTAL_LIMIT), 0);
    }
}
