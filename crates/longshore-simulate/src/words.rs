//! Plain words of a wanted length. They mean nothing.

use crate::draw::Draw;

const WORDS: &[&str] = &[
    "after", "again", "agent", "all", "also", "and", "answer", "any", "ask", "at", "back", "because",
    "before", "begin", "best", "between", "boat", "book", "both", "bring", "build", "but", "call", "can",
    "careful", "change", "check", "city", "clear", "close", "cold", "come", "cost", "count", "course",
    "data", "day", "deep", "detail", "do", "down", "each", "early", "end", "even", "every", "fact", "far",
    "find", "first", "follow", "for", "form", "from", "full", "give", "go", "good", "great", "group", "grow",
    "half", "hand", "harbour", "have", "hold", "hour", "house", "how", "idea", "if", "in", "into", "it",
    "keep", "kind", "know", "large", "last", "late", "lead", "learn", "leave", "less", "light", "like",
    "line", "list", "little", "load", "long", "look", "make", "many", "map", "mean", "meet", "mind", "more",
    "most", "move", "much", "near", "need", "new", "next", "night", "north", "note", "now", "number", "of",
    "often", "on", "one", "only", "open", "order", "other", "over", "own", "page", "part", "place", "plan",
    "point", "port", "quay", "quick", "quiet", "read", "reason", "rest", "result", "right", "river", "road",
    "round", "run", "same", "say", "sea", "see", "send", "set", "several", "ship", "short", "show", "side",
    "simple", "small", "so", "some", "soon", "sort", "start", "state", "stay", "step", "still", "stop",
    "story", "such", "take", "task", "tell", "than", "that", "the", "then", "there", "these", "thing",
    "this", "through", "tide", "time", "to", "together", "try", "turn", "two", "under", "until", "up", "use",
    "very", "wait", "walk", "want", "water", "way", "well", "west", "what", "when", "where", "which",
    "while", "why", "wide", "wind", "with", "word", "work", "year",
];

pub(crate) fn word(draw: &mut Draw) -> &'static str {
    draw.pick(WORDS).expect("there are words")
}

/// A piece of an answer, as long as a stream sends at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) text: String,
    pub(crate) tokens: u64,
}

const TOKENS_A_CHUNK: u64 = 4;

/// Words of `tokens` tokens, one token each, that begin with what tells this request from others.
pub(crate) fn prose(tag: &str, tokens: u64, draw: &mut Draw) -> Vec<Chunk> {
    let mut chunks = Vec::with_capacity(tokens.div_ceil(TOKENS_A_CHUNK) as usize);
    for at in 0..tokens {
        if at % TOKENS_A_CHUNK == 0 {
            chunks.push(Chunk { text: String::with_capacity(32), tokens: 0 });
        }
        let last = chunks.last_mut().expect("pushed at the first token");
        match at {
            0 => last.text.push_str("Re"),
            1 => {
                last.text.push(' ');
                last.text.push_str(tag);
                last.text.push(':');
            }
            _ => {
                last.text.push(' ');
                last.text.push_str(word(draw));
                if at + 1 == tokens {
                    last.text.push('.');
                }
            }
        }
        last.tokens += 1;
    }
    chunks
}

/// Any other text, such as JSON, in pieces of four tokens of four characters; at most `tokens` of them.
pub(crate) fn pieces(text: &str, tokens: u64) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let (mut rest, mut left) = (text, tokens);
    while !rest.is_empty() && left > 0 {
        let most = left.min(TOKENS_A_CHUNK) as usize * 4;
        let end = rest.char_indices().nth(most).map_or(rest.len(), |(at, _)| at);
        let taken = tokens_of(&rest[..end]);
        chunks.push(Chunk { text: rest[..end].to_owned(), tokens: taken });
        (rest, left) = (&rest[end..], left - taken);
    }
    chunks
}

/// Four characters a token.
pub(crate) fn tokens_of(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4)
}

pub(crate) fn joined(chunks: &[Chunk]) -> String {
    chunks.iter().map(|chunk| chunk.text.as_str()).collect()
}

pub(crate) fn tokens_in(chunks: &[Chunk]) -> u64 {
    chunks.iter().map(|chunk| chunk.tokens).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prose_has_the_wanted_tokens(tokens in 0u64..200) {
            let chunks = prose("1a2b", tokens, &mut Draw::new(1, &Digest::of(b""), "text"));
            prop_assert_eq!(tokens_in(&chunks), tokens);
            prop_assert_eq!(joined(&chunks).split_whitespace().count() as u64, tokens);
        }

        #[test]
        fn pieces_put_together_are_the_text(text in "\\PC{0,80}") {
            let chunks = pieces(&text, u64::MAX);
            prop_assert_eq!(joined(&chunks), text.clone());
            prop_assert_eq!(tokens_in(&chunks), tokens_of(&text));
        }

        #[test]
        fn cut_pieces_keep_to_their_tokens(text in "\\PC{0,80}", most in 0u64..10) {
            let chunks = pieces(&text, most);
            prop_assert!(tokens_in(&chunks) <= most && text.starts_with(&joined(&chunks)));
        }
    }
}
