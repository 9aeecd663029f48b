//! Durations and sizes as people write them: `90s`, `1h30m`, `512Mi`.
//!
//! A number without a unit is refused: nobody should have to guess whether a time-out is in seconds.

/// A text that is not a duration or a size, and how to write one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {example}")]
pub struct UnitError {
    problem: String,
    example: &'static str,
}

const DURATION_EXAMPLE: &str = "write a duration as \"500ms\", \"90s\", \"15m\", \"1h30m\" or \"2d\"";
const SIZE_EXAMPLE: &str = "write a size as \"512Ki\", \"64Mi\" or \"1Gi\" (or in powers of ten, \"10MB\")";

/// Longest first in value, so that `1h30m` is in order; milliseconds each.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 18] = [
    ("B", 1),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a duration.
///
/// Shape: whole amounts with units `d`, `h`, `m`, `s`, `ms`, larger before smaller, each at most once.
/// Units: the answer is in milliseconds.
/// Errors: no unit, an unknown unit, a fraction, units out of order, more than 2^63 ms.
pub fn parse_duration(text: &str) -> Result<u64, UnitError> {
    let wrong = |problem: String| UnitError { problem, example: DURATION_EXAMPLE };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong("an empty text is not a duration".into()));
    }
    let (mut total, mut next_unit) = (0u64, 0usize);
    while !rest.is_empty() {
        let (amount, unit, after) = split_amount(rest).map_err(|problem| wrong(problem.about(text)))?;
        let index = DURATION_UNITS
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or_else(|| wrong(format!("`{}` has the unknown unit `{}`", short(text), short(unit))))?;
        if index < next_unit {
            return Err(wrong(format!("`{}` repeats a unit or has units out of order", short(text))));
        }
        next_unit = index + 1;
        total = amount
            .checked_mul(DURATION_UNITS[index].1)
            .and_then(|ms| total.checked_add(ms))
            .filter(|ms| *ms <= i64::MAX as u64)
            .ok_or_else(|| wrong(format!("`{}` is too long", short(text))))?;
        rest = after;
    }
    Ok(total)
}

/// Reads a size.
///
/// Shape: one whole amount and one unit; `Ki`, `Mi`, `Gi`, `Ti` (an added `B` changes nothing) are powers of 1024,
/// `k`, `M`, `G` and `kB`, `MB`, `GB`, `TB` powers of 1000, `B` bytes.
/// Units: the answer is in bytes.
/// Errors: no unit, an unknown unit, a fraction, more than 2^63 bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let wrong = |problem: String| UnitError { problem, example: SIZE_EXAMPLE };
    let given = text.trim();
    if given.is_empty() {
        return Err(wrong("an empty text is not a size".into()));
    }
    let (amount, unit, rest) = split_amount(given).map_err(|problem| wrong(problem.about(text)))?;
    let unknown = || wrong(format!("`{}` has an unknown unit", short(text)));
    let (_, factor) =
        SIZE_UNITS.iter().find(|(name, _)| *name == unit && rest.is_empty()).ok_or_else(unknown)?;
    amount
        .checked_mul(*factor)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| wrong(format!("`{}` is too large", short(text))))
}

