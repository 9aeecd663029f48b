//! What must be true of the store, told by the answers that it gave.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use longshore_core::batch::BatchId;
use longshore_core::fleet::{Fleet, TenantCaps};
use longshore_core::id::{ConversationId, Fence, Held, TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::rate::Rate;
use longshore_core::task::{Ending, Failure, Hold, Interruption, OnBusy, OnInterrupt, State};
use longshore_core::tenant::Tenant;
use longshore_core::time::Timestamp;
use longshore_core::wait::{Ask, Awaits, OnExpiry, Wait, Which};
use longshore_store::*;
use uuid::Uuid;

use super::shared_tables::SharedTables;
use super::{How, Step, tables};
use crate::support::{Crew, World, fleet, new_task, says};

pub struct Model {
    world: World,
    crews: Vec<Crew>,
    seqs: [u64; 3],
    tasks: Vec<TaskId>,
    /// In order of submission.
    conversations: BTreeMap<u8, Vec<TaskId>>,
    /// Every fence that was ever given out, with its holder, oldest first.
    fences: Vec<(Held, usize)>,
    /// Valid now.
    valid: HashMap<TaskId, Fence>,
    /// Ended by their own worker: a repeated ending is told yes.
    own: Vec<Held>,
    done: HashMap<TaskId, TaskRecord>,
    /// Open; each takes some of a tenant's tasks, and is closed by some.
    batches: [BatchId; 3],
    tables: Option<SharedTables>,
    tenants: HashMap<TaskId, u8>,
    caps: Caps,
    paused: bool,
    /// A task may have to run alone.
    suspected: bool,
    /// When tasks were started.
    starts: Vec<Timestamp>,
}

/// 0: none.
#[derive(Clone, Copy, Default)]
struct Caps {
    fleet: usize,
    tenants: usize,
    /// Of tenant 0, over all fleets.
    tenant: usize,
    /// In ten seconds, and since when.
    rate: Option<(u8, Timestamp)>,
}

/// What a submission says, but for the defaults.
struct New {
    conversation: Option<u8>,
    tenant: u8,
    on_busy: OnBusy,
    /// To the batch of its tenant that is open; false: as its last one.
    batch: Option<bool>,
    task: NewTask,
}

impl Model {
    pub async fn new(world: World) -> Model {
        let mut crews = Vec::new();
        for worker in 0..3 {
            crews.push(world.worker(&format!("w{worker}")).await);
        }
        let tables = match world.dir {
            Some(_) => None,
            None => Some(SharedTables::of(&world).await),
        };
        Model {
            world,
            crews,
            seqs: [0; 3],
            tasks: Vec::new(),
            conversations: BTreeMap::new(),
            fences: Vec::new(),
            valid: HashMap::new(),
            own: Vec::new(),
            done: HashMap::new(),
            batches: std::array::from_fn(|_| BatchId(Uuid::now_v7())),
            tables,
            tenants: HashMap::new(),
            caps: Caps::default(),
            paused: false,
            suspected: false,
            starts: Vec::new(),
        }
    }

    pub async fn take(&mut self, step: &Step) {
        match *step {
            Step::Submit {
                conversation,
                priority,
                delay_s,
                fails_on_interrupt,
                tenant,
                on_busy,
                deadline_s,
            } => {
                let at = |seconds: u8| self.world.now().after(Duration::from_secs(seconds.into()));
                let (run_at, deadline_at) = (delay_s.map(at), deadline_s.map(at));
                let on_interrupt = if fails_on_interrupt { OnInterrupt::Fail } else { OnInterrupt::Resume };
                let publish_input = priority == 0;
                let task =
                    NewTask { priority, run_at, deadline_at, on_interrupt, publish_input, ..new_task() };
                let batch = (priority == 0).then_some(delay_s.is_none());
                self.submit(New { conversation, tenant, on_busy, batch, task }).await;
            }
            Step::Limit { fleet, tenants, tenant, starts } => {
                let rate = (starts > 0).then(|| (starts, self.world.now()));
                let (fleet, tenants, tenant) = (fleet.into(), tenants.into(), tenant.into());
                self.limit(Caps { fleet, tenants, tenant, rate }).await;
            }
            Step::Pause { paused } => self.pause(paused).await,
            Step::Claim { worker, max, repeat, busy } => self.claim(worker.into(), max, repeat, busy).await,
            Step::Say { fence, n, message } => self.say(fence, n, message).await,
            Step::End { fence, how, by } => self.end(fence, how, by).await,
            Step::Cancel { task } => self.cancel(task).await,
            Step::Beget { fence, ref names, detach } => self.beget(fence, names, detach).await,
            Step::Answer { task } => self.answer(task).await,
            Step::Beat { worker, keep, read_all } => self.beat(worker.into(), keep, read_all).await,
            Step::Restart { worker } => self.restart(worker.into()).await,
            Step::Lose { worker } => self.lose(worker.into()).await,
            Step::Pass { seconds } => {
                let expired = self.world.tick(Duration::from_secs(seconds.into())).await;
                self.released(&expired);
            }
        }
    }

    /// A closed batch is followed by another; one that was refused is not closed.
    async fn submit_to_batch(
        &mut self,
        task: NewTask,
        tenant: u8,
        more: bool,
    ) -> Result<Submitted, SubmitError> {
        let open = &mut self.batches[usize::from(tenant)];
        let batch = NewBatch { id: *open, name: String::new(), labels: BTreeMap::new(), more };
        let submitted = self.world.store.submit_batch(batch, vec![task], None, self.world.now()).await;
        if submitted.is_ok() && !more {
            *open = BatchId(Uuid::now_v7());
        }
        submitted
    }

    async fn submit(&mut self, New { conversation, tenant, on_busy, batch, task }: New) {
        let id = conversation.map(|it| ConversationId::new(format!("c{it}")).unwrap());
        let name = TenantName::new(format!("t{tenant}")).unwrap();
        let task = NewTask { conversation: id, tenant: name, on_busy, ..task };
        let before: Vec<TaskId> = match conversation {
            Some(conversation) => self.unfinished(conversation).await,
            None => Vec::new(),
        };
        let submitted = match batch {
            Some(more) => self.submit_to_batch(task, tenant, more).await,
            None => self.world.store.submit(vec![task], None, self.world.now()).await,
        };
        if on_busy == OnBusy::Reject && !before.is_empty() {
            assert!(matches!(submitted, Err(SubmitError::ConversationBusy(_))), "{submitted:?}");
            return;
        }
        let id = submitted.unwrap().ids[0];
        if on_busy == OnBusy::Interrupt {
            for id in before {
                let task = self.world.task(id).await;
                assert!(
                    task.state == State::Cancelled || task.state == State::Running && task.cancel_requested
                );
            }
        }
        self.tasks.push(id);
        self.tenants.insert(id, tenant);
        if let Some(conversation) = conversation {
            self.conversations.entry(conversation).or_default().push(id);
        }
    }

    async fn unfinished(&self, conversation: u8) -> Vec<TaskId> {
        let mut unfinished = Vec::new();
        for id in self.conversations.get(&conversation).into_iter().flatten() {
            if !self.world.task(*id).await.state.is_terminal() {
                unfinished.push(*id);
            }
        }
        unfinished
    }

    async fn limit(&mut self, caps: Caps) {
        let some = |cap: usize| (cap > 0).then_some(cap as u32);
        let a = Fleet {
            max_running: some(caps.fleet),
            tenants: TenantCaps { max_running: some(caps.tenants) },
            rate: caps.rate.map(|(tasks, _)| Rate { tasks: tasks.into(), per_ms: 10_000 }),
            ..Fleet::new(fleet("a"), vec!["true".into()], "/".into())
        };
        self.world.store.put_fleets(vec![a], self.world.now()).await.unwrap();
        let first = Tenant { max_running: some(caps.tenant), ..Tenant::new(TenantName::new("t0").unwrap()) };
        let heavy = Tenant { weight: 3, ..Tenant::new(TenantName::new("t1").unwrap()) };
        self.world.store.put_tenants(vec![first, heavy]).await.unwrap();
        self.caps = caps;
        self.starts.clear();
    }

    async fn pause(&mut self, paused: bool) {
        assert!(self.world.store.set_paused(fleet("a"), paused, self.world.now()).await.unwrap());
        self.paused = paused;
    }

    /// How many run, all together and of each tenant.
    fn running(&self) -> (usize, [usize; 3]) {
        let mut tenants = [0; 3];
        self.valid.keys().for_each(|id| tenants[usize::from(self.tenants[id])] += 1);
        (self.valid.len(), tenants)
    }

    /// A claim may reach a cap, and never pass it: what runs beyond it ran before it was lowered.
    fn check_caps(&mut self, before: (usize, [usize; 3]), started: usize) {
        assert!(!self.paused || started == 0, "nothing of a paused fleet starts");
        let within = |cap: usize, before: usize, now: usize| {
            assert!(cap == 0 || now <= cap.max(before), "{now} run, {before} before, {cap} may");
        };
        let now = self.running();
        within(self.caps.fleet, before.0, now.0);
        for tenant in 0..3 {
            within(self.caps.tenants, before.1[tenant], now.1[tenant]);
        }
        within(self.caps.tenant, before.1[0], now.1[0]);
        self.starts.extend(std::iter::repeat_n(self.world.now(), started));
        if let Some((tasks, since)) = self.caps.rate {
            let passed = self.world.now().since(since).as_millis() as usize;
            let most = usize::from(tasks) + usize::from(tasks) * passed / 10_000;
            assert!(self.starts.len() <= most, "{} started, {most} may", self.starts.len());
        }
    }

    /// What is counted, and what a claim of everything would find, are the same.
    async fn check_depth(&self) {
        let load = self.world.load("a").await;
        let mut ready = 0;
        for id in self.tasks.iter().filter(|id| !self.done.contains_key(id)) {
            ready += u64::from(self.world.task(*id).await.hold == Some(Hold::Ready));
        }
        assert_eq!(load.runnable + load.capped + load.paused, ready);
        assert!(self.paused == (load.paused > 0) || ready == 0);
        assert_eq!(load.running, self.valid.len() as u64);
    }

    async fn claim(&mut self, worker: usize, max: u8, repeat: bool, busy: bool) {
        let crew = self.crews[worker].clone();
        let seq = self.seqs[worker] + u64::from(!repeat);
        let could = self.world.load("a").await.runnable;
        let tasks = self.world.claim_busy(&crew, seq, max.into(), busy.into()).await.unwrap();
        if repeat {
            for task in tasks {
                assert_eq!(self.valid.get(&task.id), Some(&task.fence), "a repeat grants nothing new");
            }
            return;
        }
        self.seqs[worker] += u64::from(!tasks.is_empty());
        let (before, started) = (self.running(), tasks.len());
        assert!(tasks.len() <= max.into());
        assert!(tasks.len() <= 1 || tasks.iter().all(|task| !task.alone));
        for task in tasks {
            assert!(self.fences.iter().all(|(held, _)| held.fence < task.fence), "fences only grow");
            assert_eq!(self.valid.insert(task.id, task.fence), None, "one valid fence per task");
            assert!(!self.done.contains_key(&task.id), "what is done does not run again");
            self.fences.push((task.held(), worker));
        }
        self.check_caps(before, started);
        // Suspects apart, a claim gets what is counted.
        if !self.suspected {
            assert_eq!(started as u64, could.min(max.into()), "what can start is what is counted");
        }
    }

    /// Mostly one that is valid, sometimes an old one, if possible of a task that runs again by now.
    fn pick(&self, number: u16) -> Option<(Held, usize)> {
        let (valid, stale): (Vec<_>, Vec<_>) =
            self.fences.iter().copied().partition(|(held, _)| self.is_valid(held));
        let overtaken: Vec<_> =
            stale.iter().copied().filter(|(held, _)| self.valid.contains_key(&held.task)).collect();
        let from = match number % 4 {
            0 => &stale,
            1 => &overtaken,
            _ => &valid,
        };
        let from = if from.is_empty() { &self.fences } else { from };
        (!from.is_empty()).then(|| from[usize::from(number / 4) % from.len()])
    }

    fn is_valid(&self, held: &Held) -> bool {
        self.valid.get(&held.task) == Some(&held.fence)
    }

    async fn say(&mut self, number: u16, n: u8, message: bool) {
        let Some((held, worker)) = self.pick(number) else { return };
        let kind = if message { AgentEventKind::Message } else { AgentEventKind::Progress };
        let words = vec![(held, vec![says(n.into(), kind, "1")])];
        let before = self.world.task(held.task).await;
        let crew = &self.crews[worker];
        let now = self.world.now();
        let lost = self.world.store.append_events(crew.id.clone(), crew.nonce, words, now).await.unwrap();
        assert_eq!(lost.is_empty(), self.is_valid(&held));
        if !lost.is_empty() {
            assert_eq!(self.world.task(held.task).await, before, "a stale write changes nothing");
        }
    }

    async fn end(&mut self, number: u16, how: How, by: u8) {
        let Some((held, holder)) = self.pick(number) else { return };
        let worker = self.crews.get(usize::from(by)).map_or(holder, |_| usize::from(by));
        let ending = match how {
            How::Succeeded => Ending::Succeeded,
            How::Failed { retryable } => {
                Ending::Failed(Failure { retryable, ..Failure::new("exit_status", "1") })
            }
            How::Interrupted(cause) => {
                self.suspected |= cause == Interruption::AgentCrashed;
                Ending::Interrupted(cause)
            }
            How::WaitsForChildren { all, timeout_s } => Ending::Waited(Awaits::Children {
                which: if all { Which::All } else { Which::Any },
                of: Vec::new(),
                timeout_ms: timeout_s.map(|seconds| u64::from(seconds) * 1000),
            }),
            How::Asks { name, expires_s, resumes } => Ending::Waited(Awaits::Ask(Ask {
                name: name.map(|name| format!("q{name}")),
                question: Json::null(),
                schema: None,
                expires_ms: expires_s.map(|seconds| u64::from(seconds) * 1000),
                on_expiry: if resumes { OnExpiry::Resume } else { OnExpiry::Fail },
            })),
        };
        if matches!(ending, Ending::Waited(_)) && !self.has_families() {
            return;
        }
        let before = self.world.task(held.task).await;
        let valid = self.is_valid(&held) && worker == holder;
        let accepted = self.world.end(&self.crews[worker], held, ending).await;
        assert_eq!(accepted, valid || (worker == holder && self.own.contains(&held)));
        if valid {
            self.valid.remove(&held.task);
            self.own.push(held);
        } else {
            assert_eq!(self.world.task(held.task).await, before, "a stale ending changes nothing");
        }
    }

    /// Whether the store knows children and questions.
    fn has_families(&self) -> bool {
        self.tables.is_none()
    }

    async fn beget(&mut self, number: u16, names: &[u8], detach: bool) {
        let Some((held, _)) = self.pick(number).filter(|_| self.has_families()) else { return };
        let tenant = self.tenants[&held.task];
        let of = TenantName::new(format!("t{tenant}")).unwrap();
        let children: Vec<_> = names
            .iter()
            .map(|name| NewChild {
                name: format!("k{name}"),
                detach,
                task: NewTask { tenant: of.clone(), ..new_task() },
            })
            .collect();
        let now = self.world.now();
        let begotten = self.world.store.submit_children(held, new_task().fleet, children, now).await;
        assert_eq!(
            begotten.is_ok() || matches!(begotten, Err(ChildError::Refused(_))),
            self.is_valid(&held),
            "{begotten:?}"
        );
        for (child, created) in begotten.unwrap_or_default() {
            assert_eq!(created, !self.tasks.contains(&child.id), "a name is one child for ever");
            if created {
                self.tasks.push(child.id);
                self.tenants.insert(child.id, tenant);
            }
        }
    }

    async fn answer(&mut self, number: u16) {
        if self.tasks.is_empty() {
            return;
        }
        let id = self.tasks[usize::from(number) % self.tasks.len()];
        let before = self.world.task(id).await;
        let outcome =
            self.world.store.input(id, None, Json::string("resume"), self.world.now()).await.unwrap();
        let after = self.world.task(id).await;
        match outcome {
            InputOutcome::Taken => assert!(!before.state.is_terminal()),
            _ => assert_eq!(before, after, "a refused word changes nothing"),
        }
    }

    async fn cancel(&mut self, number: u16) {
        if self.tasks.is_empty() {
            return;
        }
        let id = self.tasks[usize::from(number) % self.tasks.len()];
        let before = self.world.task(id).await.state;
        let outcome = self.world.store.cancel(id, None, self.world.now()).await.unwrap();
        assert_eq!(
            outcome,
            match before {
                State::Running => CancelOutcome::Requested,
                state if state.is_terminal() => CancelOutcome::AlreadyTerminal(state),
                _ => CancelOutcome::Cancelled,
            }
        );
    }

    async fn beat(&mut self, worker: usize, keep: u64, read_all: bool) {
        let mine = self.fences.iter().filter(|(_, holder)| *holder == worker).map(|(held, _)| *held);
        let listed: Vec<_> =
            mine.enumerate().filter(|(at, _)| keep >> (at % 64) & 1 == 1).map(|(_, it)| it).collect();
        let last_claim = if read_all { self.seqs[worker] } else { 0 };
        let news = self.world.beat(&self.crews[worker], listed.clone(), last_claim).await.unwrap();
        let lost: Vec<_> = listed.iter().copied().filter(|held| !self.is_valid(held)).collect();
        assert_eq!(news.lost, lost);
        if read_all {
            let mine: Vec<_> = self
                .fences
                .iter()
                .filter(|(held, holder)| *holder == worker && self.is_valid(held))
                .collect();
            let ghosts: Vec<_> =
                mine.iter().map(|(held, _)| *held).filter(|held| !listed.contains(held)).collect();
            self.released(&ghosts);
        }
    }

    async fn restart(&mut self, worker: usize) {
        let old = self.crews[worker].clone();
        self.crews[worker].nonce = Uuid::new_v4();
        self.seqs[worker] = 0;
        let outcome = self.world.register(&self.crews[worker]).await.unwrap();
        self.released(&outcome.released);
        assert!(matches!(self.world.claim(&old, 99, 1).await, Err(ClaimError::StaleNonce(_))));
    }

    async fn lose(&mut self, worker: usize) {
        let released = self.world.crash(&self.crews[worker]).await;
        self.suspected |= !released.is_empty();
        self.released(&released);
        self.world.register(&self.crews[worker]).await.unwrap();
    }

    fn released(&mut self, released: &[Held]) {
        for held in released {
            assert_eq!(self.valid.remove(&held.task), Some(held.fence), "only valid leases are released");
        }
    }

    pub async fn check(&mut self) {
        let leases = self.world.store.leases(None).await.unwrap();
        let leases: HashMap<_, _> = leases.into_iter().map(|it| (it.held.task, it.held.fence)).collect();
        assert_eq!(leases, self.valid, "the valid fences");
        for id in &self.tasks {
            let task = self.world.task(*id).await;
            assert_eq!(task.state == State::Running, self.valid.contains_key(id));
            if let Some(done) = self.done.get(id) {
                assert_eq!(task, *done, "terminal once and for ever");
            } else if task.state.is_terminal() {
                self.done.insert(*id, task);
            }
        }
        self.check_waits().await;
        self.check_conversations().await;
        self.check_depth().await;
        match &self.world.dir {
            Some(dir) => tables::check(dir.path()),
            None => self.check_shared_tables().await,
        }
    }

    pub async fn clean_up(self) {
        self.world.clean_up().await;
    }

    /// Nobody waits for what is there.
    async fn check_waits(&self) {
        for id in &self.tasks {
            let task = self.world.task(*id).await;
            let Some(Wait::Children { which, .. }) = task.wait else { continue };
            let children = self.world.store.children(*id).await.unwrap();
            let ended = children.iter().filter(|child| child.state.is_terminal()).count();
            let enough = if which == Which::All { ended == children.len() } else { ended > 0 };
            assert!(!enough, "{task:?} was not woken");
        }
    }

    async fn check_shared_tables(&mut self) {
        if self.tables.is_none() {
            self.tables = Some(SharedTables::of(&self.world).await);
        }
        if let Some(tables) = &self.tables {
            tables.check().await;
        }
    }

    /// Only the first unfinished task of a conversation may be anything but held.
    async fn check_conversations(&self) {
        for tasks in self.conversations.values() {
            for (at, id) in tasks.iter().filter(|id| !self.done.contains_key(id)).enumerate() {
                let hold = self.world.task(*id).await.hold;
                assert_eq!(hold == Some(Hold::Conversation), at > 0, "the head, and nobody else");
            }
        }
    }

    /// Nothing is lost: with a worker that does its work, everything comes to an end.
    pub async fn finish_all(&mut self) {
        for worker in 0..3 {
            self.lose(worker).await;
        }
        self.pause(false).await;
        for _ in 0..self.tasks.len() * 3 + 3 {
            self.world.tick(Duration::from_secs(31)).await;
            for at in 0..self.tasks.len() as u16 {
                self.answer(at).await;
            }
            self.claim(0, 3, false, false).await;
            for (task, fence) in std::mem::take(&mut self.valid) {
                assert!(self.world.end(&self.crews[0], Held { task, fence }, Ending::Succeeded).await);
            }
        }
        self.check().await;
        assert_eq!(self.done.len(), self.tasks.len(), "all acknowledged tasks have ended");
    }
}
