//! What a message says.

use bytes::Bytes;
use longshore_api::task::Task;
use longshore_api::webhook::{EndedTask, Message};
use longshore_core::time::Timestamp;
use longshore_core::webhook::message_type;
use longshore_store::DeliveryRecord;
use serde::Serialize;
use serde_json::json;

/// The largest result that a message carries, bytes: receivers commonly refuse bodies beyond a few hundred KiB.
const LARGEST_RESULT: usize = 256 << 10;

/// The body of a message about the end of a task; `None`: the task is forgotten, and what the delivery knows is said.
pub fn of(delivery: &DeliveryRecord, task: Option<Task>) -> Bytes {
    let (kind, timestamp) = (message_type(delivery.ended_as), delivery.at);
    match task {
        Some(task) => body(&Message { kind, timestamp, data: ended(task) }),
        None => body(&json!({
            "type": kind,
            "timestamp": timestamp,
            "data": {
                "id": delivery.task,
                "fleet": delivery.fleet,
                "state": delivery.ended_as,
                "finished_at": timestamp,
                "forgotten": true,
            },
        })),
    }
}

/// The body of a message that only asks whether messages arrive.
pub fn test(webhook: &str, now: Timestamp) -> Bytes {
    body(&json!({ "type": "webhook.test", "timestamp": now, "data": { "webhook": webhook } }))
}

fn ended(mut task: Task) -> EndedTask {
    // Whoever submitted it has it.
    task.input = None;
    let bytes = task.result.as_ref().map_or(0, |result| result.text().len());
    let result_left_out = (bytes > LARGEST_RESULT).then_some(bytes as u64);
    if result_left_out.is_some() {
        task.result = None;
    }
    EndedTask { task, result_left_out }
}

fn body(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).expect("plain data always serialises").into()
}
