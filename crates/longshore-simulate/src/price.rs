//! What tokens cost. Sums are whole numbers of a millionth of a millionth of a dollar, so nothing is rounded.

use std::fmt;
use std::str::FromStr;

/// Dollars for a million tokens, in millionths of a dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub input: u64,
    pub cached: u64,
    pub output: u64,
}

/// Prices by model; a name that ends in `*` stands for all that begin like it. The first that fits counts.
#[derive(Clone, Debug)]
pub struct Prices(pub Vec<(String, Price)>);

/// One dollar for a million tokens read, a tenth of it for cached ones, four for those written.
impl Default for Prices {
    fn default() -> Self {
        let price = Price { input: 1_000_000, cached: 100_000, output: 4_000_000 };
        Prices(vec![("*".to_owned(), price)])
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a price: write MODEL=INPUT/CACHED/OUTPUT in dollars per million tokens, such as gpt-5*=1.25/0.125/10"
)]
pub struct PriceError(String);

impl Prices {
    pub(crate) fn of(&self, model: &str) -> Option<Price> {
        let fits = |name: &str| match name.strip_suffix('*') {
            Some(start) => model.starts_with(start),
            None => model == name,
        };
        self.0.iter().find(|(name, _)| fits(name)).map(|(_, price)| *price)
    }

    /// Reads `MODEL=INPUT/CACHED/OUTPUT`.
    pub fn parse(text: &str) -> Result<(String, Price), PriceError> {
        let wrong = || PriceError(text.to_owned());
        let (model, price) = text.rsplit_once('=').ok_or_else(wrong)?;
        let price = price.parse().map_err(|()| wrong())?;
        if model.is_empty() { Err(wrong()) } else { Ok((model.to_owned(), price)) }
    }
}

impl FromStr for Price {
    type Err = ();

    fn from_str(text: &str) -> Result<Price, ()> {
        let mut parts = text.split('/').map(micros);
        let mut next = || parts.next().flatten().ok_or(());
        let price = Price { input: next()?, cached: next()?, output: next()? };
        if parts.next().is_some() { Err(()) } else { Ok(price) }
    }
}

/// A decimal of at most six places, in millionths.
fn micros(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 6 {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<6}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction)
}

/// A sum of money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost(u128);

impl Cost {
    /// `input` has the cached ones in it.
    pub(crate) fn of(price: Price, input: u64, cached: u64, output: u64) -> Cost {
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        Cost(
            part(input.saturating_sub(cached), price.input)
                + part(cached, price.cached)
                + part(output, price.output),
        )
    }

    pub(crate) fn add(&mut self, other: Cost) {
        self.0 += other.0;
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000_000_000, self.0 % 1_000_000_000_000);
        let text = format!("{whole}.{rest:012}");
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_and_the_first_that_fits_counts() {
        let read = |text| Prices::parse(text).expect(text);
        let prices = Prices(vec![read("gpt-5-mini=0.25/0.025/2"), read("gpt-5*=1.25/0.125/10.00")]);
        assert_eq!(prices.of("gpt-5-mini").map(|price| price.cached), Some(25_000));
        assert_eq!(prices.of("gpt-5.2").map(|price| price.output), Some(10_000_000));
        assert_eq!(prices.of("claude"), None);
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for text in
            ["", "a", "a=1", "a=1/2", "a=1/2/3/4", "a=1/x/3", "a=-1/2/3", "=1/2/3", "a=1/2/.5", "a=1/2/1e3"]
        {
            assert!(Prices::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn costs_are_exact_decimals() {
        let price = Price { input: 250_000, cached: 25_000, output: 2_000_000 };
        let check = |input, cached, output, shown: &str| {
            assert_eq!(Cost::of(price, input, cached, output).to_string(), shown);
        };
        check(0, 0, 0, "0");
        check(1, 0, 0, "0.00000025");
        check(1_000_000, 0, 1_000_000, "2.25");
        check(1000, 1000, 0, "0.000025");
    }
}
