//! A worker without an agent: speaks the worker link and answers at once, so that the link is what is measured.

use longshore_api::link::{
    AttemptEnding, Claim, ClaimedTask, Complete, Condition, Heartbeat, Outcome, Register, VERSION,
    WorkerState,
};
use longshore_api::link_client::LinkClient;
use longshore_core::id::{FleetName, Held, WorkerId};
use longshore_core::json::Json;
use uuid::Uuid;

use crate::plane::Plane;

pub struct LinkWorker {
    link: LinkClient,
    worker: WorkerId,
    nonce: Uuid,
    seq: u64,
}

impl LinkWorker {
    pub async fn register(plane: &Plane, fleet: &str, name: &str) -> LinkWorker {
        LinkWorker::register_by(LinkWorker::client(plane, fleet), fleet, name).await
    }

    /// What the fleet's workers prove themselves with.
    pub fn token(plane: &Plane, fleet: &str) -> String {
        let token = plane.dir().join(".longshore/tokens").join(fleet);
        std::fs::read_to_string(token).expect("written at the start").trim().to_owned()
    }

    pub fn client(plane: &Plane, fleet: &str) -> LinkClient {
        let token = LinkWorker::token(plane, fleet);
        LinkClient::new(std::slice::from_ref(&plane.addresses.link), &token, "bench", None)
            .expect("a valid address")
    }

    /// Several may share a client.
    pub async fn register_by(link: LinkClient, fleet: &str, name: &str) -> LinkWorker {
        let worker = WorkerId::new(name).expect("valid");
        let nonce = Uuid::new_v4();
        let hello = Register {
            link_version: VERSION,
            worker: worker.clone(),
            nonce,
            fleet: FleetName::new(fleet).expect("valid"),
            version: "0".into(),
            pid: None,
            host: None,
            probe_addr: None,
            concurrency: Some(1_000),
        };
        link.register(&hello).await.expect("it is let in");
        let this = LinkWorker { link, worker, nonce, seq: 0 };
        let ready = Condition { state: WorkerState::Ready, reason: String::new(), memory: 0 };
        this.link.heartbeat(&this.beat(ready)).await.expect("it is known");
        this
    }

    pub fn id(&self) -> &WorkerId {
        &self.worker
    }

    pub fn nonce(&self) -> Uuid {
        self.nonce
    }

    fn beat(&self, condition: Condition) -> Heartbeat {
        let (worker, nonce) = (self.worker.clone(), self.nonce);
        Heartbeat {
            worker,
            nonce,
            held: Vec::new(),
            last_claim: 0,
            cancelling: Vec::new(),
            condition,
            wait_ms: 0,
        }
    }

    /// Waits for tasks for as long as it takes.
    pub async fn claim(&mut self, max: u32) -> Vec<ClaimedTask> {
        loop {
            let tasks = self.claim_within(max, 20_000).await;
            if !tasks.is_empty() {
                return tasks;
            }
        }
    }

    async fn claim_within(&mut self, max: u32, wait_ms: u64) -> Vec<ClaimedTask> {
        self.seq += 1;
        let (worker, nonce, seq) = (self.worker.clone(), self.nonce, self.seq);
        let claim = Claim { worker, nonce, seq, max, in_flight: 0, wait_ms };
        self.link.claim(&claim).await.expect("the control plane answers").tasks
    }

    pub async fn complete(&self, tasks: Vec<ClaimedTask>, bytes: usize) {
        let result = Json::string(&"y".repeat(bytes));
        let ending = |task: ClaimedTask| AttemptEnding {
            held: Held { task: task.id, fence: task.fence },
            events: Vec::new(),
            outcome: Outcome::Succeeded { result: result.clone() },
        };
        let endings: Vec<_> = tasks.into_iter().map(ending).collect();
        let count = endings.len();
        let done = Complete { worker: self.worker.clone(), nonce: self.nonce, endings };
        let ended = self.link.complete(&done).await.expect("the control plane answers");
        assert_eq!(ended.accepted.len(), count);
    }

    /// Claims and completes until there is nothing left; how many that were.
    pub async fn run_until_empty(mut self, max: u32, bytes: usize) -> usize {
        let mut done = 0;
        loop {
            let tasks = self.claim_within(max, 0).await;
            if tasks.is_empty() {
                return done;
            }
            done += tasks.len();
            self.complete(tasks, bytes).await;
        }
    }
}
