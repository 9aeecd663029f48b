//! Opaque places in a list. A cursor knows the list it was made for and is refused by any other.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longshore_core::id::TaskId;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{Answer, Refused};

const LENGTH: usize = 1 + 16 + 8;
const VERSION: u8 = 1;

/// The place after `last` in the list that `filter` describes.
pub fn after(last: TaskId, filter: &str) -> String {
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.push(VERSION);
    bytes.extend_from_slice(last.0.as_bytes());
    bytes.extend_from_slice(&mark(filter));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a cursor back.
pub fn read(cursor: &str, filter: &str) -> Answer<TaskId> {
    let invalid = || {
        Refused::new(400, "invalid_cursor", "this is not a cursor of this list")
            .hint("take `next_cursor` from the previous page as it is, or begin without one")
    };
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
    if bytes.len() != LENGTH || bytes[0] != VERSION {
        return Err(invalid());
    }
    if bytes[17..] != mark(filter) {
        return Err(Refused::new(
            400,
            "cursor_of_another_list",
            "this cursor belongs to a list with other filters",
        )
        .hint("keep the filters as they were when following `next_cursor`"));
    }
    Uuid::from_slice(&bytes[1..17]).map(TaskId).map_err(|_| invalid())
}

fn mark(filter: &str) -> [u8; 8] {
    let digest = Sha256::digest(filter.as_bytes());
    let mut mark = [0; 8];
    mark.copy_from_slice(&digest[..8]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Answer<TaskId>) -> String {
        result.expect_err("refused").0.code.into_owned()
    }

    #[test]
    fn a_cursor_leads_back_to_its_place() {
        let id = TaskId(Uuid::from_u128(42));
        assert_eq!(read(&after(id, "fleet=a"), "fleet=a").expect("own cursor"), id);
    }

    #[test]
    fn cursors_of_other_lists_and_noise_are_told_apart() {
        let cursor = after(TaskId(Uuid::from_u128(42)), "fleet=a");
        assert_eq!(code(read(&cursor, "fleet=b")), "cursor_of_another_list");
        for noise in ["", "x", "!!!", &cursor[1..], "AAAA"] {
            assert_eq!(code(read(noise, "fleet=a")), "invalid_cursor", "{noise:?}");
        }
    }
}
