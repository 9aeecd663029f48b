//! What a fault makes of an answer. Sends nothing itself.

use bytes::Bytes;
use serde_json::json;

use crate::ask::Api;
use crate::deliver::{Cut, Then};
use crate::fault::What;
use crate::gzip;
use crate::wire::Played;
use crate::wire::error::Refusal;

/// What a proxy shows instead of an answer.
pub(crate) const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head>\
    <body><h1>Please wait while we check your connection</h1></body></html>\n";

const PADDING: usize = 256 << 20;

/// A fault because of which nothing is answered.
pub(crate) enum Refused {
    Error(Refusal),
    Drop,
    Page,
}

impl Refused {
    pub(crate) fn by(what: What, stream: bool) -> Option<Refused> {
        match what {
            What::Status { status, retry_after_ms } => {
                Some(Refused::Error(Refusal::Fault { status, retry_after_ms }))
            }
            What::Overloaded => Some(Refused::Error(Refusal::Overloaded)),
            What::ErrorEventMidStream { .. } if !stream => {
                Some(Refused::Error(Refusal::Fault { status: 500, retry_after_ms: None }))
            }
            What::DropBeforeHead => Some(Refused::Drop),
            What::Html => Some(Refused::Page),
            _ => None,
        }
    }
}

/// Other bytes, or the same ones in other pieces.
pub(crate) fn played(played: Played, what: What, stream: bool) -> Played {
    match what {
        What::MalformedSse => played.mangled(),
        What::Gzip => {
            let zipped = gzip::stored(&played.bytes);
            played.replaced(zipped)
        }
        What::DropMidStream { .. } | What::Stall { .. } | What::EndlessChunks if !stream => played.halved(),
        _ => played,
    }
}

/// Where the answer stops, and what comes then.
pub(crate) fn cut(what: What, played: &Played, api: Api, stream: bool, request_id: &str) -> Option<Cut> {
    let (after, then) = match what {
        What::DropMidStream { after_chunks } => (after_chunks, Then::Break),
        What::Stall { after_chunks } => (after_chunks, Then::Stall),
        What::ErrorEventMidStream { after_chunks } if stream => {
            (after_chunks, Then::Last(error_event(api, request_id, after_chunks)))
        }
        What::NoFinish if stream => (played.finishing, Then::Last(Bytes::new())),
        What::EndlessChunks => (1, Then::Pad(PADDING)),
        // All of it, and then not what was promised.
        What::WrongContentLength => return Some(Cut { after: played.frames.len(), then: Then::Break }),
        _ => return None,
    };
    // No answer is cut after its end was told; one that is no stream, in its middle.
    let after = if stream { after.min(played.finishing) } else { 1 };
    Some(Cut { after, then })
}

fn error_event(api: Api, request_id: &str, number: usize) -> Bytes {
    const MESSAGE: &str = "The server had an error while processing your request. Sorry about that!";
    Bytes::from(match api {
        Api::Messages => {
            let error = json!({"type": "overloaded_error", "message": "Overloaded"});
            let data = json!({"type": "error", "error": error, "request_id": request_id});
            format!("event: error\ndata: {data}\n\n")
        }
        Api::Responses => {
            let data = json!({"type": "error", "code": "server_error", "message": MESSAGE, "param": null,
                "sequence_number": number});
            format!("event: error\ndata: {data}\n\n")
        }
        Api::Chat | Api::Embeddings => {
            let error = json!({"message": MESSAGE, "type": "server_error", "param": null, "code": null});
            format!("data: {}\n\n", json!({"error": error}))
        }
    })
}
