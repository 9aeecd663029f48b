//! How many tokens an answer cost, from each provider's own way to say it.

use crate::fields::Fields;

/// Tokens of one answer. `input` is all that was sent, `cached` the part of it that came from the provider's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input: u64,
    pub cached: u64,
    pub output: u64,
}

/// Reads OpenAI's usage object: chat and completions, embeddings and responses differ only in the names.
pub(crate) fn openai(usage: &Fields<'_>) -> Option<Usage> {
    let either = |one, other| usage.number(one).or_else(|| usage.number(other));
    let input = either("prompt_tokens", "input_tokens");
    let output = either("completion_tokens", "output_tokens");
    // Some embedding servers say the total alone; an embedding has no output, so it is the input.
    let input = input.or_else(|| usage.number("total_tokens").filter(|_| output.is_none()));
    if input.is_none() && output.is_none() {
        return None;
    }
    let details = usage.fields("prompt_tokens_details").or_else(|| usage.fields("input_tokens_details"));
    let cached = details.and_then(|details| details.number("cached_tokens")).unwrap_or(0);
    let input = input.unwrap_or(0);
    Some(Usage { input, cached: cached.min(input), output: output.unwrap_or(0) })
}

/// Anthropic's counts, which a stream tells in instalments: each later one replaces what it repeats.
#[derive(Debug, Default)]
pub(crate) struct Anthropic {
    uncached: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
    output: Option<u64>,
}

impl Anthropic {
    pub fn add(&mut self, usage: &Fields<'_>) {
        let take = |slot: &mut Option<u64>, name| *slot = usage.number(name).or(*slot);
        take(&mut self.uncached, "input_tokens");
        take(&mut self.read, "cache_read_input_tokens");
        take(&mut self.written, "cache_creation_input_tokens");
        take(&mut self.output, "output_tokens");
    }

    /// Anthropic's `input_tokens` leaves out what was read from or written to the cache.
    pub fn usage(&self) -> Option<Usage> {
        self.uncached.or(self.output)?;
        let [uncached, cached, written] =
            [self.uncached, self.read, self.written].map(Option::unwrap_or_default);
        let input = uncached.saturating_add(cached).saturating_add(written);
        Some(Usage { input, cached, output: self.output.unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(u64, u64, u64)>) {
        let read = openai(&Fields::read(text).expect("an object"));
        assert_eq!(read.map(|usage| (usage.input, usage.cached, usage.output)), expected, "{text}");
    }

    #[test]
    fn each_openai_spelling_is_read() {
        check(
            r#"{"prompt_tokens":20,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":16}}"#,
            Some((20, 16, 7)),
        );
        check(r#"{"prompt_tokens":20,"completion_tokens":7,"prompt_tokens_details":null}"#, Some((20, 0, 7)));
        check(
            r#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":1}"#,
            Some((9, 4, 1)),
        );
        check(r#"{"prompt_tokens":8,"total_tokens":8}"#, Some((8, 0, 0)));
        check(r#"{"total_tokens":8}"#, Some((8, 0, 0)));
    }

    #[test]
    fn odd_counts_are_no_counts() {
        check("{}", None);
        check(r#"{"prompt_tokens":"many","completion_tokens":-1}"#, None);
        check(r#"{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":99}}"#, Some((3, 3, 0)));
    }

    #[test]
    fn anthropic_counts_are_put_together() {
        let mut counts = Anthropic::default();
        assert_eq!(counts.usage(), None);
        for text in [
            r#"{"input_tokens":5,"cache_read_input_tokens":100,"cache_creation_input_tokens":10,"output_tokens":1}"#,
            r#"{"output_tokens":40,"cache_read_input_tokens":null}"#,
        ] {
            counts.add(&Fields::read(text).expect("an object"));
        }
        assert_eq!(counts.usage(), Some(Usage { input: 115, cached: 100, output: 40 }));
    }
}
