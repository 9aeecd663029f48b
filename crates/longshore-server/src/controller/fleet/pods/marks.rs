//! Says to Kubernetes which pods are to go first. That is advice: a fleet is scaled whether or not it could be given.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use futures_util::StreamExt;
use longshore_core::errors::chain;
use longshore_core::kubernetes::{Standing, due};
use longshore_platform::kubernetes::ClusterError;

use super::{AGAIN, AT_ONCE};

/// Marks that one look writes.
const MOST: usize = 64;

/// What was written.
#[derive(Default)]
pub struct Marks {
    set: HashMap<String, i32>,
    /// When one could not be written, and why.
    failed: Option<(Instant, String)>,
}

impl Marks {
    /// What pods were found marked with, by a leader before this one. What was written since counts for more.
    pub fn found<'a>(&mut self, pods: impl Iterator<Item = (&'a str, i32)>) {
        for (name, cost) in pods {
            self.set.entry(name.to_owned()).or_insert(cost);
        }
    }

    /// Writes what is missing. Returns whether all that have drained are marked, or will not be for now.
    pub async fn keep<'a, F>(
        &mut self,
        pods: impl Iterator<Item = (&'a str, Standing, u64)> + Clone,
        write: impl Fn(String, i32) -> F,
        now: Instant,
    ) -> bool
    where
        F: Future<Output = Result<(), ClusterError>>,
    {
        if self.failed.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < AGAIN) {
            return true;
        }
        let there: HashSet<&str> = pods.clone().map(|(name, ..)| name).collect();
        self.set.retain(|name, _| there.contains(name.as_str()));
        let due = due(pods, &self.set, MOST);
        let writes = due.marks.into_iter().map(|(name, cost)| {
            let write = write(name.clone(), cost);
            async move { (name, cost, write.await) }
        });
        let mut writes = futures_util::stream::iter(writes).buffer_unordered(AT_ONCE);
        self.failed = None;
        while let Some((name, cost, written)) = writes.next().await {
            match written {
                // It has gone already.
                Ok(()) | Err(ClusterError::NotFound { .. }) => drop(self.set.insert(name, cost)),
                Err(error) => self.failed = Some((now, chain(&error))),
            }
        }
        self.failed.is_some() || !due.drained_left
    }

    /// Why pods cannot be marked, for people.
    pub fn trouble(&self) -> Option<&str> {
        self.failed.as_ref().map(|(_, why)| why.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn what_may_not_be_marked_is_said_and_tried_again_and_waited_for_by_nobody() {
        let mut marks = Marks::default();
        let pods = [("a", Standing::Drained, 0), ("b", Standing::Drained, 0)];
        let asked = RefCell::new(Vec::new());
        let began = Instant::now();
        let refuses = async |marks: &mut Marks, refused: &str, at: Instant| {
            asked.borrow_mut().clear();
            let write = |name: String, _| {
                asked.borrow_mut().push(name.clone());
                let answer = match name == refused {
                    true => Err(ClusterError::Silent { what: format!("annotate pod `{name}`") }),
                    false => Ok(()),
                };
                async move { answer }
            };
            let goes_on = marks.keep(pods.into_iter(), write, at).await;
            (goes_on, asked.borrow().join(" "))
        };
        assert_eq!(refuses(&mut marks, "a", began).await, (true, "a b".into()));
        assert!(marks.trouble().is_some_and(|why| why.contains("annotate pod `a`")), "{:?}", marks.trouble());
        assert_eq!(refuses(&mut marks, "a", began).await, (true, String::new()), "not at once again");
        assert!(marks.trouble().is_some(), "it stays said");
        assert_eq!(refuses(&mut marks, "", began + AGAIN).await, (true, "a".into()));
        assert_eq!(marks.trouble(), None);
    }

    #[tokio::test]
    async fn many_are_marked_some_in_each_look() {
        let mut marks = Marks::default();
        let names: Vec<String> = (0..150).map(|n| format!("pod-{n}")).collect();
        let pods = names.iter().map(|name| (name.as_str(), Standing::Drained, 0));
        let done: Vec<_> = {
            let mut looks = Vec::new();
            for _ in 0..4 {
                let done = marks.keep(pods.clone(), |_, _| async { Ok(()) }, Instant::now()).await;
                looks.push((done, marks.set.len()));
            }
            looks
        };
        assert_eq!(done, [(false, 64), (false, 128), (true, 150), (true, 150)]);
        marks.keep(pods.take(3), |_, _| async { Ok(()) }, Instant::now()).await;
        assert_eq!(marks.set.len(), 3, "those of pods that are gone are forgotten");
    }

    #[tokio::test]
    async fn what_another_leader_marked_is_taken_back_once_it_works_again() {
        let mut marks = Marks::default();
        let asked = RefCell::new(Vec::new());
        let write = |name: String, cost| {
            asked.borrow_mut().push((name, cost));
            async { Ok(()) }
        };
        for _ in 0..3 {
            marks.found([("a", -5)].into_iter());
            marks.keep([("a", Standing::Ready, 0)].into_iter(), write, Instant::now()).await;
        }
        assert_eq!(*asked.borrow(), [("a".into(), 0)], "once");
    }
}
