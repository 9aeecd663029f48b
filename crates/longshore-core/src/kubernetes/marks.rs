//! What pods are marked with, so that Kubernetes removes those first that were told to go.

use std::collections::HashMap;

use super::Standing;

/// What is to be written in one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub marks: Vec<(String, i32)>,
    /// Some that have drained are left for the next look.
    pub drained_left: bool,
}

/// Which marks are missing, `most` of them: of each pod its name, its standing, and how long its tasks have run, in milliseconds.
///
/// `set`: what they are marked with. Those that have drained come first: unmarked they would cost more than one that still drains,
/// and stay in its place. One that works again, since nobody removed it, costs as much as any other again.
pub fn due<'a>(
    pods: impl Iterator<Item = (&'a str, Standing, u64)>,
    set: &HashMap<String, i32>,
    most: usize,
) -> Due {
    let (mut drained, mut others) = (Vec::new(), Vec::new());
    for (name, standing, invested_ms) in pods {
        let is_marked = set.get(name).is_some_and(|cost| *cost < 0);
        match (standing, deletion_cost(standing, invested_ms)) {
            (Standing::Drained, Some(cost)) if set.get(name) != Some(&cost) => {
                drained.push((name.to_owned(), cost));
            }
            // While it works on, what was written first will do.
            (Standing::Draining, Some(cost)) if !is_marked => others.push((name.to_owned(), cost)),
            (Standing::Ready | Standing::Starting, None) if is_marked => others.push((name.to_owned(), 0)),
            _ => {}
        }
    }
    let drained_left = drained.len() > most;
    drained.append(&mut others);
    drained.truncate(most);
    Due { marks: drained, drained_left }
}

/// What removing a pod costs beside others, as Kubernetes counts it: pods that nobody told to go are not marked and cost 0.
pub(super) fn deletion_cost(standing: Standing, invested_ms: u64) -> Option<i32> {
    match standing {
        Standing::Drained => Some(-2_000_000_000),
        Standing::Draining => {
            let seconds = i32::try_from(invested_ms / 1000).unwrap_or(i32::MAX).min(999_999_999);
            Some(-1_000_000_000 + seconds)
        }
        Standing::Ready | Standing::Starting | Standing::Leaving => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_drained_costs_least_then_who_has_least_to_lose() {
        let cost = |standing, ms| deletion_cost(standing, ms);
        assert!(cost(Standing::Drained, 0) < cost(Standing::Draining, 0));
        assert!(cost(Standing::Draining, 1_000) < cost(Standing::Draining, 900_000));
        assert!(cost(Standing::Draining, u64::MAX) < Some(0));
        assert_eq!(cost(Standing::Ready, 5), None);
    }

    fn check(pods: &[(&str, Standing)], set: &[(&str, i32)], most: usize, expected: &[&str], left: bool) {
        let set = set.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect();
        let due = due(pods.iter().map(|(name, standing)| (*name, *standing, 5_000)), &set, most);
        let names: Vec<_> = due.marks.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((&names[..], due.drained_left), (expected, left));
    }

    #[test]
    fn only_what_is_missing_is_marked_and_what_has_drained_first() {
        use Standing::{Drained, Draining, Leaving, Ready, Starting};
        let pods =
            [("a", Ready), ("b", Draining), ("c", Drained), ("d", Starting), ("e", Drained), ("f", Leaving)];
        check(&pods, &[], 9, &["c", "e", "b"], false);
        check(&pods, &[], 2, &["c", "e"], false);
        check(&pods, &[], 1, &["c"], true);
        check(&pods, &[("b", -999_999_000), ("c", -2_000_000_000)], 9, &["e"], false);
        // It has drained since.
        check(&pods, &[("b", -999_999_995), ("c", -999_999_995), ("e", -2_000_000_000)], 9, &["c"], false);
    }

    #[test]
    fn one_that_works_again_is_no_cheaper_than_others() {
        let pods = [("a", Standing::Ready, 0), ("b", Standing::Starting, 0), ("c", Standing::Ready, 0)];
        let set = HashMap::from([("a".into(), -2_000_000_000), ("b".into(), -7), ("c".into(), 0)]);
        assert_eq!(due(pods.into_iter(), &set, 9).marks, [("a".into(), 0), ("b".into(), 0)]);
        // And is told to go another time.
        let set = HashMap::from([("a".into(), 0)]);
        let again = due([("a", Standing::Draining, 2_000)].into_iter(), &set, 9);
        assert_eq!(again.marks, [("a".into(), -999_999_998)]);
    }
}
