//! How many connections each listener of a control plane may hold.

use std::sync::Arc;

use longshore_api::serve::{Room, Shares};
use longshore_core::role::{Role, Roles};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

/// Where connections have their seats. None of them can take another's, whoever comes in whatever numbers.
pub struct Rooms {
    pub api: Arc<Room>,
    /// Shared by all that the link listens at.
    pub link: Arc<Room>,
    pub probes: Arc<Room>,
    pub metrics: Arc<Room>,
}

impl Rooms {
    pub fn new(files: u64, roles: Roles) -> Rooms {
        let Shares { few, many } = Shares::of(files);
        let (api, link) = seats(many, roles);
        info!(
            files,
            api = roles.has(Role::Api).then_some(api),
            worker_link = roles.take_workers().then_some(link),
            workers = roles.has(Role::Link).then_some(link / POLLS),
            probes = few,
            "as many connections may be held, of about so many workers"
        );
        Rooms {
            api: Room::new("api", api),
            link: Room::new("worker link", link),
            probes: Room::of_short_answers("probes", few),
            metrics: Room::of_short_answers("external metrics", few),
        }
    }
}

impl Rooms {
    /// Whoever is on a connection looks for another replica after the next answer.
    pub fn end_connections(&self) {
        for room in [&self.api, &self.link, &self.probes, &self.metrics] {
            room.end_connections();
        }
    }
}

/// The seats of the worker link that agents' LLM calls may have. The rest is for what workers say themselves: a heartbeat that
/// found no seat would cost them their tasks, while a call waits, or is made by another replica.
pub struct Calls {
    seats: Arc<Semaphore>,
    link: Arc<Room>,
}

impl Calls {
    /// A replica that takes no workers has nothing else on its link.
    pub fn new(link: &Arc<Room>, roles: Roles) -> Calls {
        let kept = if roles.has(Role::Link) { link.seats() / 4 } else { 0 };
        let most = link.seats() - kept;
        Calls { seats: Arc::new(Semaphore::new(most)), link: Arc::clone(link) }
    }

    /// To be kept until the call's answer is sent. `None`: there are as many calls as there may be.
    pub fn seat(&self) -> Option<OwnedSemaphorePermit> {
        let seat = Arc::clone(&self.seats).try_acquire_owned().ok();
        if seat.is_none() && self.link.may_complain() {
            warn!(
                connections = self.link.seats(),
                "as many LLM calls as the worker link has room for: more have to wait"
            );
        }
        seat
    }
}

/// What an idle worker keeps with the link: a heartbeat and a claim.
const POLLS: usize = 2;

/// Seats of the API and of the worker link, of the two shares that they have. Where one of them does not listen the other
/// has its share, too; but a call of an LLM is one connection in and one out, so there half of it is for those.
fn seats(share: usize, roles: Roles) -> (usize, usize) {
    match (roles.has(Role::Api), roles.take_workers()) {
        (false, true) if roles.has(Role::Gateway) => (share, share + share / 2),
        (false, true) => (share, 2 * share),
        (true, false) => (2 * share, share),
        (true, true) | (false, false) => (share, share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_leave_seats_to_heartbeats() {
        let calls = Calls::new(&Room::new("link", 8), Role::ALL.iter().copied().collect());
        let mut under_way: Vec<_> = (0..6).map(|_| calls.seat().expect("a seat")).collect();
        assert!(calls.seat().is_none());
        under_way.pop();
        assert!(calls.seat().is_some(), "one has ended");
        let alone = Calls::new(&Room::new("link", 8), [Role::Gateway].into_iter().collect());
        let held: Vec<_> = (0..8).map_while(|_| alone.seat()).collect();
        assert_eq!(held.len(), 8, "workers say nothing else here");
    }

    #[test]
    fn a_listener_gets_the_seats_of_one_that_is_not_there() {
        let check = |roles: &[Role], api, link| {
            let share = Shares::of(4096).many;
            assert_eq!(seats(share, roles.iter().copied().collect()), (api, link), "{roles:?}");
        };
        check(&Role::ALL, 1301, 1301);
        check(&[Role::Api, Role::Controllers], 2602, 1301);
        check(&[Role::Link, Role::Controllers], 1301, 2602);
        check(&[Role::Link, Role::Gateway], 1301, 1951);
        check(&[Role::Controllers], 1301, 1301);
        assert_eq!(Shares::of(1 << 20).many, 349_461, "as documented");
    }
}
