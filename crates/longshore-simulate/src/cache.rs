//! The provider's prompt cache: which beginnings of prompts were seen before.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Mutex, PoisonError};

/// Prompts are compared in blocks of so many bytes, from their beginning.
const BLOCK: usize = 1024;
const TOKENS_A_BLOCK: u64 = BLOCK as u64 / 4;
/// Then the memory is emptied: real ones forget, too.
const MOST: usize = 1 << 20;

/// The text of a request, as far as its size and its beginnings go.
pub(crate) struct Prompt {
    chars: u64,
    hasher: DefaultHasher,
    in_block: usize,
    /// After each full block, a hash of everything up to there.
    beginnings: Vec<u64>,
}

impl Prompt {
    pub(crate) fn new(model: &str) -> Prompt {
        let mut hasher = DefaultHasher::new();
        hasher.write(model.as_bytes());
        Prompt { chars: 0, hasher, in_block: 0, beginnings: Vec::new() }
    }

    pub(crate) fn push(&mut self, text: &str) {
        self.chars += text.chars().count() as u64;
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK - self.in_block));
            self.hasher.write(now);
            self.in_block += now.len();
            if self.in_block == BLOCK {
                self.beginnings.push(self.hasher.finish());
                self.in_block = 0;
            }
            rest = later;
        }
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.chars.div_ceil(4).max(1)
    }
}

#[derive(Default)]
pub(crate) struct PromptCache(Mutex<HashSet<u64>>);

impl PromptCache {
    /// How many tokens at the beginning were seen before.
    pub(crate) fn cached(&self, prompt: &Prompt) -> u64 {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = prompt.beginnings.iter().take_while(|beginning| seen.contains(beginning)).count();
        (known as u64 * TOKENS_A_BLOCK).min(prompt.tokens())
    }

    pub(crate) fn remember(&self, prompt: &Prompt) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() > MOST {
            seen.clear();
        }
        seen.extend(&prompt.beginnings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(parts: &[&str]) -> Prompt {
        let mut prompt = Prompt::new("m");
        parts.iter().for_each(|part| prompt.push(part));
        prompt
    }

    #[test]
    fn a_repeated_beginning_is_cached_however_it_is_cut() {
        let (cache, long) = (PromptCache::default(), "a".repeat(2500));
        assert_eq!(cache.cached(&prompt(&[&long])), 0);
        cache.remember(&prompt(&[&long]));
        assert_eq!(cache.cached(&prompt(&[&long[..100], &long[100..], "more"])), 512);
        assert_eq!(cache.cached(&prompt(&["b", &long])), 0);
        assert_eq!(cache.cached(&prompt(&["short"])), 0);
    }
}
