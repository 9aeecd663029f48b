//! What there is to say of the autoscalers that scale a fleet's Deployment.

use longshore_core::fleet::{ScaledBy, Scaling};
use longshore_core::kubernetes::is_tolerated;
use longshore_platform::kubernetes::Autoscaler;

/// Where it is not the one that `scaling.by` names, and no other.
pub fn notes(deployment: &str, by: ScaledBy, all: &[Autoscaler]) -> Vec<String> {
    let mut notes = Vec::new();
    let delete = |it: &Autoscaler| match it.by_keda {
        true => format!("delete the ScaledObject that made HorizontalPodAutoscaler `{}`", it.name),
        false => format!("delete HorizontalPodAutoscaler `{}`", it.name),
    };
    let is_meant = |it: &Autoscaler| match by {
        ScaledBy::Direct => false,
        ScaledBy::Hpa => !it.by_keda,
        ScaledBy::Keda => it.by_keda,
    };
    match (by, all) {
        (ScaledBy::Direct, [one, ..]) => notes.push(format!(
            "HorizontalPodAutoscaler `{}` scales Deployment `{deployment}`, so longshore does not: {}, or set `scaling.by` to \
             \"{}\"",
            one.name,
            delete(one),
            if one.by_keda { "keda" } else { "hpa" }
        )),
        (ScaledBy::Hpa | ScaledBy::Keda, []) => notes.push(format!(
            "`scaling.by` is \"{}\", and no HorizontalPodAutoscaler scales Deployment `{deployment}`: its number stays as it is",
            by.as_str()
        )),
        _ => {}
    }
    if by == ScaledBy::Direct {
        return notes;
    }
    let (meant, others): (Vec<_>, Vec<_>) = all.iter().partition(|it| is_meant(it));
    notes.extend(others.into_iter().map(|it| {
        format!(
            "`scaling.by` is \"{}\", and another autoscaler is in its way (of two Kubernetes heeds none): {}",
            by.as_str(),
            delete(it)
        )
    }));
    if meant.len() > 1 {
        let names: Vec<_> = meant.iter().map(|it| format!("`{}`", it.name)).collect();
        notes.push(format!(
            "HorizontalPodAutoscalers {} all scale Deployment `{deployment}`, and Kubernetes heeds none of them: leave one",
            names.join(", ")
        ));
    }
    notes
}

/// Why an operator's number will not be reached. `least`: the fewest pods that the autoscaler leaves.
pub fn ordered(asked: u32, scaling: &Scaling, replicas: u32, least: Option<u32>) -> Option<String> {
    let wanted = asked.min(scaling.max);
    if let Some(least) = least.filter(|least| wanted < *least) {
        return Some(format!(
            "{wanted} workers were asked for by hand, and the fleet's autoscaler leaves {least} (KEDA fewer, where its own minimum \
             is 0): lower its minimum, or set `scaling.by` to \"direct\""
        ));
    }
    let ignored = wanted != replicas && is_tolerated(wanted, replicas);
    ignored.then(|| {
        format!(
            "{wanted} workers were asked for by hand, and an autoscaler takes {replicas} for the same, since it ignores a tenth: ask \
             for a number further away, or set `scaling.by` to \"direct\""
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn autoscaler(name: &str, by_keda: bool) -> Autoscaler {
        Autoscaler { name: name.into(), deployment: "research".into(), by_keda, least: 2 }
    }

    fn check(by: ScaledBy, all: &[Autoscaler], expected: &[&str]) {
        let notes = notes("research", by, all);
        assert_eq!(notes.len(), expected.len(), "{notes:?}");
        for (note, words) in notes.iter().zip(expected) {
            assert!(note.contains(words), "{words}: {note}");
        }
    }

    #[test]
    fn whatever_keeps_the_autoscaler_that_is_meant_from_acting_is_said() {
        let (own, keda) = (autoscaler("research", false), autoscaler("keda-hpa-research", true));
        check(ScaledBy::Direct, &[], &[]);
        check(ScaledBy::Hpa, std::slice::from_ref(&own), &[]);
        check(ScaledBy::Keda, std::slice::from_ref(&keda), &[]);
        check(ScaledBy::Direct, std::slice::from_ref(&own), &["or set `scaling.by` to \"hpa\""]);
        check(ScaledBy::Direct, std::slice::from_ref(&keda), &["delete the ScaledObject"]);
        check(ScaledBy::Hpa, &[], &["no HorizontalPodAutoscaler"]);
        // `scaling.by` was changed, and what was rendered before is still there.
        check(ScaledBy::Keda, std::slice::from_ref(&own), &["delete HorizontalPodAutoscaler `research`"]);
        check(ScaledBy::Hpa, &[own.clone(), keda.clone()], &["delete the ScaledObject"]);
        check(ScaledBy::Hpa, &[own.clone(), autoscaler("mine", false)], &["`research`, `mine` all scale"]);
    }

    #[test]
    fn an_operators_number_that_will_not_be_reached_is_said() {
        let scaling = Scaling { max: 50, ..Scaling::default() };
        let said = |asked, replicas| ordered(asked, &scaling, replicas, Some(2)).unwrap_or_default();
        assert!(said(21, 20).contains("takes 20 for the same"), "{}", said(21, 20));
        assert_eq!((said(20, 20), said(30, 20), said(99, 50)), Default::default());
        assert!(said(0, 20).contains("leaves 2"), "{}", said(0, 20));
        assert_eq!(ordered(0, &scaling, 20, None), None, "there is none, which is said elsewhere");
    }
}
