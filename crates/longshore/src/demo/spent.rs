//! What LLM calls came to: as the tasks' journals say, and as the provider's bill says. Pure.

use std::ops::Add;

use longshore_api::journal::Calls;
use longshore_core::provider::show_money;
use longshore_simulate::Bill;

/// What a journal says, of one task or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Answers that were bought.
    pub live: u64,
    pub replayed: u64,
    pub maybe_billed: u64,
    pub input: u64,
    pub cached: u64,
    pub output: u64,
    pub saved_tokens: u64,
    /// Billionths of a dollar.
    pub cost: u64,
    pub saved: u64,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount of money")]
pub struct NotMoney(String);

impl Spent {
    pub fn read(calls: &Calls) -> Result<Spent, NotMoney> {
        Ok(Spent {
            live: calls.live,
            replayed: calls.replayed,
            maybe_billed: calls.maybe_billed,
            input: calls.input_tokens,
            cached: calls.cached_tokens,
            output: calls.output_tokens,
            saved_tokens: calls.saved_tokens,
            cost: nano(&calls.cost)?,
            saved: nano(&calls.saved)?,
        })
    }
}

impl Add for Spent {
    type Output = Spent;

    fn add(self, other: Spent) -> Spent {
        Spent {
            live: self.live + other.live,
            replayed: self.replayed + other.replayed,
            maybe_billed: self.maybe_billed + other.maybe_billed,
            input: self.input + other.input,
            cached: self.cached + other.cached,
            output: self.output + other.output,
            saved_tokens: self.saved_tokens + other.saved_tokens,
            cost: self.cost + other.cost,
            saved: self.saved + other.saved,
        }
    }
}

/// Reads an exact decimal of at most nine places, in billionths.
fn nano(text: &str) -> Result<u64, NotMoney> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let read = || {
        let fraction = format!("{fraction:0<9}").parse::<u64>().ok()?;
        whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction)
    };
    match digits(whole) && digits(fraction) && fraction.len() <= 9 {
        true => read().ok_or_else(|| NotMoney(text.to_owned())),
        false => Err(NotMoney(text.to_owned())),
    }
}

/// What did not hold between the journals and the bill, in words.
pub fn broken(spent: &Spent, bill: &Bill) -> Vec<String> {
    let (distinct, totals) = (bill.distinct, &bill.totals);
    let Spent { live, maybe_billed, .. } = *spent;
    let received = totals.received;
    let rules = [
        (live > 0, "no LLM call went through the gateway".to_owned()),
        (live <= distinct, format!("{live} answers were bought for {distinct} different requests")),
        (
            received <= distinct + maybe_billed,
            format!(
                "the provider received {received} calls: {distinct} different ones, and {maybe_billed} may be billed twice"
            ),
        ),
        (totals.open() == 0, format!("{} calls were open at the end", totals.open())),
        (agree(spent, bill), differ(spent, bill)),
    ];
    rules.into_iter().filter(|(holds, _)| !holds).map(|(_, words)| words).collect()
}

/// To the token and to the cent's last fraction, unless calls broke off: what those cost, only the provider knows.
fn agree(spent: &Spent, bill: &Bill) -> bool {
    let totals = &bill.totals;
    let unknown = spent.maybe_billed + totals.broken;
    let journal = (spent.live, spent.input, spent.cached, spent.output);
    let billed = (totals.answered, totals.input_tokens, totals.cached_tokens, totals.output_tokens);
    match unknown {
        0 => journal == billed && show_money(spent.cost) == totals.cost,
        _ => {
            (spent.live..=spent.live + spent.maybe_billed).contains(&totals.answered)
                && spent.input <= totals.input_tokens
                && spent.output <= totals.output_tokens
        }
    }
}

fn differ(spent: &Spent, bill: &Bill) -> String {
    let totals = &bill.totals;
    format!(
        "the journals have {} answers of {} tokens for ${}, the provider's bill {} of {} for ${}",
        spent.live,
        spent.input + spent.output,
        show_money(spent.cost),
        totals.answered,
        totals.input_tokens + totals.output_tokens,
        totals.cost
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_simulate::Totals;

    #[test]
    fn money_is_read_back_as_it_was_written() {
        for amount in [0, 1, 999_999_999, 1_000_000_000, 12_345_678_901] {
            assert_eq!(nano(&show_money(amount)), Ok(amount));
        }
        for wrong in ["", ".", "1.", "-1", "1.0000000001", "1e3", "99999999999999999999"] {
            assert_eq!(nano(wrong), Err(NotMoney(wrong.into())));
        }
    }

    fn good() -> (Spent, Bill) {
        let spent = Spent { live: 9, replayed: 2, input: 70, output: 90, cost: 987_500, ..Spent::default() };
        let totals = Totals {
            received: 9,
            answered: 9,
            input_tokens: 70,
            output_tokens: 90,
            cost: "0.0009875".into(),
            ..Totals::default()
        };
        (spent, Bill { distinct: 9, totals, requests: Vec::new() })
    }

    fn check(change: impl FnOnce(&mut Spent, &mut Bill), expected: &[&str]) {
        let (mut spent, mut bill) = good();
        change(&mut spent, &mut bill);
        assert_eq!(broken(&spent, &bill), expected);
    }

    #[test]
    fn journals_that_are_as_the_bill_break_nothing() {
        check(|_, _| {}, &[]);
    }

    #[test]
    fn an_answer_that_was_bought_twice_is_told() {
        let twice = |spent: &mut Spent, bill: &mut Bill| {
            (spent.live, bill.totals.received, bill.totals.answered) = (10, 10, 10);
        };
        let expected = [
            "10 answers were bought for 9 different requests",
            "the provider received 10 calls: 9 different ones, and 0 may be billed twice",
        ];
        check(twice, &expected);
    }

    #[test]
    fn a_call_that_broke_off_may_have_been_made_again() {
        let broke = |spent: &mut Spent, bill: &mut Bill| {
            spent.maybe_billed = 1;
            (bill.totals.received, bill.totals.broken) = (10, 1);
            // Only the provider knows what it had written by then.
            bill.totals.output_tokens += 5;
        };
        check(broke, &[]);
        let unknown = |spent: &mut Spent, bill: &mut Bill| {
            broke(spent, bill);
            spent.maybe_billed = 0;
        };
        check(unknown, &["the provider received 10 calls: 9 different ones, and 0 may be billed twice"]);
    }

    #[test]
    fn tokens_and_money_must_agree() {
        let words = "the journals have 9 answers of 160 tokens for $0.0009875, the provider's bill 9 of ";
        let differs = |rest: &str| format!("{words}{rest}");
        check(|_, bill| bill.totals.output_tokens = 91, &[&differs("161 for $0.0009875")]);
        check(|_, bill| bill.totals.cost = "0.001".into(), &[&differs("160 for $0.001")]);
    }

    #[test]
    fn no_calls_and_open_calls_are_told() {
        let none = |spent: &mut Spent, bill: &mut Bill| {
            (*spent, *bill) = (
                Spent::default(),
                Bill { totals: Totals { cost: "0".into(), ..Totals::default() }, ..Bill::default() },
            )
        };
        check(none, &["no LLM call went through the gateway"]);
        check(|_, bill| (bill.distinct, bill.totals.received) = (10, 10), &["1 calls were open at the end"]);
    }
}
