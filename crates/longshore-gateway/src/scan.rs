//! Reads a provider's stream as it passes, and says which of its bytes the agent may see yet.
//!
//! Owns the rule that an agent must not act on an answer before that answer is stored: from the first event on that it
//! could act on, the stream is held. Never waits and never stores: the caller shows what is open at once, and what is
//! held once the answer is in the journal.

mod chat;
mod key;
mod messages;
mod responses;
mod unasked;

use bytes::Bytes;

use crate::facts::Facts;
use crate::fault::{error_in, shortened};
use crate::fields::Fields;
use crate::shape::Shape;
use crate::sse::{Event, Splitter, TooLong};

/// Large enough for a finished response that carries images; one event is kept in memory whole.
pub(crate) const MAX_EVENT: usize = 32 << 20;

/// Output bytes, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// May be shown now.
    Open(Bytes),
    /// At or after the first finishing event, or an error: to be shown only once it is decided what becomes of the
    /// answer.
    Held(Bytes),
}

/// Why a stream cannot be followed any further.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    #[error("the provider's stream cannot be followed")]
    TooLong(#[from] TooLong),
}

/// What a stream was, told at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The whole answer.
    Complete(Facts),
    /// The provider reported an error inside the stream. `first`: nothing of an answer came before it, so that it can
    /// be treated like an error status.
    ErrorEvent { first: bool, message: String },
    /// It ended in good order, but without its final event.
    NoFinish,
    /// It broke off.
    Truncated,
}

/// One stream's reader.
pub struct Scan {
    events: Splitter,
    state: State,
}

struct State {
    reader: Reader,
    /// Takes out the usage that the agent did not ask for.
    unasked: Option<unasked::Unasked>,
    stage: Stage,
    begun: bool,
    error: Option<(bool, String)>,
    facts: Facts,
}

/// Each shape's own knowledge of its events.
enum Reader {
    Chat(Box<chat::Chat>),
    Responses,
    Messages(messages::Messages),
    /// Not a stream that is known: all passes.
    Unknown,
}

/// How far an answer is. Each event says where it gets to; no event leads back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// More is to come, and there is nothing to act on.
    Underway,
    /// There is something that an agent may act on, such as a tool call.
    Actable,
    /// It is said why the answer ends; with a clean end it is complete.
    Stopped,
    /// The final event has come.
    Done,
}

/// What one event means.
enum Seen {
    Reached(Stage),
    Error(String),
}

impl Scan {
    /// `asked_for_usage`: see [`crate::body::asks_for_usage`].
    pub fn new(shape: Shape, asked_for_usage: bool) -> Scan {
        Scan::limited(shape, asked_for_usage, MAX_EVENT)
    }

    /// With another size of the largest event that is accepted, in bytes.
    pub fn limited(shape: Shape, asked_for_usage: bool, max_event: usize) -> Scan {
        let reader = match shape {
            Shape::Chat | Shape::Completions => Reader::Chat(Box::default()),
            Shape::Responses => Reader::Responses,
            Shape::Messages => Reader::Messages(messages::Messages::default()),
            Shape::Embeddings | Shape::Plain => Reader::Unknown,
        };
        let unasked = (shape.usage_on_request() && !asked_for_usage).then(unasked::Unasked::default);
        let (stage, facts) = (Stage::Underway, Facts::default());
        let state = State { reader, unasked, stage, begun: false, error: None, facts };
        Scan { events: Splitter::new(max_event), state }
    }

    /// Takes the next bytes of the stream; returns what may be passed on because of them.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, ScanError> {
        if matches!(self.state.reader, Reader::Unknown) {
            return Ok(vec![Piece::Open(Bytes::copy_from_slice(bytes))]);
        }
        self.events.push(bytes);
        let mut output = Output::default();
        self.read_events(&mut output)?;
        Ok(output.pieces())
    }

    /// Whether its final event has come: nothing that follows belongs to the answer.
    pub fn is_done(&self) -> bool {
        self.state.stage == Stage::Done
    }

    /// Ends the stream: the last bytes to pass on, and what it was. `clean_end`: the connection says that the body is
    /// whole.
    ///
    /// Bytes after the last complete event are held, since a client that reads line by line could act on them.
    pub fn finish(mut self, clean_end: bool) -> Result<(Vec<Piece>, Verdict), ScanError> {
        let mut output = Output::default();
        self.events.end();
        self.read_events(&mut output)?;
        output.held.extend_from_slice(self.events.rest());
        Ok((output.pieces(), self.state.verdict(clean_end)))
    }

    fn read_events(&mut self, output: &mut Output) -> Result<(), TooLong> {
        while let Some(event) = self.events.event()? {
            self.state.read(&event);
            self.state.pass(&event, output);
        }
        Ok(())
    }
}

impl State {
    fn read(&mut self, event: &Event<'_>) {
        let Some(data) = event.data.as_deref() else { return };
        let seen = match &mut self.reader {
            _ if event.name == Some("error") => Some(Seen::Error(message_in(data))),
            Reader::Chat(chat) => chat.read(data, &mut self.facts),
            Reader::Responses => responses::read(event.name, data, &mut self.facts),
            Reader::Messages(messages) => messages.read(event.name, data, &mut self.facts),
            Reader::Unknown => None,
        };
        match seen {
            Some(Seen::Reached(stage)) => self.stage = self.stage.max(stage),
            Some(Seen::Error(message)) => {
                self.error.get_or_insert((!self.begun, message));
            }
            None => {}
        }
        // A ping says that the provider is there, and is no part of an answer.
        self.begun |= event.name != Some("ping");
    }

    fn pass(&self, event: &Event<'_>, output: &mut Output) {
        let held = self.stage > Stage::Underway || self.error.is_some();
        let out = if held { &mut output.held } else { &mut output.open };
        let cut = self.unasked.as_ref().and_then(|unasked| unasked.bytes_in(event)).unwrap_or(0..0);
        out.extend_from_slice(&event.raw[..cut.start]);
        out.extend_from_slice(&event.raw[cut.end..]);
    }

    fn verdict(self, clean_end: bool) -> Verdict {
        match (self.error, self.stage) {
            (Some((first, message)), _) => Verdict::ErrorEvent { first, message },
            (None, Stage::Done) => Verdict::Complete(self.facts),
            (None, Stage::Stopped) if clean_end => Verdict::Complete(self.facts),
            _ if clean_end => Verdict::NoFinish,
            _ => Verdict::Truncated,
        }
    }
}

/// What one push lets through: open bytes always come before held ones.
#[derive(Default)]
struct Output {
    open: Vec<u8>,
    held: Vec<u8>,
}

impl Output {
    fn pieces(self) -> Vec<Piece> {
        let open = (!self.open.is_empty()).then(|| Piece::Open(self.open.into()));
        let held = (!self.held.is_empty()).then(|| Piece::Held(self.held.into()));
        open.into_iter().chain(held).collect()
    }
}

fn message_in(data: &str) -> String {
    Fields::read(data).and_then(|fields| error_in(&fields)).unwrap_or_else(|| shortened(data))
}

/// The event's type: its name, or what its data says where a provider leaves the name out.
fn kind<'a>(name: Option<&'a str>, fields: &Fields<'_>) -> std::borrow::Cow<'a, str> {
    match name {
        Some(name) => name.into(),
        None => fields.string("type").unwrap_or_default().into(),
    }
}
