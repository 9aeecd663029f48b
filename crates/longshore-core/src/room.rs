//! Whether a host has room for one more container, by what those on it were promised.

use std::fmt;

use crate::units::show_size;

/// CPU in thousandths of a core, memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Room {
    pub cpu: u64,
    pub memory: u64,
}

/// A host that has no room, and what it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    what: What,
    asked: u64,
    free: u64,
    total: u64,
    /// How many containers have been promised something.
    containers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Cpu,
    Memory,
}

/// What of a host may be promised: all of its CPU, which is shared when it runs short, and nine tenths of its memory, since
/// the host itself needs some and cannot share it.
pub fn usable(host: Room) -> Room {
    Room { memory: host.memory / 10 * 9, ..host }
}

/// Decides whether a container that asks for `asked` may start beside those that were promised `taken`.
///
/// Errors: what there is too little of; memory before CPU, since a host out of memory kills.
pub fn admit(usable: Room, taken: &[Room], asked: Room) -> Result<(), Full> {
    let lacks = |what, asked: u64, total: u64, each: fn(&Room) -> u64| {
        let free = taken.iter().map(each).fold(total, u64::saturating_sub);
        let full = Full { what, asked, free, total, containers: taken.len() };
        if asked <= free { Ok(()) } else { Err(full) }
    };
    lacks(What::Memory, asked.memory, usable.memory, |room| room.memory)?;
    lacks(What::Cpu, asked.cpu, usable.cpu, |room| room.cpu)
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |amount: u64| match self.what {
            What::Cpu => format!("{} CPU", amount as f64 / 1000.0),
            What::Memory => show_size(amount >> 20 << 20),
        };
        let (what, key) = match self.what {
            What::Cpu => ("CPU", "cpu"),
            What::Memory => ("memory", "memory"),
        };
        let (asked, free, total) = (show(self.asked), show(self.free), show(self.total));
        write!(
            f,
            "held: the Docker host is out of {what}: a worker asks for {asked}, and of {total} {free} is not promised to the {} \
             containers of longshore's there; lower `resources.{key}` or `scaling.max`, or use a larger host",
            self.containers
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MI: u64 = 1 << 20;

    fn check(taken: &[(u64, u64)], asked: (u64, u64), expected: &str) {
        let room = |(cpu, mib): (u64, u64)| Room { cpu, memory: mib * MI };
        let taken: Vec<Room> = taken.iter().copied().map(room).collect();
        let answer = admit(room((2000, 1024)), &taken, room(asked));
        let answer = answer.map_or_else(|full| full.to_string(), |()| "admitted".into());
        assert!(answer.contains(expected), "{answer}");
    }

    #[test]
    fn a_container_fits_or_is_told_what_is_missing() {
        check(&[], (2000, 1024), "admitted");
        check(&[(500, 512)], (500, 512), "admitted");
        check(
            &[(500, 512)],
            (500, 513),
            "a worker asks for 513Mi, and of 1Gi 512Mi is not promised to the 1 containers",
        );
        check(&[(1500, 1), (500, 1)], (1, 1), "asks for 0.001 CPU, and of 2 CPU 0 CPU is");
        check(&[(9000, 9000)], (0, 0), "admitted");
    }

    #[test]
    fn the_host_keeps_a_tenth_of_its_memory() {
        assert_eq!(usable(Room { cpu: 4000, memory: 1000 }), Room { cpu: 4000, memory: 900 });
    }

    proptest! {
        #[test]
        fn what_was_admitted_is_never_more_than_there_is(
            asks in proptest::collection::vec((0u64..900, 0u64..900), 0..40),
        ) {
            let host = Room { cpu: 4000, memory: 4000 };
            let mut taken = Vec::new();
            for (cpu, memory) in asks {
                let asked = Room { cpu, memory };
                if admit(host, &taken, asked).is_ok() {
                    taken.push(asked);
                }
            }
            prop_assert!(taken.iter().map(|room| room.cpu).sum::<u64>() <= host.cpu);
            prop_assert!(taken.iter().map(|room| room.memory).sum::<u64>() <= host.memory);
        }
    }
}
