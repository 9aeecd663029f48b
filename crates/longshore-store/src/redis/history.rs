//! Serving copies of conversations' histories.
//!
//! The database has the truth, and says how many messages there are; a copy that does not end there is not served. What
//! a number says in a conversation never changes, so a copy can be too short or too old, never different. The script is
//! one step to Redis, so writers of several replicas cannot mix.

use std::time::Duration;

use longshore_core::id::{ConversationId, TaskId};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use tracing::debug;
use uuid::Uuid;

use super::Redis;
use super::error::RedisError;
use super::script::Lua;
use crate::model::Message;

#[derive(Clone)]
pub(crate) struct Histories {
    redis: Redis,
    script: std::sync::Arc<Lua>,
    /// Since it was last used.
    ttl: Duration,
}

/// The newest messages within both limits; the same as in the database's own answer.
pub(crate) const MESSAGES: usize = 200;
pub(crate) const BYTES: usize = 256 * 1024;

/// Of a message before its data: the task's id and the time, in hexadecimal.
const HEAD: usize = 32 + 16;

/// Longer than anybody takes from reading the database to refilling.
const GONE: Duration = Duration::from_secs(120);

impl Histories {
    pub(crate) fn new(redis: Redis, ttl: Duration) -> Histories {
        let text = include_str!("history.lua")
            .replace("{HEAD}", &HEAD.to_string())
            .replace("{MESSAGES}", &MESSAGES.to_string())
            .replace("{BYTES}", &BYTES.to_string());
        Histories { redis, script: std::sync::Arc::new(Lua::new(text)), ttl }
    }

    /// Returns the newest messages, oldest first, of a conversation that has `count` of them.
    ///
    /// Shape: all that both limits let through; fewer than `count` means that older ones were left out. None: the copy is
    /// missing or does not end at `count`, or Redis is in trouble; read the database, then [`Self::refill`].
    pub(crate) async fn history(&self, conversation: &ConversationId, count: u64) -> Option<Vec<Message>> {
        if count == 0 {
            return Some(Vec::new());
        }
        let answer: Result<Vec<(String, Vec<u8>)>, _> =
            self.run(conversation, "read", self.ttl, count, &[]).await;
        match answer {
            Ok(fields) => whole(fields, count),
            Err(error) => {
                debug!(%error, %conversation, "no history from redis");
                None
            }
        }
    }

    /// Adds messages that the database has just taken, the first of them numbered `from`.
    ///
    /// A copy that does not end right before them is dropped; errors are not worth waiting for, the next reader notices.
    pub(crate) async fn append(&self, conversation: &ConversationId, from: u64, messages: &[Message]) {
        if !messages.is_empty() {
            self.write(conversation, "append", from, messages).await;
        }
    }

    /// Puts the database's own answer in the copy's place, unless the copy has come further meanwhile.
    ///
    /// Shape: `messages` are the newest, all that both limits let through, of a conversation that had `count` of them.
    /// Others, which do not end there or have gaps, are not kept.
    pub(crate) async fn refill(&self, conversation: &ConversationId, count: u64, messages: &[Message]) {
        let from = (count + 1).saturating_sub(messages.len() as u64);
        let fits = from > 0 && messages.iter().zip(from..).all(|(message, seq)| message.seq == seq);
        if count > 0 && fits {
            self.write(conversation, "refill", from, messages).await;
        }
    }

    /// Drops the copy, and for a while takes none from readers who may have read before.
    ///
    /// Errors: the copy may still be there, until its time is over: erasing is not done before this succeeds.
    pub(crate) async fn forget(&self, conversation: &ConversationId) -> Result<(), RedisError> {
        self.run(conversation, "forget", GONE, 0, &[]).await
    }

    async fn write(&self, conversation: &ConversationId, task: &str, from: u64, messages: &[Message]) {
        let encoded: Vec<Vec<u8>> = messages.iter().map(encode).collect();
        let encoded: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
        let answer: Result<(), _> = self.run(conversation, task, self.ttl, from, &encoded).await;
        if let Err(error) = answer {
            debug!(%error, %conversation, task, "the history in redis stays behind");
        }
    }

    async fn run<T: ::redis::FromRedisValue>(
        &self,
        conversation: &ConversationId,
        task: &str,
        ttl: Duration,
        number: u64,
        messages: &[&[u8]],
    ) -> Result<T, RedisError> {
        let (ttl, number) = (ttl.as_millis().to_string(), number.to_string());
        let mut arguments = vec![task.as_bytes(), ttl.as_bytes(), number.as_bytes()];
        arguments.extend(messages);
        self.redis.run(&self.script, &[&self.key(conversation)], &arguments).await
    }

    /// Replicas with other limits keep other copies: theirs would look too short, or too long.
    fn key(&self, conversation: &ConversationId) -> String {
        self.redis.key(&format!("history:{MESSAGES}:{BYTES}:{conversation}"))
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let head = format!("{}{:016x}", message.task.0.simple(), message.at.0);
    debug_assert_eq!(head.len(), HEAD);
    [head.as_bytes(), message.data.text().as_bytes()].concat()
}

fn decode(seq: u64, text: Vec<u8>) -> Option<Message> {
    let mut text = String::from_utf8(text).ok()?;
    let data = text.is_char_boundary(HEAD).then(|| text.split_off(HEAD))?;
    let (task, at) = text.split_at_checked(32)?;
    Some(Message {
        seq,
        task: TaskId(Uuid::try_parse(task).ok()?),
        at: Timestamp(u64::from_str_radix(at, 16).ok()? as i64),
        data: Json::trusted(data).ok()?,
    })
}

/// Believes a copy only if every message that it claims to have is there.
fn whole(fields: Vec<(String, Vec<u8>)>, count: u64) -> Option<Vec<Message>> {
    let number = |name: &str| -> Option<u64> {
        let (_, value) = fields.iter().find(|(field, _)| field == name)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    };
    let (first, last) = (number("first")?, number("last")?);
    let mut messages: Vec<Message> = Vec::with_capacity(fields.len());
    for (field, value) in fields {
        if let Ok(seq) = field.parse() {
            messages.push(decode(seq, value)?);
        }
    }
    messages.sort_unstable_by_key(|message| message.seq);
    let complete = last == count
        && messages.len() as u64 == (last + 1).checked_sub(first)?
        && messages.iter().zip(first..).all(|(message, seq)| message.seq == seq);
    complete.then_some(messages)
}

#[cfg(test)]
mod tests;
