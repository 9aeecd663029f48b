//! The bytes of one answer, in the pieces in which a stream sends them.

use std::fmt;
use std::io::Write;

use bytes::Bytes;
use serde::Serialize;

#[derive(Default)]
pub(crate) struct Script {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    finishing: Option<usize>,
    tokens: u64,
}

/// One event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) end: usize,
    /// So many tokens must be there before it can be sent.
    pub(crate) tokens: u64,
}

/// A script that is done: what is sent, in which pieces.
#[derive(Clone)]
pub(crate) struct Played {
    pub(crate) bytes: Bytes,
    pub(crate) frames: Vec<Frame>,
    /// The first frame that tells an end; there is one in every script.
    pub(crate) finishing: usize,
}

impl Script {
    /// An answer that is no stream.
    pub(crate) fn whole(answer: &impl Serialize, tokens: u64) -> Script {
        let mut script = Script { tokens, ..Script::default() };
        serde_json::to_writer(&mut script.bytes, answer).expect("plain data always serialises");
        script.end_frame();
        script
    }

    /// From the next event on, so many more tokens are there.
    pub(crate) fn generated(&mut self, tokens: u64) {
        self.tokens += tokens;
    }

    /// The next event tells an end.
    pub(crate) fn finishing(&mut self) {
        self.finishing.get_or_insert(self.frames.len());
    }

    pub(crate) fn event(&mut self, name: Option<&str>, data: &impl Serialize) {
        self.open(name);
        serde_json::to_writer(&mut self.bytes, data).expect("plain data always serialises");
        self.close();
    }

    /// The same with data that is written already; streams have many of them.
    pub(crate) fn written(&mut self, name: Option<&str>, data: fmt::Arguments<'_>) {
        self.open(name);
        self.bytes.write_fmt(data).expect("a vector takes every byte");
        self.close();
    }

    fn open(&mut self, name: Option<&str>) {
        if let Some(name) = name {
            self.bytes.extend_from_slice(b"event: ");
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.push(b'\n');
        }
        self.bytes.extend_from_slice(b"data: ");
    }

    fn close(&mut self) {
        self.bytes.extend_from_slice(b"\n\n");
        self.end_frame();
    }

    fn end_frame(&mut self) {
        self.frames.push(Frame { end: self.bytes.len(), tokens: self.tokens });
    }

    pub(crate) fn play(self) -> Played {
        let finishing = self.finishing.unwrap_or(self.frames.len());
        Played { bytes: Bytes::from(self.bytes), frames: self.frames, finishing }
    }
}

impl Played {
    /// Frames `from..to`.
    pub(crate) fn slice(&self, from: usize, to: usize) -> Bytes {
        self.bytes.slice(self.start(from)..self.start(to))
    }

    fn start(&self, frame: usize) -> usize {
        if frame == 0 { 0 } else { self.frames[frame - 1].end }
    }

    /// Half of a frame in the middle is lost, the rest follows as if nothing had been.
    pub(crate) fn mangled(self) -> Played {
        let hit = (self.frames.len() / 2).min(self.finishing.saturating_sub(1));
        let (start, end) = (self.start(hit), self.frames[hit].end);
        // A stream's events end with an empty line, and go on after it.
        let (middle, tail): (usize, &[u8]) =
            if self.frames.len() > 1 { (end - (end - start) / 2, b"\n\n") } else { ((start + end) / 2, b"") };
        let lost = end - middle - tail.len().min(end - middle);
        let mut bytes = self.bytes[..middle].to_vec();
        bytes.extend_from_slice(tail);
        bytes.extend_from_slice(&self.bytes[end..]);
        let moved = |(at, frame): (usize, Frame)| Frame {
            end: frame.end - if at >= hit { lost } else { 0 },
            ..frame
        };
        let frames = self.frames.into_iter().enumerate().map(moved).collect();
        Played { bytes: Bytes::from(bytes), frames, finishing: self.finishing }
    }

    /// An answer that is no stream, in two halves, so that it can be cut between them.
    pub(crate) fn halved(mut self) -> Played {
        let whole =
            Frame { end: self.bytes.len(), tokens: self.frames.last().map_or(0, |frame| frame.tokens) };
        self.frames = vec![Frame { end: whole.end / 2, ..whole }, whole];
        self.finishing = 1;
        self
    }

    /// All in one piece, of other bytes.
    pub(crate) fn replaced(&self, bytes: Vec<u8>) -> Played {
        let frame = Frame { end: bytes.len(), tokens: self.frames.last().map_or(0, |frame| frame.tokens) };
        Played { bytes: Bytes::from(bytes), frames: vec![frame], finishing: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_hold_whole_events_and_a_mangled_one_still_ends() {
        let mut script = Script::default();
        for number in 0..5 {
            script.generated(4);
            if number == 4 {
                script.finishing();
            }
            script.event(None, &serde_json::json!({"some_text": number}));
        }
        let played = script.play();
        assert_eq!(played.slice(1, 2), "data: {\"some_text\":1}\n\n");
        assert_eq!((played.finishing, played.frames[2].tokens), (4, 12));
        let mangled = played.mangled();
        let hit = mangled.slice(2, 3);
        assert!(hit.ends_with(b"\n\n") && !hit.ends_with(b"}\n\n"), "{hit:?}");
        assert_eq!(mangled.slice(4, 5), "data: {\"some_text\":4}\n\n");
    }

    #[test]
    fn a_mangled_whole_answer_is_half_of_it() {
        let mangled = Script::whole(&serde_json::json!({"a": 1}), 4).play().mangled();
        assert_eq!(mangled.bytes, "{\"a");
        assert_eq!(mangled.frames.last().map(|frame| frame.end), Some(3));
    }
}
