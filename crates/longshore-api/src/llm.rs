//! What relay and gateway say to each other about an agent's call to an LLM API.
//!
//! The relay sends the agent's request to `{link address}/llm/{provider}/{path}` with the headers below. The gateway
//! answers 200 with a body of frames, or with a [`Problem`](crate::problem::Problem). Frames tell a whole answer from one
//! that was cut off, carry keep-alives that the agent never sees, and say whether an answer can be had again, byte for byte.
//!
//! A frame is `kind: u8`, `length: u32` in network order, and so many bytes. Kinds that are not known are skipped, so that
//! either side may be the newer one.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Where the gateway lives on the worker link, and where the relay offers it to agents.
pub const PREFIX: &str = "/llm/";

/// Media type of an answer in frames.
pub const CONTENT_TYPE: &str = "application/vnd.longshore.frames";

/// Header: the token of the task that the call is made for.
pub const TASK_TOKEN: &str = "longshore-task-token";

/// Header: the id of this request of the agent, the same over the relay's own retries.
pub const CALL: &str = "longshore-call";

/// Header: ids of the task's calls whose answers did not reach the agent whole, joined by commas.
pub const UNDELIVERED: &str = "longshore-undelivered";

/// The most ids that [`UNDELIVERED`] carries.
pub const UNDELIVERED_MOST: usize = 32;

/// The most that an agent's request may hold, bytes.
pub const BODY_LIMIT: usize = 64 << 20;

/// The gateway sends a keep-alive at least this often; a relay that hears nothing for three times as long asks again.
pub const KEEP_ALIVE_SECONDS: u64 = 10;

/// A head or the reason of a break holds no more than this, bytes.
const JSON_LIMIT: usize = 1 << 20;

const PREFIX_LENGTH: usize = 5;

#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    KeepAlive,
    Head(Head),
    /// The next bytes of the answer's body. The decoder may hand out one frame in several pieces.
    Data(Bytes),
    /// The answer is whole.
    End,
    Broken(Broken),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The answer comes from the journal, so asking for the same call again gives the same bytes.
    #[serde(default)]
    pub stored: bool,
}

/// The rest of the answer will never come: the agent's connection has to be broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    pub by: Breaker,
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// The agent would have met the same without longshore.
    Provider,
    /// An attempt that fails after it counts as interrupted.
    Longshore,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of kind {kind} holds {length} bytes, more than it may")]
    TooLong { kind: u8, length: usize },
    #[error("a frame of kind {kind} cannot be read")]
    Json { kind: u8, source: serde_json::Error },
}

const KEEP_ALIVE: u8 = 0;
const HEAD: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
const BROKEN: u8 = 4;

impl Frame {
    /// The frame's bytes. For data that is not to be copied: [`data_prefix`], then the data.
    pub fn encoded(&self) -> Bytes {
        match self {
            Frame::KeepAlive => framed(KEEP_ALIVE, &[]),
            Frame::Head(head) => framed(HEAD, &json(head)),
            Frame::Data(data) => framed(DATA, data),
            Frame::End => framed(END, &[]),
            Frame::Broken(broken) => framed(BROKEN, &json(broken)),
        }
    }
}

/// What goes before `length` bytes of data.
///
/// A frame holds less than 4 GiB; longer data goes in several.
pub fn data_prefix(length: u32) -> [u8; PREFIX_LENGTH] {
    prefix(DATA, length)
}

fn prefix(kind: u8, length: u32) -> [u8; PREFIX_LENGTH] {
    let [a, b, c, d] = length.to_be_bytes();
    [kind, a, b, c, d]
}

fn framed(kind: u8, payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).expect("bodies are limited far below 4 GiB");
    let mut bytes = BytesMut::with_capacity(PREFIX_LENGTH + payload.len());
    bytes.put_slice(&prefix(kind, length));
    bytes.put_slice(payload);
    bytes.freeze()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data always serialises")
}

/// Takes bytes as they come and gives frames. Data is handed on in the pieces it came in, without a copy.
#[derive(Debug, Default)]
pub struct Decoder {
    input: Bytes,
    /// What is there of a frame's prefix, or of a payload that is needed whole.
    gathered: Vec<u8>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Prefix,
    Whole {
        kind: u8,
        length: usize,
    },
    Data {
        left: usize,
    },
    Skip {
        left: usize,
    },
}

