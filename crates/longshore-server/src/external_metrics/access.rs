//! What a caller may do: the API server says, and is not asked again for a moment.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use longshore_core::errors::chain;
use longshore_platform::kubernetes::aggregation::{self, ApiServer, User, Wish};
use tracing::warn;

use super::status::Status;

const ALLOWED_FOR: Duration = Duration::from_secs(10);
/// Shorter: somebody has just been given the right, and tries.
const DENIED_FOR: Duration = Duration::from_secs(5);

/// May do everything in every cluster.
const MASTERS: &str = "system:masters";

/// Answers above which the oldest ones go.
const MOST: usize = 1024;

pub struct Access {
    server: ApiServer,
    known: Mutex<Known>,
}

impl Access {
    pub fn new(server: ApiServer) -> Access {
        Access { server, known: Mutex::default() }
    }

    pub async fn check(&self, user: User, wish: Wish) -> Result<(), Status> {
        if user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let key = (user, wish);
        let known = self.known.lock().expect("no holder panics").get(&key, Instant::now());
        let verdict = match known {
            Some(verdict) => verdict,
            None => {
                let reviewed = aggregation::review_access(self.server.client(), &key.0, &key.1).await;
                let verdict = reviewed.map_err(|error| {
                    let why = chain(&error);
                    warn!(
                        why,
                        user = key.0.name,
                        "what a caller of external metrics may do could not be found out"
                    );
                    Status::unavailable(format!(
                        "it could not be found out whether `{}` may ask: {why}",
                        key.0.name
                    ))
                })?;
                self.known.lock().expect("no holder panics").put(
                    key.clone(),
                    verdict.clone(),
                    Instant::now(),
                );
                verdict
            }
        };
        verdict.map_err(|said| denied(&key.0, &key.1, &said))
    }
}

fn denied(user: &User, wish: &Wish, said: &str) -> Status {
    let Wish { verb, group, namespace, resource, .. } = wish;
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    Status::forbidden(format!(
        "`{}` may not {verb} `{resource}` of API group `{group}` in namespace `{namespace}`{said}",
        user.name
    ))
}

type Key = (User, Wish);
type Verdict = Result<(), String>;

/// What was answered lately.
#[derive(Default)]
struct Known(HashMap<Key, (Instant, Verdict)>);

fn lasts(verdict: &Verdict) -> Duration {
    if verdict.is_ok() { ALLOWED_FOR } else { DENIED_FOR }
}

impl Known {
    fn get(&self, key: &Key, now: Instant) -> Option<Verdict> {
        let (at, verdict) = self.0.get(key)?;
        (now.saturating_duration_since(*at) < lasts(verdict)).then(|| verdict.clone())
    }

    fn put(&mut self, key: Key, verdict: Verdict, now: Instant) {
        if self.0.len() >= MOST {
            self.0.retain(|_, (at, verdict)| now.saturating_duration_since(*at) < lasts(verdict));
        }
        if self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.0.remove(&key));
        }
        self.0.insert(key, (now, verdict));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, resource: &str) -> Key {
        let user = User { name: name.into(), uid: None, groups: Vec::new(), extra: Default::default() };
        let namespace = "agents".into();
        (user, Wish { verb: "list", group: "g", version: "v", namespace, resource: resource.into() })
    }

    #[test]
    fn answers_are_remembered_for_a_moment_each_for_its_own_question() {
        let (mut known, begin) = (Known::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        known.put(key("a", "pending"), Ok(()), begin);
        known.put(key("b", "pending"), Err("no".into()), begin);
        assert_eq!(known.get(&key("a", "pending"), at(9)), Some(Ok(())));
        assert_eq!(known.get(&key("a", "pending"), at(10)), None);
        assert_eq!(known.get(&key("b", "pending"), at(4)), Some(Err("no".into())));
        assert_eq!(known.get(&key("b", "pending"), at(5)), None, "a refusal is forgotten sooner");
        assert_eq!(known.get(&key("a", "other"), begin), None);
        let mut grouped = key("a", "pending");
        grouped.0.groups.push("x".into());
        assert_eq!(known.get(&grouped, begin), None, "a caller is all that is said of it");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let (mut known, begin) = (Known::default(), Instant::now());
        for n in 0..MOST as u64 + 10 {
            known.put(key(&n.to_string(), "pending"), Ok(()), begin + Duration::from_millis(n));
        }
        assert_eq!(known.0.len(), MOST);
        assert!(known.get(&key("0", "pending"), begin).is_none(), "the oldest goes");
        known.put(key("new", "pending"), Ok(()), begin + Duration::from_secs(60));
        assert_eq!(known.0.len(), 1, "and what is over");
    }
}
