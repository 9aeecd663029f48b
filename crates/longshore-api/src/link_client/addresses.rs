//! Where the control plane's replicas listen, which of them is in use, and which comes next.
//!
//! Each worker has its own order of them, by hash: workers spread over the replicas, and those of a replica that dies
//! spread over the others. Nothing leads away from one that works, neither its turn nor a new list.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Url;

use super::LinkSetupError;

pub(super) struct Addresses {
    /// What the order depends on.
    seed: String,
    /// What the worker was started with, in its order.
    given: Vec<Arc<str>>,
    state: Mutex<State>,
}

struct State {
    in_use: Arc<str>,
    /// What the control plane said last, in this worker's order; tried before what was given.
    told: Vec<Arc<str>>,
}

/// What one request has tried since it last waited. A request that goes on at the next address needs no pause, one that
/// failed everywhere does.
#[derive(Debug, Default)]
pub struct Round {
    tried: Vec<Arc<str>>,
    moved: bool,
}

impl Round {
    /// Whether the last failure led to an address that this round has not tried, so that asking there needs no pause.
    /// Says so once.
    pub fn moves_on(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }
}

impl Addresses {
    pub(super) fn new(given: &[String], seed: &str) -> Result<Addresses, LinkSetupError> {
        let given: Result<Vec<Arc<str>>, _> = given.iter().map(|address| checked(address)).collect();
        let given = ordered(seed, given?);
        let in_use = given.first().cloned().ok_or(LinkSetupError::NoAddress)?;
        Ok(Addresses { seed: seed.to_owned(), given, state: Mutex::new(State { in_use, told: Vec::new() }) })
    }

    pub(super) fn in_use(&self) -> Arc<str> {
        self.lock().in_use.clone()
    }

    /// Whether nothing but plain HTTP was given.
    pub(super) fn are_plain(&self) -> bool {
        self.given.iter().all(|address| is_plain(address))
    }

    /// The replicas that live now, as one of them says; none: it does not know.
    pub(super) fn told(&self, links: &[String]) {
        if links.is_empty() {
            return;
        }
        // A token that was never to travel in the clear does not, whatever a replica calls itself.
        let fits = |address: &Arc<str>| !is_plain(address) || self.given.iter().any(|given| is_plain(given));
        let told = links.iter().filter_map(|address| checked(address).ok()).filter(fits);
        let told = ordered(&self.seed, told.collect());
        self.lock().told = told;
    }

