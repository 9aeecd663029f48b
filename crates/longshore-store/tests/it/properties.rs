//! Whatever happens in whatever order: terminal once and for ever, one valid fence, stale writes change
//! nothing, conversations in order, no cap exceeded, and the tables agree with each other.
//!
//! A small model in memory says which fences are valid and which tasks are done; the store has to agree after
//! each step.

mod model;
pub mod shared_tables;
pub mod tables;

use longshore_core::task::{Interruption, OnBusy};
use proptest::prelude::*;

use crate::support::World;
use model::Model;

/// One step; numbers choose among what there is at that moment.
#[derive(Clone, Debug)]
pub enum Step {
    Submit {
        conversation: Option<u8>,
        priority: i32,
        delay_s: Option<u8>,
        fails_on_interrupt: bool,
        tenant: u8,
        on_busy: OnBusy,
        deadline_s: Option<u8>,
    },
    /// Children of a running task; names that come again are the same child.
    Beget {
        fence: u16,
        names: Vec<u8>,
        detach: bool,
    },
    Answer {
        task: u16,
    },
    Claim {
        worker: u8,
        max: u8,
        repeat: bool,
        busy: bool,
    },
    Say {
        fence: u16,
        n: u8,
        message: bool,
    },
    End {
        fence: u16,
        how: How,
        by: u8,
    },
    Cancel {
        task: u16,
    },
    Beat {
        worker: u8,
        keep: u64,
        read_all: bool,
    },
    Restart {
        worker: u8,
    },
    Lose {
        worker: u8,
    },
    Pass {
        seconds: u8,
    },
    /// New caps; 0 means none.
    Limit {
        fleet: u8,
        tenants: u8,
        tenant: u8,
        starts: u8,
    },
    Pause {
        paused: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum How {
    Succeeded,
    Failed { retryable: bool },
    Interrupted(Interruption),
    WaitsForChildren { all: bool, timeout_s: Option<u8> },
    Asks { name: Option<u8>, expires_s: Option<u8>, resumes: bool },
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Succeeded),
        3 => any::<bool>().prop_map(|retryable| How::Failed { retryable }),
        1 => Just(How::Interrupted(Interruption::HandedOver)),
        1 => Just(How::Interrupted(Interruption::AgentCrashed)),
        1 => Just(How::Interrupted(Interruption::Cancelled)),
        3 => (any::<bool>(), proptest::option::weighted(0.2, 1..20u8))
            .prop_map(|(all, timeout_s)| How::WaitsForChildren { all, timeout_s }),
        1 => (proptest::option::of(0..2u8), proptest::option::of(1..20u8), any::<bool>())
            .prop_map(|(name, expires_s, resumes)| How::Asks { name, expires_s, resumes }),
    ]
}

fn on_busy() -> impl Strategy<Value = OnBusy> {
    prop_oneof![8 => Just(OnBusy::Enqueue), 1 => Just(OnBusy::Reject), 1 => Just(OnBusy::Interrupt)]
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..3u8;
    prop_oneof![
        6 => (proptest::option::of(0..2u8), -1..2i32, proptest::option::weighted(0.2, 1..20u8), prop::bool::weighted(0.1),
                0..3u8, on_busy(), proptest::option::weighted(0.2, 1..40u8))
            .prop_map(|(conversation, priority, delay_s, fails_on_interrupt, tenant, on_busy, deadline_s)|
                Step::Submit { conversation, priority, delay_s, fails_on_interrupt, tenant, on_busy, deadline_s }),
        2 => (0..4u8, 0..3u8, 0..3u8, 0..4u8)
            .prop_map(|(fleet, tenants, tenant, starts)| Step::Limit { fleet, tenants, tenant, starts }),
        1 => any::<bool>().prop_map(|paused| Step::Pause { paused }),
        8 => (worker.clone(), 1..4u8, prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(worker, max, repeat, busy)| Step::Claim { worker, max, repeat, busy }),
        4 => (any::<u16>(), 1..4u8, any::<bool>()).prop_map(|(fence, n, message)| Step::Say { fence, n, message }),
        8 => (any::<u16>(), how(), prop_oneof![9 => Just(9u8), 1 => worker.clone()])
            .prop_map(|(fence, how, by)| Step::End { fence, how, by }),
        2 => any::<u16>().prop_map(|task| Step::Cancel { task }),
        4 => (any::<u16>(), proptest::collection::vec(0..4u8, 1..4), prop::bool::weighted(0.2))
            .prop_map(|(fence, names, detach)| Step::Beget { fence, names, detach }),
        1 => any::<u16>().prop_map(|task| Step::Answer { task }),
        3 => (worker.clone(), any::<u64>(), any::<bool>())
            .prop_map(|(worker, keep, read_all)| Step::Beat { worker, keep, read_all }),
        1 => worker.clone().prop_map(|worker| Step::Restart { worker }),
        1 => worker.prop_map(|worker| Step::Lose { worker }),
        3 => (1..25u8).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..70)
}

async fn check(world: World, steps: &[Step]) {
    let mut model = Model::new(world).await;
    for step in steps {
        model.take(step).await;
        model.check().await;
    }
    model.finish_all().await;
    model.clean_up().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_whatever_happens(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { check(World::embedded().await, &steps).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_on_the_shared_store(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Some(world) = World::shared().await else { return };
            check(world, &steps).await;
        });
    }
}
