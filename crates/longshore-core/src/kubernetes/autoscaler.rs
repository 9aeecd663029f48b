//! What autoscalers make of the numbers that they are told.

use crate::fleet::ScaledBy;

/// What to tell an autoscaler for a Deployment of `replicas` pods to come to `desired` workers. `there`: pods that it has, with those
/// that a rollout adds while it replaces others. `exactly`: a few more than were asked for would be no answer.
///
/// An autoscaler takes a difference of a tenth or less for none, and then makes the pods that are there the number to have (as
/// kubernetes/kubernetes#138505 tells): in a rollout it would add some at each look. Told nothing it leaves the number as it is.
///
/// Errors: how many it would have, where that is neither the number that it was told nor the one that stands.
pub fn tell(desired: u32, exactly: bool, replicas: u32, there: u32, max: u32) -> Result<u32, u32> {
    let told = match exactly || desired <= replicas {
        true => desired,
        false => beyond_tolerance(desired, replicas.max(there), max),
    };
    let comes = if is_tolerated(told, there) { there } else { told };
    if comes == told || comes == replicas { Ok(told) } else { Err(comes) }
}

/// Whether an autoscaler takes `told` for the number that is there.
pub fn is_tolerated(told: u32, there: u32) -> bool {
    u64::from(told.abs_diff(there)) * 10 <= u64::from(there)
}

/// An autoscaler has to be asked for more than a tenth, so a few workers more are asked for. Fewer never: those that are there
/// may be busy.
fn beyond_tolerance(desired: u32, workers: u32, max: u32) -> u32 {
    let tolerated = u32::try_from(u64::from(workers) * 11 / 10).unwrap_or(u32::MAX);
    if desired <= workers || desired > tolerated {
        return desired;
    }
    // Where the limit keeps it from acting, the fleet has nine tenths of the limit already.
    tolerated.saturating_add(1).min(max).max(desired)
}

/// Whether a fleet that is to have workers has no pods and gets none: a HorizontalPodAutoscaler that leaves `least` pods takes 0 for
/// somebody's wish to have it off. KEDA wakes what it scales.
pub fn is_asleep(by: ScaledBy, least: u32, replicas: u32, desired: u32) -> bool {
    by == ScaledBy::Hpa && least > 0 && replicas == 0 && desired > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_comes_to_what_is_wanted_or_nothing_is_told() {
        assert_eq!(tell(20, false, 20, 20, 50), Ok(20));
        assert_eq!(tell(21, false, 20, 20, 50), Ok(23));
        assert_eq!(tell(21, true, 20, 20, 50), Ok(21), "an operator's number");
        assert_eq!(tell(19, false, 20, 20, 50), Ok(19), "nothing comes of it yet");
        assert_eq!(tell(4, false, 20, 20, 50), Ok(4));
        assert_eq!(tell(8, false, 2, 2, 50), Ok(8));
        assert_eq!(tell(3, false, 3, 0, 50), Ok(3), "none is made yet");
    }

    #[test]
    fn pods_that_a_rollout_adds_for_a_while_never_become_wanted_ones() {
        assert_eq!(tell(20, false, 20, 21, 50), Err(21));
        assert_eq!(tell(19, false, 20, 21, 50), Err(21));
        assert_eq!(tell(8, false, 8, 9, 50), Ok(8), "more than a tenth, so it is taken at its word");
        assert_eq!(tell(22, false, 20, 21, 50), Ok(24));
        assert_eq!(tell(21, false, 20, 21, 50), Ok(21));
        assert_eq!(tell(10, false, 20, 21, 50), Ok(10));
        // The number has just been raised, and the pods are about to be made.
        assert_eq!(tell(21, false, 21, 20, 50), Err(20));
    }

    proptest::proptest! {
        #[test]
        fn an_autoscaler_in_a_loop_keeps_a_fleet_at_its_number_through_a_rollout(
            replicas in 1u32..200, surge in 0u32..10, looks in 1usize..40,
        ) {
            let mut number = replicas;
            for _ in 0..looks {
                // Held, longshore wants what the Deployment is to have.
                let there = number + surge;
                if let Ok(told) = tell(number, false, number, there, 10_000) {
                    number = if is_tolerated(told, there) { there } else { told };
                }
            }
            proptest::prop_assert_eq!(number, replicas);
        }
    }

    #[test]
    fn an_autoscaler_is_asked_for_more_than_it_would_ignore_and_never_for_fewer() {
        assert_eq!(beyond_tolerance(3, 2, 20), 3, "half as many again is no tenth");
        assert_eq!(beyond_tolerance(21, 20, 50), 23);
        assert_eq!(beyond_tolerance(11, 10, 50), 12, "exactly a tenth is tolerated");
        assert_eq!(beyond_tolerance(23, 20, 50), 23);
        assert_eq!(beyond_tolerance(21, 20, 22), 22, "never above the limit");
        assert_eq!(beyond_tolerance(19, 20, 50), 19);
        assert_eq!((beyond_tolerance(20, 20, 50), beyond_tolerance(0, 0, 9)), (20, 0));
    }

    #[test]
    fn only_what_an_autoscaler_leaves_at_none_is_asleep() {
        assert!(is_asleep(ScaledBy::Hpa, 1, 0, 2));
        assert!(!is_asleep(ScaledBy::Hpa, 1, 0, 0), "none are wanted");
        assert!(!is_asleep(ScaledBy::Hpa, 1, 1, 2));
        assert!(!is_asleep(ScaledBy::Hpa, 0, 0, 2), "it may scale to 0 and from there");
        assert!(!is_asleep(ScaledBy::Keda, 1, 0, 2));
        assert!(!is_asleep(ScaledBy::Direct, 1, 0, 2));
    }
}