impl Decoder {
    /// Adds bytes; all frames of the last ones have to be taken first.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.input.is_empty(), "frames are taken before more bytes come");
        self.input = bytes;
    }

    /// The next frame that is there; `None`: more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.state {
                State::Prefix => {
                    if !gather(&mut self.input, &mut self.gathered, PREFIX_LENGTH) {
                        return Ok(None);
                    }
                    let kind = self.gathered[0];
                    let [a, b, c, d] = [1, 2, 3, 4].map(|at| self.gathered[at]);
                    self.gathered.clear();
                    self.state = begin(kind, u32::from_be_bytes([a, b, c, d]) as usize)?;
                }
                State::Whole { kind, length } => {
                    if !gather(&mut self.input, &mut self.gathered, *length) {
                        return Ok(None);
                    }
                    let kind = *kind;
                    self.state = State::Prefix;
                    let payload = std::mem::take(&mut self.gathered);
                    return whole(kind, &payload).map(Some);
                }
                State::Data { left: 0 } | State::Skip { left: 0 } => self.state = State::Prefix,
                State::Data { .. } | State::Skip { .. } if self.input.is_empty() => return Ok(None),
                State::Data { left } => {
                    let piece = self.input.split_to(self.input.len().min(*left));
                    *left -= piece.len();
                    return Ok(Some(Frame::Data(piece)));
                }
                State::Skip { left } => {
                    let skipped = self.input.split_to(self.input.len().min(*left));
                    *left -= skipped.len();
                }
            }
        }
    }
}

fn begin(kind: u8, length: usize) -> Result<State, FrameError> {
    match kind {
        KEEP_ALIVE | HEAD | END | BROKEN if length > JSON_LIMIT => Err(FrameError::TooLong { kind, length }),
        KEEP_ALIVE | HEAD | END | BROKEN => Ok(State::Whole { kind, length }),
        DATA => Ok(State::Data { left: length }),
        _ => Ok(State::Skip { left: length }),
    }
}

fn whole(kind: u8, payload: &[u8]) -> Result<Frame, FrameError> {
    let wrong = |source| FrameError::Json { kind, source };
    match kind {
        HEAD => serde_json::from_slice(payload).map(Frame::Head).map_err(wrong),
        BROKEN => serde_json::from_slice(payload).map(Frame::Broken).map_err(wrong),
        END => Ok(Frame::End),
        _ => Ok(Frame::KeepAlive),
    }
}

/// Moves bytes until `wanted` are gathered; says whether they are.
fn gather(input: &mut Bytes, gathered: &mut Vec<u8>, wanted: usize) -> bool {
    let missing = wanted - gathered.len();
    let piece = input.split_to(input.len().min(missing));
    gathered.extend_from_slice(&piece);
    gathered.len() == wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> Frame {
        let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
        Frame::Head(Head { status: 200, headers, stored: true })
    }

    fn broken() -> Frame {
        Frame::Broken(Broken { by: Breaker::Longshore, why: "no".into() })
    }

    /// Decodes bytes that come in pieces of `step`; pieces of data are joined again.
    fn decoded(bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(step) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = decoder.next_frame()? {
                match (frames.last_mut(), frame) {
                    (Some(Frame::Data(last)), Frame::Data(more)) => {
                        *last = [&last[..], &more[..]].concat().into();
                    }
                    (_, frame) => frames.push(frame),
                }
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_bytes_are_cut() {
        let data = Frame::Data(Bytes::from_static(b"data: {}\n\n"));
        let frames = [Frame::KeepAlive, head(), data, Frame::KeepAlive, Frame::End, broken()];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encoded()).collect();
        for step in 1..=bytes.len() {
            assert_eq!(decoded(&bytes, step).expect("readable"), frames, "step {step}");
        }
    }

    #[test]
    fn the_bytes_are_what_the_page_says() {
        let data = Frame::Data(Bytes::from_static(b"ab")).encoded();
        assert_eq!(&data[..], b"\x02\0\0\0\x02ab");
        assert_eq!(data[..5], data_prefix(2));
        assert_eq!(&broken().encoded()[5..], br#"{"by":"longshore","why":"no"}"#);
    }

    #[test]
    fn frames_of_a_kind_that_is_not_known_are_skipped() {
        let bytes = [&[9, 0, 0, 0, 3, 1, 2, 3][..], &Frame::End.encoded()].concat();
        for step in 1..=bytes.len() {
            assert_eq!(decoded(&bytes, step).expect("readable"), [Frame::End]);
        }
    }

    #[test]
    fn what_no_gateway_sends_is_an_error() {
        assert!(matches!(decoded(&[HEAD, 255, 0, 0, 0], 5), Err(FrameError::TooLong { kind: HEAD, .. })));
        assert!(matches!(decoded(&[HEAD, 0, 0, 0, 1, b'x'], 6), Err(FrameError::Json { kind: HEAD, .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(0u8..6, 0..200), step in 1usize..20) {
            _ = decoded(&bytes, step);
        }
    }
}
