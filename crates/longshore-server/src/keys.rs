//! Who calls: a token is held against the administrator's and against the store's API keys.
//!
//! Keys that were found are remembered for two seconds, so a revoked one is refused everywhere after as long. No token
//! and no key is kept in memory, only their hashes.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore_core::access::{KEY_LENGTH, KEY_PREFIX, Scope, Standing, is_key, standing};
use longshore_store::{KeyHash, KeyRecord, Store};
use rand::Rng;
use rand::distr::Alphanumeric;
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::app::now;
use crate::error::{Answer, Refused};

/// How long a key that was found counts without asking the store again.
const FRESH: Duration = Duration::from_secs(2);

/// How often a key's last use is written.
const TOUCH: Duration = Duration::from_secs(60);

/// Remembered keys above which those that are not fresh are forgotten.
const MANY: usize = 1024;

/// Makes a key, from a generator that is fit for secrets.
pub fn new_key() -> String {
    let letters = rand::rng().sample_iter(Alphanumeric).take(KEY_LENGTH).map(char::from);
    KEY_PREFIX.chars().chain(letters).collect()
}

pub fn hash(token: &str) -> KeyHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Compares without telling by its time where the two differ.
fn same(one: &KeyHash, other: &KeyHash) -> bool {
    black_box(one.iter().zip(other).fold(0, |differing, (a, b)| differing | (a ^ b))) == 0
}

/// The keys that open this control plane.
pub struct Keys {
    store: Store,
    /// Of administrators' tokens, which are in no store.
    admins: Vec<KeyHash>,
    /// Whoever shows nothing may do everything.
    open: bool,
    seen: Mutex<HashMap<KeyHash, Seen>>,
}

struct Seen {
    record: Arc<KeyRecord>,
    at: Instant,
    touched: Instant,
}

/// Somebody who was let in.
#[derive(Clone, Debug)]
pub struct Known {
    pub scope: Arc<Scope>,
    /// `None`: an administrator's token, or nobody in particular.
    pub key: Option<KeyHash>,
}

impl Keys {
    pub fn new(store: Store, admins: &[String], open: bool) -> Keys {
        Keys { store, admins: admins.iter().map(|token| hash(token)).collect(), open, seen: Mutex::default() }
    }

    /// Says whose token this is. Who shows one is judged by it, even where none is needed.
    pub async fn identify(&self, token: Option<&str>) -> Answer<Known> {
        let everything = || Known { scope: Arc::new(Scope::everything()), key: None };
        let Some(token) = token else {
            return if self.open { Ok(everything()) } else { Err(token_required()) };
        };
        let hash = hash(token);
        // All are compared, so that the time tells nothing.
        if self.admins.iter().fold(false, |found, admin| found | same(admin, &hash)) {
            return Ok(everything());
        }
        if !is_key(token) {
            return Err(bad_token());
        }
        let record = self.check(hash).await?;
        Ok(Known { scope: Arc::new(record.scope.clone()), key: Some(hash) })
    }

    /// The key with this hash, if it is good now.
    ///
    /// Errors: 401 `bad_token`, `key_expired`, `key_revoked`.
    pub async fn check(&self, hash: KeyHash) -> Answer<Arc<KeyRecord>> {
        let record = match self.remembered(&hash) {
            Some(record) => record,
            None => self.look_up(hash).await?,
        };
        match standing(record.expires_at, record.revoked_at, now()) {
            Standing::Good => {
                self.touch(&record);
                Ok(record)
            }
            Standing::Expired => Err(Refused::new(401, "key_expired", "this key has expired")
                .hint("make a new one with `longshore keys create`")),
            Standing::Revoked => Err(Refused::new(401, "key_revoked", "this key was revoked")),
        }
    }

    /// Asks the store again at the next request.
    pub fn forget(&self) {
        self.seen.lock().expect("no holder panics").clear();
    }

    fn remembered(&self, hash: &KeyHash) -> Option<Arc<KeyRecord>> {
        let seen = self.seen.lock().expect("no holder panics");
        seen.get(hash).filter(|seen| seen.at.elapsed() < FRESH).map(|seen| Arc::clone(&seen.record))
    }

    async fn look_up(&self, hash: KeyHash) -> Answer<Arc<KeyRecord>> {
        // Before asking: what is revoked meanwhile must not count for longer.
        let at = Instant::now();
        let found = self.store.key_by_hash(hash).await?.filter(|record| same(&record.hash, &hash));
        let mut seen = self.seen.lock().expect("no holder panics");
        let Some(record) = found.map(Arc::new) else {
            seen.remove(&hash);
            return Err(bad_token());
        };
        if seen.len() >= MANY {
            seen.retain(|_, seen| seen.at.elapsed() < FRESH);
        }
        // Of a key that is new here the last use is old.
        let long_ago = at.checked_sub(TOUCH).unwrap_or(at);
        let entry =
            seen.entry(hash).or_insert_with(|| Seen { record: Arc::clone(&record), at, touched: long_ago });
        (entry.record, entry.at) = (Arc::clone(&record), at);
        Ok(record)
    }

    /// Notes the use once a minute, without making anybody wait.
    fn touch(&self, record: &KeyRecord) {
        let mut seen = self.seen.lock().expect("no holder panics");
        let due = seen.get_mut(&record.hash).filter(|seen| seen.touched.elapsed() >= TOUCH);
        let Some(entry) = due else { return };
        entry.touched = Instant::now();
        drop(seen);
        let (store, id) = (self.store.clone(), record.id);
        tokio::spawn(async move {
            if let Err(error) = store.touch_key(id, now()).await {
                warn!(%error, key = %id, "could not note a key's use");
            }
        });
    }
}

fn token_required() -> Refused {
    Refused::new(401, "token_required", "this control plane asks for a key")
        .hint("send `Authorization: Bearer …`, or set LONGSHORE_TOKEN")
}

fn bad_token() -> Refused {
    Refused::new(401, "bad_token", "this token is not accepted here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_of_their_shape_and_never_alike() {
        let (one, other) = (new_key(), new_key());
        assert!(is_key(&one) && is_key(&other) && one != other);
    }

    #[test]
    fn hashes_are_the_same_or_not_wherever_they_differ() {
        let one = hash("a");
        assert!(same(&one, &hash("a")));
        for at in [0, 15, 31] {
            let mut other = one;
            other[at] ^= 1;
            assert!(!same(&one, &other));
        }
    }
}
