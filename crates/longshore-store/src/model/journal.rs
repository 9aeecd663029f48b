//! The journal: calls as they are asked for, answered, and shown.

use std::cell::RefCell;
use std::io::Read;
use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};
use longshore_core::id::{Fence, FleetName, Held, TaskId};
use longshore_core::journal::{AskState, Divergence};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Names the canonical form of a request.
pub type Digest = [u8; 32];

/// Names a content within its task.
pub type Hash = [u8; 16];

/// A content by its hash, as it is stored: deflated where that is shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub hash: Hash,
    pub deflated: bool,
    /// Before packing, bytes.
    pub size: usize,
    pub data: Vec<u8>,
}

/// Smaller contents gain nothing.
const WORTH_PACKING: usize = 256;

impl Packed {
    pub fn new(content: &[u8]) -> Packed {
        let (hash, size) = (hash(&[content]), content.len());
        match deflated(content) {
            Some(data) => Packed { hash, deflated: true, size, data },
            None => Packed { hash, deflated: false, size, data: content.to_vec() },
        }
    }

    pub fn unpack(self) -> std::io::Result<Vec<u8>> {
        if !self.deflated {
            return Ok(self.data);
        }
        let mut content = Vec::with_capacity(self.size);
        flate2::read::DeflateDecoder::new(&*self.data).read_to_end(&mut content)?;
        Ok(content)
    }
}

thread_local! {
    /// Its tables take longer to be made than a message to be packed.
    static DEFLATER: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// The content packed; `None` if that would not make it smaller.
fn deflated(content: &[u8]) -> Option<Vec<u8>> {
    if content.len() < WORTH_PACKING {
        return None;
    }
    DEFLATER.with_borrow_mut(|deflater| {
        deflater.reset();
        // Never grows: what does not fit is not smaller.
        let mut data = Vec::with_capacity(content.len() - 1);
        let status = deflater.compress_vec(content, &mut data, FlushCompress::Finish);
        let ended = matches!(status, Ok(Status::StreamEnd));
        data.shrink_to_fit();
        ended.then_some(data)
    })
}

pub(crate) fn hash(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let whole: [u8; 32] = hasher.finalize().into();
    whole[..16].try_into().expect("sixteen of thirty-two bytes")
}

/// A canonical request, taken apart so that what comes again is stored once.
#[derive(Clone, Debug)]
pub struct NewRequest {
    pub digest: Digest,
    /// The request without its list.
    pub head: String,
    /// The field that holds the list, such as `messages`.
    pub field: Option<String>,
    pub items: Vec<String>,
    pub(crate) head_hash: Hash,
    /// For each item, what stands for everything up to it, and the item's own hash.
    pub(crate) links: Vec<(Hash, Hash)>,
}

impl NewRequest {
    /// `identity` is what the digest is made from: provider, path and canonical text.
    pub fn new(identity: &[&[u8]], head: String, field: Option<String>, items: Vec<String>) -> NewRequest {
        let mut hasher = Sha256::new();
        for part in identity {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut prev: Option<Hash> = None;
        let mut links = Vec::with_capacity(items.len());
        for item in &items {
            let blob = hash(&[item.as_bytes()]);
            let link = hash(&[prev.as_ref().map_or(&[][..], |prev| &prev[..]), &blob]);
            links.push((link, blob));
            prev = Some(link);
        }
        let head_hash = hash(&[head.as_bytes()]);
        NewRequest { digest: hasher.finalize().into(), head, field, items, head_hash, links }
    }
}

/// An agent's request as its relay sent it.
#[derive(Clone, Debug)]
pub struct NewCall {
    pub held: Held,
    /// Of the worker that carries it: another fleet's task is refused.
    pub fleet: FleetName,
    /// The relay's number for this request; the same over its own retries.
    pub call: Uuid,
    /// The gateway that would make the call.
    pub owner: Uuid,
    pub provider: String,
    pub path: String,
    pub model: Option<String>,
    /// What the provider's prices are in.
    pub currency: String,
    pub request: Arc<NewRequest>,
    /// The agent's SDK repeats a request of its own.
    pub retry: bool,
    /// Earlier calls whose answers did not reach the agent.
    pub undelivered: Vec<Uuid>,
}

/// Identifies a call in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallKey {
    pub task: TaskId,
    pub(crate) ord: i64,
    pub generation: u32,
    pub digest: Digest,
    pub occurrence: u32,
}

/// What an ask led to.
#[derive(Clone, Debug)]
pub struct Begun {
    pub key: CallKey,
    pub what: BegunCall,
    /// When the attempt's time is up.
    pub deadline: Timestamp,
}

#[derive(Clone, Debug)]
pub enum BegunCall {
    /// The answer that was stored; delivered as far as the journal knows.
    Replay(Box<StoredAnswer>),
    /// Somebody is at it: wait, and begin again.
    Join,
    /// An intent was written: make the call.
    Live,
}

#[derive(Clone, Debug)]
pub struct StoredAnswer {
    pub status: u16,
    /// Pairs of name and value.
    pub headers: Json,
    pub body: Packed,
}

/// Tokens as the provider counted them; `cached` are among the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub input: u64,
    pub cached: u64,
    pub output: u64,
}

