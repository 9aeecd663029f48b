//! Splits a stream of server-sent events without losing a byte: each event knows which bytes it is.
//!
//! The reading rules are those of any client (WHATWG HTML, "Server-sent events"). Every byte up to the last blank line
//! belongs to exactly one event, comments and stray blank lines too, so that passing all events on passes the stream on.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One block of the stream, its blank line included.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Where it lies in the whole stream.
    pub range: Range<u64>,
    pub raw: &'a [u8],
    pub name: Option<&'a str>,
    /// The data lines joined by line feeds; `None`: a block that no client sees, such as a comment. Borrowed data is a
    /// slice of `raw`.
    pub data: Option<Cow<'a, str>>,
}

/// An event outgrew the limit; the stream cannot be followed any further.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {0} bytes")]
pub struct TooLong(pub usize);

/// Takes bytes as they come and gives events as they are complete.
#[derive(Debug)]
pub struct Splitter {
    /// Bytes from somewhere before the open event on; `offset` is where they begin in the stream.
    buffer: Vec<u8>,
    offset: u64,
    /// The open event, its open line, and what was looked at so far, as places in the buffer.
    event: usize,
    line: usize,
    seen: usize,
    limit: usize,
    ended: bool,
}

impl Splitter {
    /// `limit` is the size of the largest event that is accepted, in bytes.
    pub fn new(limit: usize) -> Splitter {
        Splitter { buffer: Vec::new(), offset: 0, event: 0, line: 0, seen: 0, limit, ended: false }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.event);
        self.offset += self.event as u64;
        self.line -= self.event;
        self.seen -= self.event;
        self.event = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Says that nothing will follow: a carriage return at the end then ends its line.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next complete event, if there is one.
    pub fn event(&mut self) -> Result<Option<Event<'_>>, TooLong> {
        while let Some((end, next)) = self.next_line() {
            let blank = self.is_blank(end);
            (self.line, self.seen) = (next, next);
            if blank {
                let start = std::mem::replace(&mut self.event, next);
                self.check_size(next - start)?;
                return Ok(Some(self.read(start..next)));
            }
        }
        self.check_size(self.buffer.len() - self.event)?;
        Ok(None)
    }

    /// The bytes after the last complete event; clients drop them when the stream ends here.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.event..]
    }

    /// Where the open line ends and where the next one begins.
    fn next_line(&mut self) -> Option<(usize, usize)> {
        let Some(found) = memchr2(b'\n', b'\r', &self.buffer[self.seen..]) else {
            self.seen = self.buffer.len();
            return None;
        };
        let end = self.seen + found;
        match (self.buffer[end], self.buffer.get(end + 1)) {
            (b'\r', Some(b'\n')) => Some((end, end + 2)),
            // The line feed may be on its way, and belongs to this line: events must not depend on where bytes are cut.
            (b'\r', None) if !self.ended => {
                self.seen = end;
                None
            }
            _ => Some((end, end + 1)),
        }
    }

    fn is_blank(&self, end: usize) -> bool {
        let line = &self.buffer[self.line..end];
        line.is_empty() || (self.offset == 0 && self.line == 0 && line == BOM)
    }

    fn check_size(&self, size: usize) -> Result<(), TooLong> {
        if size > self.limit { Err(TooLong(self.limit)) } else { Ok(()) }
    }

    fn read(&self, at: Range<usize>) -> Event<'_> {
        let range = self.offset + at.start as u64..self.offset + at.end as u64;
        let raw = &self.buffer[at];
        let mut event = Event { range, raw, name: None, data: None };
        let text = if event.range.start == 0 { raw.strip_prefix(BOM).unwrap_or(raw) } else { raw };
        for line in lines(text) {
            let (field, value) = field(line);
            match field {
                b"data" => add_line(&mut event.data, String::from_utf8_lossy(value)),
                b"event" => event.name = std::str::from_utf8(value).ok(),
                _ => {}
            }
        }
        event
    }
}

fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    // Splitting a CRLF twice gives an empty line, which says nothing.
    std::iter::from_fn(move || {
        let end = memchr2(b'\n', b'\r', text)?;
        let line = &text[..end];
        text = &text[end + 1..];
        Some(line)
    })
}

fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b':') {
        Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
        None => (line, b""),
    }
}

