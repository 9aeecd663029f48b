//! Sorts an agent's output as it comes: events, log lines, text for the result, last words.
//!
//! Memory is bounded whatever an agent writes, in whatever pieces: nothing here grows beyond the result's limit.

use longshore_core::json::Json;
use longshore_core::task::Failure;
use longshore_core::wait::Awaits;

use crate::said::{self, Said};

/// Log lines are cut to this many bytes.
pub const LOG_LINE: usize = 8 << 10;

/// An event line may be this much longer than the largest result.
const EVENT_FRAME: usize = 64 << 10;

/// What a line of output means to the outside.
pub enum Line<'a> {
    Log(&'a [u8]),
    Progress(Json),
    Message(Json),
    Odd(String),
}

/// The agent wrote more than a result may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Standard output of one attempt.
#[derive(Debug)]
pub struct Output {
    limit: usize,
    line: Vec<u8>,
    kind: Kind,
    text: Vec<u8>,
    /// More text than a result may hold: a log, unless the agent leaves it at that.
    too_much_text: bool,
    result: Option<Json>,
    error: Option<Failure>,
    wait: Option<Awaits>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing but blanks so far.
    Blank,
    /// Began with `{`: may be an event, so it is kept whole.
    Object,
    Plain,
}

impl Output {
    pub fn new(limit: usize) -> Output {
        Output {
            limit,
            line: Vec::new(),
            kind: Kind::Blank,
            text: Vec::new(),
            too_much_text: false,
            result: None,
            error: None,
            wait: None,
        }
    }

    pub fn push(&mut self, bytes: &[u8], tell: &mut impl FnMut(Line)) -> Result<(), TooLarge> {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            self.add(&bytes[start..=end]);
            self.end_line(tell)?;
            start = end + 1;
        }
        self.add(&bytes[start..]);
        Ok(())
    }

    /// Takes what has no newline after it.
    pub fn finish(&mut self, tell: &mut impl FnMut(Line)) -> Result<(), TooLarge> {
        if self.line.is_empty() { Ok(()) } else { self.end_line(tell) }
    }

    /// The `error` event, if there was one.
    pub fn error(&mut self) -> Option<Failure> {
        self.error.take()
    }

    /// What its task is to wait for. A result says that the work is done: then nothing.
    pub fn wait(&mut self) -> Option<Awaits> {
        self.wait.take().filter(|_| self.result.is_none())
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether there was a `result` event, or one that says what to wait for: the attempt has come to its end.
    pub fn is_whole(&self) -> bool {
        self.result.is_some() || self.wait.is_some()
    }

    /// The `result` event's data, or else the text that is left, without its last line's end.
    ///
    /// Errors: [`TooLarge`] when the text, written as a JSON string, holds more than the limit.
    pub fn result(self) -> Result<Json, TooLarge> {
        if let Some(result) = self.result {
            return Ok(result);
        }
        if self.too_much_text {
            return Err(TooLarge);
        }
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let json = Json::string(&String::from_utf8_lossy(text));
        // Control characters grow sixfold.
        if json.text().len() > self.limit.saturating_add(2) { Err(TooLarge) } else { Ok(json) }
    }

    fn add(&mut self, piece: &[u8]) {
        if self.kind == Kind::Blank {
            match piece.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{') => self.kind = Kind::Object,
                None if self.line.len() + piece.len() <= LOG_LINE => {}
                _ => {
                    self.kind = Kind::Plain;
                    let line = std::mem::take(&mut self.line);
                    self.keep_text(&line);
                    self.line = line;
                }
            }
        }
        match self.kind {
            Kind::Plain => {
                self.line.extend_from_slice(head(piece, LOG_LINE.saturating_sub(self.line.len())));
                self.keep_text(piece)
            }
            Kind::Blank | Kind::Object => self.add_to_object(piece),
        }
    }

    fn add_to_object(&mut self, piece: &[u8]) {
        if self.line.len() + piece.len() <= self.limit + EVENT_FRAME {
            self.line.extend_from_slice(piece);
            return;
        }
        // Too long for an event, so it is a log line; and too long for a result.
        self.kind = Kind::Plain;
        self.line.truncate(LOG_LINE);
        self.line.shrink_to_fit();
        self.drop_text();
    }

    fn end_line(&mut self, tell: &mut impl FnMut(Line)) -> Result<(), TooLarge> {
        let line = std::mem::take(&mut self.line);
        let kind = std::mem::replace(&mut self.kind, Kind::Blank);
        let said = if kind == Kind::Object { said::parse(&line) } else { None };
        match said {
            Some(said) => self.hear(said, tell)?,
            None => {
                if kind != Kind::Plain {
                    self.keep_text(&line);
                }
                tell(Line::Log(head(trim_end(&line), LOG_LINE)));
            }
        }
        // One buffer for all lines, but a huge one is given back.
        if line.capacity() <= 2 * LOG_LINE {
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    fn hear(&mut self, said: Said, tell: &mut impl FnMut(Line)) -> Result<(), TooLarge> {
        match said {
            Said::Progress(data) => tell(Line::Progress(data)),
            Said::Message(data) => tell(Line::Message(data)),
            Said::Odd(why) => tell(Line::Odd(why)),
            Said::Error(failure) => self.error = Some(failure),
            Said::Wait(awaits) => self.wait = Some(awaits),
            Said::Result(data) if data.text().len() > self.limit => return Err(TooLarge),
            Said::Result(data) => {
                self.result = Some(data);
                self.text = Vec::new();
            }
        }
        Ok(())
    }

    fn keep_text(&mut self, piece: &[u8]) {
        if self.result.is_some() || self.too_much_text {
            return;
        }
        // One more for the last line's end, which does not count.
        if self.text.len() + piece.len() > self.limit.saturating_add(1) {
            return self.drop_text();
        }
        self.text.extend_from_slice(piece);
    }

    /// An agent that logs to standard output may say its result later: only if it does not, this was too much.
    fn drop_text(&mut self) {
        self.too_much_text = true;
        self.text = Vec::new();
    }
}

/// Cuts a stream into log lines; longer ones lose their end.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
}

impl Lines {
    pub fn push(&mut self, bytes: &[u8], tell: &mut impl FnMut(&[u8])) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            self.add(&bytes[start..end]);
            tell(trim_end(&self.line));
            self.line.clear();
            start = end + 1;
        }
        self.add(&bytes[start..]);
    }

    pub fn finish(&mut self, tell: &mut impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            tell(trim_end(&self.line));
            self.line.clear();
        }
    }

    fn add(&mut self, piece: &[u8]) {
        self.line.extend_from_slice(head(piece, LOG_LINE.saturating_sub(self.line.len())));
    }
}

