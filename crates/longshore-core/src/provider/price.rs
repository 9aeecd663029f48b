//! Money, exactly: prices per million tokens as people write them, and what a call cost.
//!
//! All of it in whole numbers, since sums of binary fractions drift.

use std::iter::Sum;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// A millionth of a millionth of a currency unit: a price of 0.000001 per million tokens is 1 per token.
pub type Pico = u64;

/// What one token costs. In JSON as it is declared: decimal strings for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    #[serde(with = "as_declared")]
    pub input: Pico,
    /// For input that the provider had in its cache.
    #[serde(with = "as_declared")]
    pub cached_input: Pico,
    #[serde(with = "as_declared")]
    pub output: Pico,
}

/// What a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// All of the input, cached or not.
    pub input: u64,
    /// The part of `input` that the provider had in its cache.
    pub cached: u64,
    pub output: u64,
}

/// A text that is no price per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    #[error("not a decimal number")]
    NoNumber,
    #[error("more than 6 decimals")]
    TooFine,
    #[error("too large")]
    TooLarge,
}

const PRICE_DECIMALS: usize = 6;
const MONEY_DECIMALS: usize = 9;

/// Reads a price.
///
/// Shape: `12`, `0.25`: digits, and at most 6 decimals after a point.
/// Units: a currency unit per million tokens; the answer is per token.
/// Errors: anything else, and a price beyond 64 bits.
pub fn parse_price(text: &str) -> Result<Pico, PriceError> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !digits(whole) || !digits(fraction) {
        return Err(PriceError::NoNumber);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > PRICE_DECIMALS {
        return Err(PriceError::TooFine);
    }
    let number = format!("{whole}{fraction:0<PRICE_DECIMALS$}");
    number.parse().map_err(|_| PriceError::TooLarge)
}

/// Writes a price per token so that [`parse_price`] reads the same one.
pub fn show_price(price: Pico) -> String {
    decimal(price, PRICE_DECIMALS)
}

/// Returns what `tokens` cost.
///
/// Units: billionths of a currency unit, rounded half up.
/// Errors: none; more cached than input counts as all cached, and the sum saturates.
pub fn cost_nano(price: &Price, tokens: Tokens) -> u64 {
    let cached = tokens.cached.min(tokens.input);
    let cost = |tokens: u64, price: Pico| u128::from(tokens) * u128::from(price);
    let pico = cost(tokens.input - cached, price.input)
        .saturating_add(cost(cached, price.cached_input))
        .saturating_add(cost(tokens.output, price.output));
    u64::try_from(pico.saturating_add(500) / 1_000).unwrap_or(u64::MAX)
}

/// Writes billionths of a currency unit as an exact decimal: `0.00125`, without zeros at its end.
pub fn show_money(nano: u64) -> String {
    decimal(nano, MONEY_DECIMALS)
}

fn decimal(number: u64, decimals: usize) -> String {
    let digits = format!("{number:0>width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    }
}

mod as_declared {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(price: &super::Pico, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::show_price(*price))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<super::Pico, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_price(&text).map_err(D::Error::custom)
    }
}

impl Add for Tokens {
    type Output = Tokens;

    fn add(self, other: Tokens) -> Tokens {
        Tokens {
            input: self.input.saturating_add(other.input),
            cached: self.cached.saturating_add(other.cached),
            output: self.output.saturating_add(other.output),
        }
    }
}

impl Sum for Tokens {
    fn sum<I: Iterator<Item = Tokens>>(all: I) -> Tokens {
        all.fold(Tokens::default(), Tokens::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(text: &str, pico: u64) {
        assert_eq!(parse_price(text), Ok(pico), "{text}");
    }

    fn no_price(text: &str, why: PriceError) {
        assert_eq!(parse_price(text), Err(why), "{text}");
    }

    fn cost(tokens: (u64, u64, u64), expected: &str) {
        let price = Price { input: 250_000, cached_input: 25_000, output: 2_000_000 };
        let (input, cached, output) = tokens;
        assert_eq!(show_money(cost_nano(&price, Tokens { input, cached, output })), expected, "{tokens:?}");
    }

    #[test]
    fn prices_are_read_exactly() {
        price("0.25", 250_000);
        price("2", 2_000_000);
        price("10.000000000", 10_000_000);
        price("0.000001", 1);
        price("0", 0);
        price("007.5", 7_500_000);
        price("18446744073709.551615", u64::MAX);
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for text in ["", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", "0x1", " 1", "1.2.3", "٣", "NaN", "$1"] {
            no_price(text, PriceError::NoNumber);
        }
        no_price("0.0000001", PriceError::TooFine);
        no_price("18446744073709.551616", PriceError::TooLarge);
        no_price(&"9".repeat(1_000), PriceError::TooLarge);
    }

    #[test]
    fn a_call_costs_its_input_its_cached_input_and_its_output() {
        cost((0, 0, 0), "0");
        cost((1_000_000, 0, 0), "0.25");
        cost((1_000_000, 1_000_000, 0), "0.025");
        cost((1_000, 600, 200), "0.000515");
        cost((5, 9, 0), "0.000000125");
        cost((4_000_000, 0, 1_000_000), "3");
    }

    #[test]
    fn a_cost_is_rounded_half_up_and_saturates() {
        let nano = |pico, input| {
            cost_nano(&Price { input: pico, ..Price::default() }, Tokens { input, ..Tokens::default() })
        };
        assert_eq!([nano(499, 1), nano(500, 1), nano(1_499, 1)], [0, 1, 1]);
        assert_eq!(nano(u64::MAX, u64::MAX), u64::MAX);
        let most = Price { input: u64::MAX, cached_input: u64::MAX, output: u64::MAX };
        assert_eq!(cost_nano(&most, Tokens { input: u64::MAX, cached: 1, output: u64::MAX }), u64::MAX);
    }

    #[test]
    fn money_is_written_without_zeros_at_its_end() {
        for (nano, text) in [
            (0, "0"),
            (1_250_000, "0.00125"),
            (1, "0.000000001"),
            (12_000_000_000, "12"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(show_money(nano), text);
        }
    }

    #[test]
    fn prices_in_json_are_decimal_strings() {
        let price = Price { input: 250_000, cached_input: 25_000, output: 2_000_000 };
        let json = r#"{"input":"0.25","cached_input":"0.025","output":"2"}"#;
        assert_eq!(serde_json::to_string(&price).expect("serialises"), json);
        assert_eq!(serde_json::from_str::<Price>(json).expect("reads back"), price);
        assert!(serde_json::from_str::<Price>(&json.replace("0.25", "x")).is_err());
    }

    proptest! {
        #[test]
        fn a_price_that_is_written_is_read_back(pico: u64) {
            prop_assert_eq!(parse_price(&show_price(pico)), Ok(pico));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_price(&text);
        }

        #[test]
        fn caching_never_makes_a_call_dearer(input: u32, cached: u32, output: u32, dear: u32, cheap: u32) {
            let price = Price { input: dear.max(cheap).into(), cached_input: dear.min(cheap).into(), output: 7 };
            let tokens = |cached: u32| Tokens { input: input.into(), cached: cached.into(), output: output.into() };
            prop_assert!(cost_nano(&price, tokens(cached)) <= cost_nano(&price, tokens(0)));
        }
    }
}