fn add_line<'a>(data: &mut Option<Cow<'a, str>>, line: Cow<'a, str>) {
    match data {
        None => *data = Some(line),
        Some(data) => {
            let data = data.to_mut();
            data.push('\n');
            data.push_str(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Told = (Range<u64>, Option<String>, Option<String>);

    /// Events of a text that comes in pieces of the given sizes, and what is left after them.
    fn split(text: &[u8], sizes: &[usize]) -> (Vec<Told>, Vec<u8>) {
        let (mut splitter, mut told, mut text) = (Splitter::new(1 << 16), Vec::new(), text);
        let mut take = |splitter: &mut Splitter| {
            while let Some(event) = splitter.event().expect("within the limit") {
                assert_eq!((event.range.end - event.range.start) as usize, event.raw.len());
                told.push((event.range, event.name.map(str::to_owned), event.data.map(Cow::into_owned)));
            }
        };
        for size in sizes.iter().cycle() {
            let (now, later) = text.split_at((*size).min(text.len()));
            splitter.push(now);
            take(&mut splitter);
            text = later;
            if text.is_empty() {
                break;
            }
        }
        splitter.end();
        take(&mut splitter);
        (told, splitter.rest().to_vec())
    }

    fn check(text: &str, expected: &[(Range<u64>, Option<&str>, Option<&str>)], rest: &str) {
        for size in 1..=text.len().max(1) {
            let (told, left) = split(text.as_bytes(), &[size]);
            let told: Vec<_> = told
                .iter()
                .map(|(range, name, data)| (range.clone(), name.as_deref(), data.as_deref()))
                .collect();
            assert_eq!((told.as_slice(), left.as_slice()), (expected, rest.as_bytes()), "{text:?} by {size}");
        }
    }

    #[test]
    fn events_have_names_data_and_their_blank_line() {
        check(
            "event: a\ndata: x\ndata:y\n\ndata: ö\n\n",
            &[(0..25, Some("a"), Some("x\ny")), (25..35, None, Some("ö"))],
            "",
        );
    }

    #[test]
    fn every_kind_of_line_end_is_understood() {
        check("data: x\r\n\r\ndata: y\r\n\r\n", &[(0..11, None, Some("x")), (11..22, None, Some("y"))], "");
        check("data: x\r\rdata: y\r\r", &[(0..9, None, Some("x")), (9..18, None, Some("y"))], "");
        check("data: x\n\r\ndata: y\r\n\n", &[(0..10, None, Some("x")), (10..20, None, Some("y"))], "");
    }

    #[test]
    fn comments_and_stray_blank_lines_are_events_without_data() {
        check(
            ": hi\n\n\ndata\n\nid: 1\n\n",
            &[(0..6, None, None), (6..7, None, None), (7..13, None, Some("")), (13..20, None, None)],
            "",
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        check(
            "\u{feff}data: x\n\n\u{feff}data: y\n\n",
            &[(0..12, None, Some("x")), (12..24, None, None)],
            "",
        );
        check("\u{feff}\ndata: x\n\n", &[(0..4, None, None), (4..13, None, Some("x"))], "");
    }

    #[test]
    fn what_has_no_blank_line_is_no_event() {
        check("data: x\n\ndata: y\n", &[(0..9, None, Some("x"))], "data: y\n");
        check("", &[], "");
    }

    #[test]
    fn an_endless_event_is_refused_wherever_it_is_cut() {
        let long = format!("data: {}\n\n", "x".repeat(100));
        for size in [1, 7, long.len()] {
            let mut splitter = Splitter::new(100);
            let refused = long.as_bytes().chunks(size).any(|chunk| {
                splitter.push(chunk);
                splitter.event().is_err()
            });
            assert!(refused, "by {size}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_stop_the_stream() {
        let (told, _) = split(b"data: \xff\n\nevent: \xff\ndata: x\n\n", &[3]);
        assert_eq!(told[0].2.as_deref(), Some("\u{fffd}"));
        assert_eq!((told[1].1.as_deref(), told[1].2.as_deref()), (None, Some("x")));
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter_and_ranges_cover_the_stream(
            text in "([\n\r:]|data|event|x|ö|\u{feff}| ){0,40}", sizes in prop::collection::vec(1usize..9, 1..6),
        ) {
            let (whole, rest) = split(text.as_bytes(), &[text.len().max(1)]);
            prop_assert_eq!(&split(text.as_bytes(), &sizes), &(whole.clone(), rest.clone()));
            let mut at = 0;
            for (range, ..) in &whole {
                prop_assert_eq!(range.start, at);
                at = range.end;
            }
            prop_assert_eq!(at as usize + rest.len(), text.len());
        }
    }
}
