//! Reads server-sent events from a byte stream, one at a time.

/// One event: its id, its name and its data lines joined by line feeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: String,
}

/// Takes bytes as they come and gives events as they are complete. Comments are dropped.
///
/// Errors: [`TooLong`] when a line or an event outgrows `limit` bytes; the stream cannot be followed any further.
/// Source: WHATWG HTML, "Server-sent events", section "Parsing an event stream".
#[derive(Debug)]
pub struct SseReader {
    line: Vec<u8>,
    current: SseEvent,
    limit: usize,
    has_data: bool,
    after_cr: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("an event of the stream is larger than {0} bytes")]
pub struct TooLong(usize);

impl SseReader {
    pub fn new(limit: usize) -> SseReader {
        SseReader { line: Vec::new(), current: SseEvent::default(), limit, has_data: false, after_cr: false }
    }

    /// Adds bytes; returns the events that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_cr) => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    self.end_line(&mut events);
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                }
            }
            if self.line.len() + self.current.data.len() > self.limit {
                return Err(TooLong(self.limit));
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let event = std::mem::take(&mut self.current);
            if std::mem::take(&mut self.has_data) {
                events.push(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.current.data.push('\n');
                }
                self.has_data = true;
                self.current.data.push_str(value);
            }
            "event" => self.current.event = Some(value.to_owned()),
            "id" => self.current.id = Some(value.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, step: usize) -> Vec<(Option<String>, String)> {
        let mut reader = SseReader::new(1 << 16);
        let chunks = text.as_bytes().chunks(step);
        let events = chunks.flat_map(|chunk| reader.push(chunk).expect("within the limit"));
        events.map(|event| (event.id, event.data)).collect()
    }

    #[test]
    fn events_come_out_the_same_however_the_bytes_are_cut() {
        let text = ": hello\n\nid: 1\nevent: x\ndata: a\ndata: ö\n\nid:2\r\ndata:b\r\n\r\ndata: unfinished\n";
        let whole = read(text, text.len());
        assert_eq!(whole, vec![(Some("1".into()), "a\nö".into()), (Some("2".into()), "b".into())]);
        for step in 1..8 {
            assert_eq!(read(text, step), whole, "step {step}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut reader = SseReader::new(100);
        assert!(reader.push(&[b'x'; 200]).is_err());
    }
}
