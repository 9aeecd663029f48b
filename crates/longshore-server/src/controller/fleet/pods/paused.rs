//! The pause of a Deployment's own rollout: whether it is ours, or somebody else's word.

use longshore_core::kubernetes::Version;
use longshore_core::rollout::Order;

/// As we set it last, or agreed to it.
#[derive(Default)]
pub struct Paused {
    ours: Option<bool>,
    /// What our last change of it has made: older sights are from before.
    since: Version,
}

impl Paused {
    /// It was set by us, and not let go on.
    pub fn is_ours(&self) -> bool {
        self.ours == Some(true)
    }

    /// It is as it is to be, whoever wrote it.
    pub fn agree(&mut self, seen: bool, at: &Version) {
        if !at.is_before(&self.since) {
            self.ours = Some(seen);
        }
    }

    pub fn wrote(&mut self, paused: bool, since: Version) {
        *self = Paused { ours: Some(paused), since };
    }

    /// What somebody meant who paused it, or let it go on, by other means than longshore.
    pub fn by_hand(&mut self, seen: bool, at: &Version) -> Option<Order> {
        // However long our own change takes until it is seen.
        if at.is_before(&self.since) {
            return None;
        }
        let order = match (seen, self.ours) {
            (true, Some(true)) | (false, Some(false) | None) => return None,
            (true, _) => Order::Pause,
            (false, Some(true)) => Order::Resume,
        };
        self.ours = Some(seen);
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(generation: i64) -> Version {
        Version { uid: "one".into(), generation }
    }

    #[test]
    fn a_pause_by_hand_is_an_order_once() {
        let mut paused = Paused::default();
        assert_eq!(paused.by_hand(false, &at(3)), None);
        assert_eq!((paused.by_hand(true, &at(4)), paused.by_hand(true, &at(4))), (Some(Order::Pause), None));
        assert_eq!(
            (paused.by_hand(false, &at(5)), paused.by_hand(false, &at(5))),
            (Some(Order::Resume), None)
        );
    }

    #[test]
    fn what_is_seen_from_before_our_own_change_is_nobodys_order() {
        let mut paused = Paused::default();
        paused.wrote(true, at(8));
        assert_eq!(paused.by_hand(false, &at(7)), None, "our pause is not seen yet");
        paused.agree(false, &at(7));
        assert!(paused.is_ours(), "it was told to go on, and that is not written yet");
        assert_eq!(paused.by_hand(true, &at(8)), None);
        assert_eq!(paused.by_hand(false, &at(9)), Some(Order::Resume), "somebody let it go on");
        paused.wrote(false, at(12));
        assert_eq!(paused.by_hand(true, &at(11)), None, "neither is our word that it goes on");
    }
    #[test]
    fn a_deployment_that_was_made_anew_counts_from_the_beginning() {
        let mut paused = Paused::default();
        paused.wrote(false, at(40));
        let anew = Version { uid: "another".into(), generation: 2 };
        assert_eq!(paused.by_hand(true, &anew), Some(Order::Pause));
    }
}