/// The last words of a stream: what a failure's reason is made of.
#[derive(Debug, Default)]
pub struct Tail {
    kept: Vec<u8>,
}

impl Tail {
    const KEPT: usize = 2 << 10;
    const LINES: usize = 10;

    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(Self::KEPT)..];
        let over = (self.kept.len() + bytes.len()).saturating_sub(Self::KEPT);
        self.kept.drain(..over);
        self.kept.extend_from_slice(bytes);
    }

    /// At most ten lines and 2 KiB, without blanks around them.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let lines: Vec<&str> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(Self::LINES)..].join("\n")
    }
}

fn head(bytes: &[u8], most: usize) -> &[u8] {
    &bytes[..bytes.len().min(most)]
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100_000;

    /// Result, and what was told, the same however the bytes are cut.
    fn check(written: &[u8], result: Result<&str, TooLarge>, told: &[&str]) {
        for step in [1, 2, 7, 4096, usize::MAX] {
            if step == 1 && written.len() > 10_000 {
                continue;
            }
            let (mut output, mut lines) = (Output::new(LIMIT), Vec::new());
            let mut tell = |line: Line| {
                lines.push(match line {
                    Line::Log(line) => format!("log {}", String::from_utf8_lossy(head(line, 40))),
                    Line::Progress(data) => format!("progress {}", data.text()),
                    Line::Message(data) => format!("message {}", data.text()),
                    Line::Odd(why) => format!("odd {why}"),
                });
            };
            let pushed = written
                .chunks(step.min(written.len().max(1)))
                .try_for_each(|part| output.push(part, &mut tell));
            let done = pushed.and_then(|()| output.finish(&mut tell)).and_then(|()| output.result());
            assert_eq!(done.as_ref().map(Json::text), result.as_ref().copied(), "step {step}");
            assert_eq!(lines, told, "step {step}");
        }
    }

    #[test]
    fn text_without_events_is_the_result() {
        check(b"hello\n", Ok(r#""hello""#), &["log hello"]);
        check(b"two\n  lines\r\n", Ok(r#""two\n  lines""#), &["log two", "log   lines"]);
        check(b"no newline", Ok(r#""no newline""#), &["log no newline"]);
        check(b"", Ok(r#""""#), &[]);
    }

    #[test]
    fn events_are_taken_out_of_the_text() {
        let written =
            b"a\n{\"longshore\":\"progress\",\"data\":1}\nb\n{\"longshore\":\"message\",\"data\":\"m\"}";
        check(written, Ok(r#""a\nb""#), &["log a", "progress 1", "log b", "message \"m\""]);
    }

    #[test]
    fn a_result_event_beats_the_text_and_the_last_one_counts() {
        let written = b"noise\n{\"longshore\":\"result\",\"data\":1}\n{\"longshore\":\"result\",\"data\":{\"a\":2}}\nmore\n";
        check(written, Ok(r#"{"a":2}"#), &["log noise", "log more"]);
    }

    #[test]
    fn json_log_lines_stay_text() {
        let written = b"{\"type\":\"result\",\"data\":1}\n  {\"half\": \n";
        let told = ["log {\"type\":\"result\",\"data\":1}", "log   {\"half\": "];
        check(written, Ok(r#""{\"type\":\"result\",\"data\":1}\n  {\"half\": ""#), &told);
    }

    #[test]
    fn half_a_character_is_replaced() {
        check(b"caf\xc3", Ok("\"caf\u{fffd}\""), &["log caf\u{fffd}"]);
    }

    #[test]
    fn text_up_to_the_limit_fits_and_more_does_not() {
        let line = "x".repeat(LIMIT);
        let told = format!("log {}", "x".repeat(40));
        check(format!("{line}\n").as_bytes(), Ok(&format!("\"{line}\"")), &[&told]);
        check(format!("{line}xx").as_bytes(), Err(TooLarge), &[&told]);
        check(&[0; LIMIT / 2], Err(TooLarge), &[&format!("log {}", "\0".repeat(40))]);
    }

    #[test]
    fn a_long_event_fits_if_its_data_does() {
        let event = |size| format!("{{\"longshore\":\"result\",\"data\":\"{}\"}}\n", "x".repeat(size));
        check(event(LIMIT - 2).as_bytes(), Ok(&format!("\"{}\"", "x".repeat(LIMIT - 2))), &[]);
        check(event(LIMIT).as_bytes(), Err(TooLarge), &[]);
    }

    #[test]
    fn an_agent_may_log_more_than_a_result_holds_before_it_says_its_result() {
        let mut output = Output::new(1000);
        let mut tell = |_: Line| {};
        for piece in ["x", "{", " "] {
            output.push(piece.repeat(300_000).as_bytes(), &mut tell).expect("only a log line");
            output.push(b"\n", &mut tell).expect("only a log line");
        }
        assert!(output.line.capacity() < 200_000 && output.text.is_empty());
        output.push(b"{\"longshore\":\"result\",\"data\":1}\n", &mut tell).expect("fits");
        assert_eq!(output.result().expect("there").text(), "1");
    }

    #[test]
    fn after_a_result_an_agent_may_log_what_it_likes() {
        let mut output = Output::new(1000);
        let mut tell = |_: Line| {};
        output.push(b"{\"longshore\":\"result\",\"data\":1}\n", &mut tell).expect("fits");
        for piece in ["x", "{", " "] {
            output.push(piece.repeat(300_000).as_bytes(), &mut tell).expect("only a log line");
            output.push(b"\n", &mut tell).expect("only a log line");
        }
        assert!(output.line.capacity() < 200_000 && output.text.is_empty());
        assert_eq!(output.result().expect("there").text(), "1");
    }

    #[test]
    fn last_words_are_ten_lines_at_most() {
        let mut tail = Tail::default();
        for n in 0..100 {
            tail.push(format!("line {n}\n").as_bytes());
        }
        assert!(tail.text().starts_with("line 90\n") && tail.text().ends_with("line 99"), "{}", tail.text());
        tail.push(&[b'x'; 1 << 20]);
        assert_eq!(tail.text().len(), 2048);
    }
}