/// Writes milliseconds so that [`parse_duration`] reads the same number.
pub fn show_duration(ms: u64) -> String {
    let mut rest = ms;
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS {
        if rest >= factor {
            text.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Writes bytes so that [`parse_size`] reads the same number: in the largest power of 1024 that divides them.
pub fn show_size(bytes: u64) -> String {
    let unit = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)]
        .into_iter()
        .find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    match unit {
        Some((name, bits)) => format!("{}{name}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}

enum AmountProblem {
    NoNumber,
    NoUnit,
    Fraction,
    TooLarge,
}

impl AmountProblem {
    fn about(self, text: &str) -> String {
        let text = short(text);
        match self {
            AmountProblem::NoNumber => format!("`{text}` does not begin with a whole number"),
            AmountProblem::NoUnit => format!("`{text}` has no unit"),
            AmountProblem::Fraction => format!("`{text}` has a fraction: use a smaller unit"),
            AmountProblem::TooLarge => format!("`{text}` is too large"),
        }
    }
}

/// Splits `90s…` into 90, `s` and what follows.
fn split_amount(text: &str) -> Result<(u64, &str, &str), AmountProblem> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return Err(AmountProblem::NoNumber);
    }
    if rest.starts_with('.') {
        return Err(AmountProblem::Fraction);
    }
    let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    if unit.is_empty() {
        return Err(AmountProblem::NoUnit);
    }
    let number = number.parse().map_err(|_| AmountProblem::TooLarge)?;
    Ok((number, unit, after))
}

/// Cuts a value to what an error message can bear.
fn short(text: &str) -> String {
    if text.chars().count() <= 32 {
        text.to_owned()
    } else {
        text.chars().take(29).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn duration(text: &str, ms: u64) {
        assert_eq!(parse_duration(text), Ok(ms), "{text}");
    }

    fn size(text: &str, bytes: u64) {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }

    fn no_duration(text: &str, why: &str) {
        let error = parse_duration(text).expect_err(text).to_string();
        assert!(error.contains(why) && error.contains("\"90s\""), "{text}: {error}");
    }

    fn no_size(text: &str, why: &str) {
        let error = parse_size(text).expect_err(text).to_string();
        assert!(error.contains(why) && error.contains("\"64Mi\""), "{text}: {error}");
    }

    #[test]
    fn durations_are_read_in_milliseconds() {
        duration("500ms", 500);
        duration("90s", 90_000);
        duration("15m", 900_000);
        duration("1h30m", 5_400_000);
        duration("2d", 172_800_000);
        duration("1m1ms", 60_001);
        duration(" 0s ", 0);
    }

    #[test]
    fn a_bad_duration_says_why_and_shows_a_good_one() {
        no_duration("90", "no unit");
        no_duration("1h30", "no unit");
        no_duration("", "empty");
        no_duration("s", "whole number");
        no_duration("-5s", "whole number");
        no_duration("1.5s", "fraction");
        no_duration("5 s", "unknown unit");
        no_duration("5min", "unknown unit");
        no_duration("30m1h", "order");
        no_duration("1s1s", "repeats");
        no_duration("99999999999999999999s", "too large");
        no_duration("9223372036854775807d", "too long");
        no_duration(&"9".repeat(10_000), "no unit");
    }

    #[test]
    fn sizes_are_read_in_bytes() {
        size("512Mi", 512 << 20);
        size("1Gi", 1 << 30);
        size("1GiB", 1 << 30);
        size("10MB", 10_000_000);
        size("10M", 10_000_000);
        size("7B", 7);
    }

    #[test]
    fn a_bad_size_says_why_and_shows_a_good_one() {
        no_size("512", "no unit");
        no_size("1mi", "unknown unit");
        no_size("1Gi512Mi", "unknown unit");
        no_size("0.5Gi", "fraction");
        no_size("9999999999Ti", "too large");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number in 0..=i64::MAX as u64) {
            prop_assert_eq!(parse_duration(&show_duration(number)), Ok(number));
            prop_assert_eq!(parse_size(&show_size(number)), Ok(number));
        }

        #[test]
        fn round_sizes_are_written_shortly(amount in 1u64..1024) {
            prop_assert_eq!(parse_size(&show_size(amount << 20)), Ok(amount << 20));
            prop_assert!(show_size(amount << 20).len() <= 6);
        }

        #[test]
        fn no_text_panics_or_gives_a_long_error(text in ".{0,80}") {
            for error in [parse_duration(&text).err(), parse_size(&text).err()].into_iter().flatten() {
                prop_assert!(error.to_string().chars().count() < 250);
            }
        }
    }
}