/// An answer to be stored.
#[derive(Clone, Debug)]
pub struct NewAnswer {
    pub status: u16,
    pub headers: Json,
    pub body: Packed,
    /// `None`: the provider did not say.
    pub used: Option<Used>,
    /// Billionths of the call's currency.
    pub cost_nano: u64,
    pub waited_ms: u64,
    pub first_ms: u64,
    pub total_ms: u64,
    /// Tries before the answer that may have been billed all the same.
    pub maybe_billed: u32,
    /// The ask that gets it now, if its agent is still there.
    pub deliver: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerOutcome {
    Stored,
    /// Another owner has the call, or it is answered: this answer must not be shown.
    Superseded,
}

/// One call of a task, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct CallRecord {
    pub generation: u32,
    pub digest: Digest,
    pub occurrence: u32,
    /// Orders the calls of a task.
    pub begun: u64,
    pub provider: String,
    pub path: String,
    pub model: Option<String>,
    pub begun_at: Timestamp,
    pub answered_at: Option<Timestamp>,
    pub status: Option<u16>,
    /// Somebody is at it.
    pub open: bool,
    pub maybe_billed: u32,
    pub inherited: bool,
    pub used: Option<Used>,
    pub cost_nano: Option<u64>,
    pub currency: Option<String>,
    pub waited_ms: Option<u64>,
    pub first_ms: Option<u64>,
    pub total_ms: Option<u64>,
    /// Bytes of the answer.
    pub size: Option<u64>,
}

/// One ask of a task, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct AskRecord {
    pub fence: Fence,
    pub generation: u32,
    pub digest: Digest,
    pub occurrence: u32,
    pub begun: u64,
    pub state: AskState,
    pub live: bool,
    pub at: Timestamp,
}

/// A task's journal, whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalRecord {
    pub generation: u32,
    pub passed: u64,
    pub bought_again: u64,
    /// In order.
    pub calls: Vec<CallRecord>,
    pub asks: Vec<AskRecord>,
    pub steps: Vec<StepRecord>,
    /// What its contents take in the store, bytes.
    pub stored_bytes: u64,
}

/// A task's calls in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Answers that were bought.
    pub live: u64,
    /// Answers that were given again.
    pub replayed: u64,
    pub maybe_billed: u64,
    pub passed: u64,
    pub bought_again: u64,
    pub used: Used,
    pub cost_nano: u64,
    pub saved_tokens: u64,
    pub saved_nano: u64,
    pub currency: Option<String>,
}

/// What was bought and saved for a fleet from one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    pub fleet: FleetName,
    pub provider: String,
    pub model: String,
    pub currency: String,
    pub live: u64,
    pub replayed: u64,
    pub maybe_billed: u64,
    pub used: Used,
    pub cost_nano: u64,
    pub saved_tokens: u64,
    pub saved_nano: u64,
}

/// How attempts after the first used what was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayRecord {
    pub fleet: FleetName,
    pub replayed: u64,
    pub bought_again: u64,
    pub diverged: u64,
}

/// An attempt that went another way than the one before, with the first requests that differ.
#[derive(Clone, Debug, PartialEq)]
pub struct DivergenceRecord {
    pub attempt: u32,
    pub counts: Divergence,
    /// The oldest answer that was not asked for, and the first call that was made instead.
    pub was: Option<Digest>,
    pub now: Option<Digest>,
}

/// A step as it stands when an attempt comes to it.
#[derive(Clone, Debug, PartialEq)]
pub enum StepBegun {
    /// It ran: this is its result.
    Done(Json),
    /// To be run now. `begun` counts this time too: above 1, an earlier attempt began it and did not tell its end.
    Run { begun: u32 },
}

#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    pub name: String,
    pub begun: u32,
    pub begun_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub result: Option<Json>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_come_back_as_they_were() {
        for content in [&b""[..], b"short", &[b'a'; 5000], &(0..=255).cycle().take(3000).collect::<Vec<u8>>()]
        {
            let packed = Packed::new(content);
            assert!(packed.data.len() <= content.len());
            assert_eq!(packed.unpack().expect("it was packed just now"), content);
        }
    }

    #[test]
    fn a_history_that_grows_shares_its_links() {
        let items = |n: usize| (0..n).map(|n| format!("\"{n}\"")).collect::<Vec<_>>();
        let request = |n| NewRequest::new(&[b"a"], "{}".into(), Some("messages".into()), items(n));
        let (short, long) = (request(3), request(5));
        assert_eq!(short.links, long.links[..3]);
        assert_ne!(long.links[3], long.links[4]);
    }

    #[test]
    fn identity_tells_where_its_parts_end() {
        let digest = |parts: &[&[u8]]| NewRequest::new(parts, String::new(), None, Vec::new()).digest;
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }
}