    /// Returns where to try next, at once; `None`: all have failed, and the next round begins at another one than this.
    ///
    /// Other requests follow, but only if none has moved on meanwhile: else two failures would lead back to the dead one.
    pub(super) fn failed(&self, address: &Arc<str>, round: &mut Round) -> Option<Arc<str>> {
        round.tried.push(Arc::clone(address));
        round.moved = true;
        let mut state = self.lock();
        if !round.tried.contains(&state.in_use) {
            return Some(state.in_use.clone());
        }
        let mut all = state.told.iter().chain(&self.given);
        if let Some(next) = all.clone().find(|address| !round.tried.contains(address)).cloned() {
            state.in_use = Arc::clone(&next);
            return Some(next);
        }
        let other = all.find(|other| *other != address).cloned();
        state.in_use = other.unwrap_or_else(|| self.given[0].clone());
        *round = Round::default();
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ordered(seed: &str, mut addresses: Vec<Arc<str>>) -> Vec<Arc<str>> {
    addresses.sort_by_cached_key(|address| {
        let mut hasher = DefaultHasher::new();
        (seed, address).hash(&mut hasher);
        hasher.finish()
    });
    addresses.dedup();
    addresses
}

fn is_plain(address: &str) -> bool {
    address.starts_with("http://")
}

/// An address without its trailing slash.
fn checked(address: &str) -> Result<Arc<str>, LinkSetupError> {
    let wrong = || LinkSetupError::Address(address.to_owned());
    let url = Url::parse(address.trim()).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !url.username().is_empty() {
        return Err(wrong());
    }
    Ok(url.as_str().trim_end_matches('/').into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn check(address: &str, expected: Option<&str>) {
        assert_eq!(checked(address).ok().as_deref(), expected, "{address}");
    }

    #[test]
    fn an_address_is_a_scheme_a_host_and_maybe_a_path() {
        check("http://127.0.0.1:7118", Some("http://127.0.0.1:7118"));
        check(" https://longshore.internal/link/ ", Some("https://longshore.internal/link"));
        for wrong in ["", "127.0.0.1:7118", "ftp://a", "http://", "http://user@a", "/worker"] {
            check(wrong, None);
        }
    }

    fn links<const N: usize>(names: [&str; N]) -> Vec<String> {
        names.iter().map(|name| format!("http://{name}")).collect()
    }

    fn addresses<const N: usize>(given: [&str; N]) -> Addresses {
        Addresses::new(&links(given), "worker-1").expect("addresses")
    }

    /// The names of those that a request tries which fails everywhere, in their order.
    fn round(addresses: &Addresses) -> Vec<String> {
        let (mut round, mut at) = (Round::default(), Some(addresses.in_use()));
        let mut tried = Vec::new();
        while let Some(address) = at {
            tried.push(address.trim_start_matches("http://").to_owned());
            at = addresses.failed(&address, &mut round);
            assert_eq!(round.moves_on(), at.is_some());
            assert!(!round.moves_on(), "said once");
        }
        tried
    }

    fn sorted(mut names: Vec<String>) -> Vec<String> {
        names.sort();
        names
    }

    #[test]
    fn a_request_that_fails_everywhere_has_tried_each_address_once() {
        for given in [&["a"][..], &["a", "b"], &["a", "b", "c"], &["a", "b", "a"]] {
            let given: Vec<String> = given.iter().map(|name| format!("http://{name}")).collect();
            let addresses = Addresses::new(&given, "worker-1").expect("addresses");
            for _ in 0..3 {
                let tried = round(&addresses);
                let mut once = sorted(tried.clone());
                once.dedup();
                assert_eq!(once.len(), tried.len(), "{tried:?}");
                assert!(given.iter().all(|address| once.contains(&address["http://".len()..].to_owned())));
            }
        }
    }

    #[test]
    fn a_failure_of_one_that_others_have_left_leads_to_where_they_are() {
        let addresses = addresses(["a", "b"]);
        let (dead, mut first, mut second) = (addresses.in_use(), Round::default(), Round::default());
        let next = addresses.failed(&dead, &mut first).expect("another");
        assert_ne!(next, dead);
        assert_eq!(addresses.failed(&dead, &mut second), Some(next.clone()));
        assert_eq!(addresses.in_use(), next);
    }

    #[test]
    fn workers_spread_over_replicas_and_those_of_a_dead_one_over_the_others() {
        let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
        for n in 0..300 {
            let addresses =
                Addresses::new(&links(["a", "b", "c"]), &format!("worker-{n}")).expect("addresses");
            let begins = addresses.in_use();
            *first.entry(begins.clone()).or_insert(0) += 1;
            if &*begins == "http://a" {
                let next = addresses.failed(&begins, &mut Round::default()).expect("another");
                *second.entry(next).or_insert(0) += 1;
            }
        }
        assert!(first.len() == 3 && first.values().all(|count| *count > 60), "{first:?}");
        assert!(second.len() == 2 && second.values().all(|count| *count > 25), "{second:?}");
    }

    #[test]
    fn a_new_list_is_used_when_the_address_in_use_fails_and_what_was_given_after_it() {
        let addresses = addresses(["given"]);
        addresses.told(&links(["x", "y"]));
        assert_eq!(&*addresses.in_use(), "http://given", "it works");
        let tried = round(&addresses);
        assert_eq!(
            (&*tried[0], sorted(tried[1..].to_vec())),
            ("given", vec!["x".to_owned(), "y".to_owned()])
        );
        let tried = round(&addresses);
        assert_eq!(
            (sorted(tried[..2].to_vec()), &*tried[2]),
            (vec!["x".to_owned(), "y".to_owned()], "given")
        );
        addresses.told(&[]);
        assert_eq!(round(&addresses).len(), 3, "an older control plane says nothing");
        addresses.told(&links(["z"]));
        assert_eq!(sorted(round(&addresses)).last().map(String::as_str), Some("z"));
        assert_eq!(sorted(round(&addresses)), ["given", "z"]);
    }

    #[test]
    fn what_is_no_address_or_would_show_the_token_is_not_taken_from_a_list() {
        let addresses = Addresses::new(&["https://given".to_owned()], "w").expect("an address");
        addresses.told(&["x:1".to_owned(), "http://clear".to_owned(), "https://fine".to_owned()]);
        let mut round = Round::default();
        let next = addresses.failed(&addresses.in_use(), &mut round).expect("another");
        assert_eq!(&*next, "https://fine");
        assert_eq!(addresses.failed(&next, &mut round), None);
    }
}
