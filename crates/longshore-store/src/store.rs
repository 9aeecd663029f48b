//! The one face of all backends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use longshore_core::batch::BatchId;
use longshore_core::fleet::{DrainMode, Fleet};
use longshore_core::id::{ConversationId, FleetName, Held, KeyId, TaskId, TenantName, WorkerId};
use longshore_core::json::Json;
use longshore_core::retention::Plan;
use longshore_core::rollout::{Order, Release, Sample};
use longshore_core::schedule::{Schedule, ScheduleName};
use longshore_core::task::State;
use longshore_core::tenant::Tenant;
use longshore_core::time::Timestamp;
use longshore_core::wait::{Ask, Question};
use longshore_core::webhook::{Webhook, WebhookName};
use uuid::Uuid;

pub use crate::embedded::Embedded;
use crate::error::{
    AskError, CallError, CancelOutcome, ChildError, ClaimError, InputOutcome, LinkError, RegisterError,
    StoreError, SubmitError,
};
use crate::model::*;
pub use crate::shared::Shared;
use crate::{ConnectError, ConnectOptions, OpenError, OpenOptions, RedisHealth, SharedPermits, Signals};

/// A store that is open. Cheap to clone; the last clone that is dropped closes it.
#[derive(Clone)]
pub enum Store {
    Embedded(Embedded),
    Shared(Shared),
}

/// Writes methods that forward to the backend.
macro_rules! forward {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $answer:ty;)*) => {
        impl Store {
            $($(#[$doc])*
            pub async fn $name(&self, $($argument: $type),*) -> $answer {
                match self {
                    Store::Embedded(store) => store.$name($($argument),*).await,
                    Store::Shared(store) => store.$name($($argument),*).await,
                }
            })*
        }
    };
}

impl Store {
    /// Opens the embedded store in a folder, making both if they are not there. Blocks for as long as disks
    /// do.
    pub fn open(options: &OpenOptions) -> Result<Store, OpenError> {
        Embedded::open(options).map(Store::Embedded)
    }

    /// Connects to a shared store, bringing its schema to the newest version where that is wanted. `now` tells which days
    /// need room.
    pub async fn connect(options: &ConnectOptions, now: Timestamp) -> Result<Store, ConnectError> {
        Shared::connect(options, now).await.map(Store::Shared)
    }

    /// Notes how an ask ended for its agent. Queued when this is called, whether the answer is awaited or not.
    pub fn call_ended(
        &self,
        key: CallKey,
        held: Held,
        call: Uuid,
        whole: bool,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        match self {
            Store::Embedded(store) => Either::Left(store.call_ended(key, held, call, whole)),
            Store::Shared(store) => Either::Right(store.call_ended(key, held, call, whole)),
        }
    }

    /// How Redis is; `None`: the store has none.
    pub fn redis(&self) -> Option<RedisHealth> {
        match self {
            Store::Embedded(_) => None,
            Store::Shared(store) => store.redis(),
        }
    }

    /// Takes a seat among the gateways that share the providers' limits; `None`: this one is alone with them.
    pub async fn permits(&self, seat: &str) -> Result<Option<SharedPermits>, StoreError> {
        match self {
            Store::Embedded(_) => Ok(None),
            Store::Shared(store) => store.permits(seat).await,
        }
    }

    /// Whether a waiter is woken by whatever other control planes do.
    pub fn wakes(&self) -> bool {
        match self {
            Store::Embedded(_) => true,
            Store::Shared(store) => store.wakes(),
        }
    }

    pub fn signals(&self) -> &Signals {
        match self {
            Store::Embedded(store) => store.signals(),
            Store::Shared(store) => store.signals(),
        }
    }
}

// Tasks.
forward! {
    /// Stores all of the tasks or none; when it returns they are durable.
    fn submit(tasks: Vec<NewTask>, idempotency: Option<Idempotency>, now: Timestamp) -> Result<Submitted, SubmitError>;
    fn task(id: TaskId) -> Result<Option<TaskRecord>, StoreError>;
    /// Only where it is in its life; `None`: not known.
    fn task_state(id: TaskId) -> Result<Option<State>, StoreError>;
    /// The task's attempts, oldest first.
    fn attempts(id: TaskId) -> Result<Vec<AttemptRecord>, StoreError>;
    /// Newest id first, without inputs and results; looks at a bounded number of tasks.
    fn search(filter: TaskFilter, limit: usize) -> Result<SearchPage, StoreError>;
    /// The same search, for their ids and states alone.
    fn matching(filter: TaskFilter, limit: usize) -> Result<MatchPage, StoreError>;
    /// Per fleet; costs the same for ten tasks and ten million.
    fn counts() -> Result<Vec<FleetCounts>, StoreError>;
    /// A task's events with numbers above `after`, oldest first.
    fn events(task: TaskId, after: u64, limit: usize) -> Result<Vec<EventRecord>, StoreError>;
    fn cancel(id: TaskId, reason: Option<String>, now: Timestamp) -> Result<CancelOutcome, StoreError>;
    /// The same for a task that is in one of these states, and for no other; empty: any that is not terminal.
    fn cancel_in(id: TaskId, states: Vec<State>, reason: Option<String>, now: Timestamp) -> Result<CancelOutcome, StoreError>;
    /// Forgets some of the idempotency keys that were used before this time; returns how many, 0 when none is left.
    fn forget_keys(before: Timestamp) -> Result<usize, StoreError>;
}

// Batches.
forward! {
    /// As [`Store::submit`], as tasks of a batch.
    fn submit_batch(batch: NewBatch, tasks: Vec<NewTask>, idempotency: Option<Idempotency>, now: Timestamp) -> Result<Submitted, SubmitError>;
    fn batch(id: BatchId) -> Result<Option<BatchRecord>, StoreError>;
    /// Newest id first.
    fn batches(filter: BatchFilter, limit: usize) -> Result<Vec<BatchRecord>, StoreError>;
    /// A batch's events with numbers above `after`, oldest first. Its end is one of them, once.
    fn batch_events(batch: BatchId, after: u64, limit: usize) -> Result<Vec<BatchEventRecord>, StoreError>;
    /// Closes the batch and cancels some of its tasks; to be repeated with `next`. `None`: not known.
    fn cancel_batch(id: BatchId, before: Option<TaskId>, reason: Option<String>, now: Timestamp) -> Result<Option<CancelledBatch>, StoreError>;
}

// Forgetting.
forward! {
    /// Deletes some of what the plan says may go of this fleet's ended tasks; to be repeated while there is more.
    fn retain(fleet: FleetName, plan: Plan) -> Result<Forgotten, StoreError>;
    /// Drops whole days of ended tasks that these plans let go; `None`: this store keeps no days apart. Where it does,
    /// [`longshore_core::retention::patient`] says what is left to delete by [`Store::retain`].
    fn forget_days(plans: Vec<(FleetName, Plan)>, now: Timestamp) -> Result<Option<Forgotten>, StoreError>;
    /// Forgets ended batches of which no task is stored any more, among a few; `after` and the answer are places in the list.
    fn forget_batches(after: Option<BatchId>) -> Result<Option<BatchId>, StoreError>;
    /// Forgets one conversation that was not used since; false: there is none.
    fn forget_conversation(used_before: Timestamp) -> Result<bool, StoreError>;
    /// Forgets some idempotency keys whose task is not stored any more; `after` and the answer are places in the list.
    fn forget_orphaned_keys(after: Option<(String, String)>) -> Result<Option<(String, String)>, StoreError>;
    /// Cancels and deletes some of what belongs to a tenant; to be repeated while there is more, or tasks run.
    fn erase_tenant(tenant: TenantName, reason: String, now: Timestamp) -> Result<Erased, StoreError>;
    /// Cleans up after what was deleted. The embedded store rewrites its file so that nothing is left in it of that, and
    /// others wait meanwhile; the shared one lets the database free the room, and nobody waits.
    fn compact() -> Result<(), StoreError>;
}

// The worker link.
forward! {
    fn register(registration: Registration, now: Timestamp) -> Result<RegisterOutcome, RegisterError>;
    /// Leases runnable tasks, tenants in turn, of each the highest priority and oldest first; as far as caps and the rate
    /// allow. Empty when there are none. Does not wait.
    fn claim(request: ClaimRequest, now: Timestamp) -> Result<Vec<LeasedTask>, ClaimError>;
    /// Renews what is held, requeues what is not, and tells what the worker does not know yet.
    fn heartbeat(heartbeat: Heartbeat, now: Timestamp) -> Result<HeartbeatNews, LinkError>;
    /// What a heartbeat would be told now, without renewing anything.
    fn news(worker: WorkerId, nonce: Uuid, held: Vec<Held>) -> Result<HeartbeatNews, LinkError>;
    /// Returns the attempts whose fence is no longer valid; nothing was written for them.
    fn append_events(worker: WorkerId, nonce: Uuid, attempts: Vec<(Held, Vec<NewAgentEvent>)>, now: Timestamp) -> Result<Vec<Held>, LinkError>;
    /// Ends attempts, each by fence: being registered is not needed.
    fn end_attempts(worker: WorkerId, nonce: Uuid, endings: Vec<EndAttempt>, now: Timestamp) -> Result<Ended, LinkError>;
    /// Leases as they stand, of one worker or of all, oldest attempt first.
    fn leases(worker: Option<WorkerId>) -> Result<Vec<LeaseRecord>, StoreError>;
}

// The journal of LLM calls, and steps.
forward! {
    /// A gateway starts; intents of its earlier starts have lost their owner.
    fn gateway_starts(replica: String, nonce: Uuid) -> Result<(), StoreError>;
    /// A gateway is still there; false: a newer start has taken its name.
    fn gateway_seen(replica: String, nonce: Uuid) -> Result<bool, StoreError>;
    /// An agent asks: its occurrence is allotted and the way to its answer found, in one transaction.
    fn begin_call(call: NewCall, now: Timestamp) -> Result<Begun, CallError>;
    /// A call that is passed through without being journaled; returns the attempt's deadline.
    fn pass_call(held: Held, fleet: FleetName) -> Result<Timestamp, CallError>;
    /// Whether this fence may still write, for a worker of this fleet.
    fn check_fence(held: Held, fleet: FleetName) -> Result<(), CallError>;
    /// Asked before a call is sent that had to wait; false: no valid fence wants it, and its intent is gone.
    fn may_send(key: CallKey, owner: Uuid) -> Result<bool, StoreError>;
    /// Stores an answer once; when it returns the answer is durable.
    fn answer_call(key: CallKey, call: Arc<NewCall>, answer: NewAnswer, now: Timestamp) -> Result<AnswerOutcome, StoreError>;
    /// Gives a call up without an answer that is kept; `billed` tries of it may have been billed.
    fn fail_call(key: CallKey, owner: Uuid, billed: u32) -> Result<(), StoreError>;
    /// `None`: the task is not known.
    fn journal(task: TaskId) -> Result<Option<JournalRecord>, StoreError>;
    /// A task's calls in numbers.
    fn call_counts(task: TaskId) -> Result<CallCounts, StoreError>;
    fn divergences(task: TaskId) -> Result<Vec<DivergenceRecord>, StoreError>;
    /// A canonical request as its head, the name of its list, and the list.
    fn call_request(task: TaskId, digest: Digest) -> Result<Option<(String, Option<String>, Vec<String>)>, StoreError>;
    fn usage(fleet: Option<FleetName>) -> Result<Vec<UsageRecord>, StoreError>;
    fn replays() -> Result<Vec<ReplayRecord>, StoreError>;
    fn begin_step(held: Held, fleet: FleetName, name: String, now: Timestamp) -> Result<StepBegun, CallError>;
    /// The first result stays; returns the one that counts.
    fn end_step(held: Held, fleet: FleetName, name: String, result: Json, now: Timestamp) -> Result<Json, CallError>;
}

// Children of tasks, questions to people, the agents' cache.
forward! {
    /// Submits what is not there already, all of it or nothing. Returns the children in order, and which of them are new.
    fn submit_children(held: Held, fleet: FleetName, children: Vec<NewChild>, now: Timestamp) -> Result<Vec<(ChildRecord, bool)>, ChildError>;
    /// In the order of submission, without results.
    fn children(parent: TaskId) -> Result<Vec<ChildRecord>, StoreError>;
    /// With its result.
    fn child(parent: TaskId, name: String) -> Result<Option<ChildRecord>, StoreError>;
    /// Asks unless the question is there already, and returns it as it stands. The agent ends its attempt by waiting for it.
    fn ask(held: Held, fleet: FleetName, ask: Ask, now: Timestamp) -> Result<Question, AskError>;
    /// A task's questions, oldest first.
    fn questions(task: TaskId) -> Result<Vec<Question>, StoreError>;
    /// A person's word: whether an interrupted task may run again, or the answer to a question, by its name if it is given.
    fn input(task: TaskId, question: Option<String>, answer: Json, now: Timestamp) -> Result<InputOutcome, StoreError>;
    fn cache_get(fleet: FleetName, key: String, now: Timestamp) -> Result<Option<Cached>, StoreError>;
    fn cache_put(entry: NewCached, now: Timestamp) -> Result<(), StoreError>;
    /// False if nothing was there.
    fn cache_delete(fleet: FleetName, key: String, now: Timestamp) -> Result<bool, StoreError>;
}

// Workers.
forward! {
    /// Saves a worker before it is started; false if this id is already known, or another replica leads. One that has come
    /// without a plan becomes one of this plan, and one of the same platform is of another release from now on.
    fn plan_worker(planned: PlannedWorker, epoch: Epoch, now: Timestamp) -> Result<bool, StoreError>;
    /// Saves how its platform finds it again; false if the worker is not known.
    fn save_identity(worker: WorkerId, identity: Json, now: Timestamp) -> Result<bool, StoreError>;
    /// The worker is gone: all that it held is interrupted. Returns that; nothing when it was gone already.
    fn worker_ended(end: WorkerEnd, roll: f64, now: Timestamp) -> Result<Vec<Held>, StoreError>;
    fn workers(filter: WorkerFilter) -> Result<Vec<WorkerRecord>, StoreError>;
    fn worker(id: WorkerId) -> Result<Option<WorkerRecord>, StoreError>;
    /// False if the worker is not known or gone. A repeated order replaces the mode and time-out.
    fn order_drain(worker: WorkerId, mode: DrainMode, timeout_ms: u64, now: Timestamp) -> Result<bool, StoreError>;
    /// Forgets workers that ended before this time; returns how many.
    fn forget_workers(ended_before: Timestamp) -> Result<usize, StoreError>;
}

// Fleets.
forward! {
    /// Declares exactly these fleets: others become inactive and take no new tasks.
    fn put_fleets(fleets: Vec<Fleet>, now: Timestamp) -> Result<Vec<FleetChange>, StoreError>;
    /// All of them by name, inactive ones too.
    fn fleets() -> Result<Vec<FleetRecord>, StoreError>;
    fn fleet(name: FleetName) -> Result<Option<FleetRecord>, StoreError>;
    /// Sets the number of workers by hand, or gives it back to the scaler; false if the fleet is not known.
    fn set_replicas(fleet: FleetName, replicas: Option<u32>, now: Timestamp) -> Result<bool, StoreError>;
    /// Keeps the newest 200 of each fleet; nothing when another replica leads.
    fn record_decision(fleet: FleetName, decision: DecisionRecord, epoch: Epoch) -> Result<(), StoreError>;
    /// Newest first.
    fn decisions(fleet: FleetName, limit: usize) -> Result<Vec<DecisionRecord>, StoreError>;
    /// What waits for what; costs the same for ten tasks and ten million.
    fn load(fleet: FleetName, now: Timestamp) -> Result<Load, StoreError>;
}

// Releases and rollouts.
forward! {
    /// Notes which image the name of a release stands for, unless that was noted before; returns the one that counts, `None` if
    /// there is no such release or it has no image.
    fn pin_image(fleet: FleetName, release: Release, id: String) -> Result<Option<String>, StoreError>;
    /// Wants a fleet to run a release that is not known yet; begins a rollout, or says why there is none.
    fn deploy(fleet: FleetName, release: NewRelease, now: Timestamp) -> Result<Deployed, StoreError>;
    /// Has a rollout that is under way go back; else begins one to a release of before, the last one if none is named.
    fn undo_rollout(fleet: FleetName, to: Option<Release>, reason: String, now: Timestamp) -> Result<Deployed, StoreError>;
    fn order_rollout(fleet: FleetName, order: Order, now: Timestamp) -> Result<Ordered, StoreError>;
    /// Saves a plan as it is to be carried out; `None`: another one was written since it was read, or another replica leads.
    fn save_rollout(rollout: RolloutRecord, epoch: Epoch, now: Timestamp) -> Result<Option<RolloutRecord>, StoreError>;
    /// Those that are under way, by fleet: one of each at most.
    fn open_rollouts() -> Result<Vec<RolloutRecord>, StoreError>;
    /// Newest first; the newest 200 of each fleet are kept.
    fn rollouts(fleet: Option<FleetName>, limit: usize) -> Result<Vec<RolloutRecord>, StoreError>;
    /// What attempts on each release of a fleet have come to, ever.
    fn outcomes(fleet: FleetName) -> Result<BTreeMap<Release, Sample>, StoreError>;
    /// Unfinished tasks that must finish on the release they began on.
    fn pinned(fleet: FleetName) -> Result<BTreeMap<Release, u64>, StoreError>;
    /// Newest first.
    fn releases(fleet: FleetName, limit: usize) -> Result<Vec<ReleaseRecord>, StoreError>;
    fn release(fleet: FleetName, number: Release) -> Result<Option<ReleaseRecord>, StoreError>;
}

// Tenants and pauses.
forward! {
    /// Lets nothing of it start, or everything again; false if the fleet is not known. What runs goes on.
    fn set_paused(fleet: FleetName, paused: bool, now: Timestamp) -> Result<bool, StoreError>;
    /// Declares exactly these tenants; others have weight 1 and no cap of their own.
    fn put_tenants(tenants: Vec<Tenant>) -> Result<(), StoreError>;
    /// By name.
    fn tenants() -> Result<Vec<Tenant>, StoreError>;
    /// A fleet's tenants that ever had a task there, those with the most to do first.
    fn tenant_counts(fleet: FleetName, limit: usize) -> Result<Vec<TenantCounts>, StoreError>;
}

// Schedules.
forward! {
    /// Declares exactly these: others become inactive. One with another rhythm begins anew, now.
    fn put_schedules(schedules: Vec<Schedule>, now: Timestamp) -> Result<(), StoreError>;
    /// All of them by name, inactive ones too.
    fn schedules() -> Result<Vec<ScheduleRecord>, StoreError>;
    fn schedule(name: ScheduleName) -> Result<Option<ScheduleRecord>, StoreError>;
    /// Newest first; the newest 200 of each are kept.
    fn schedule_events(name: ScheduleName, limit: usize) -> Result<Vec<ScheduleEvent>, StoreError>;
    /// False if it is not declared. Ticks while it is paused are never made up for.
    fn pause_schedule(name: ScheduleName, paused: bool, now: Timestamp) -> Result<bool, StoreError>;
    /// Submits the tasks and moves the cursor, both or neither, if the cursor is where it was expected.
    fn fire_schedule(fire: Fire, now: Timestamp) -> Result<Fired, SubmitError>;
    /// Submits a task that somebody asked for, as the schedule's newest; the cursor stays.
    fn run_schedule(name: ScheduleName, task: NewTask, idempotency: Option<Idempotency>, now: Timestamp) -> Result<Submitted, SubmitError>;
}

// Webhooks.
forward! {
    /// Declares exactly these: others become inactive.
    fn put_webhooks(webhooks: Vec<Webhook>, now: Timestamp) -> Result<(), StoreError>;
    /// All of them by name, inactive ones too.
    fn webhooks() -> Result<Vec<WebhookRecord>, StoreError>;
    fn webhook(name: WebhookName) -> Result<Option<WebhookRecord>, StoreError>;
    /// Sends to it again; false if it is not declared.
    fn enable_webhook(name: WebhookName, now: Timestamp) -> Result<bool, StoreError>;
    fn webhook_backlog(name: WebhookName) -> Result<WebhookBacklog, StoreError>;
    /// Pending ones whose time has come and that nobody is sending, the longest due first.
    fn due_deliveries(webhook: WebhookName, now: Timestamp, limit: usize) -> Result<Vec<DeliveryRecord>, StoreError>;
    /// Takes some to be sent until then; returns those that nobody else is sending, none when another replica leads. Whoever
    /// has them under way notes what came of it before, or they are sent again.
    fn hold_deliveries(deliveries: Vec<u64>, epoch: Epoch, now: Timestamp, until: Timestamp) -> Result<Vec<u64>, StoreError>;
    /// When the first pending one is due that nobody is sending.
    fn next_delivery(webhook: WebhookName) -> Result<Option<Timestamp>, StoreError>;
    /// Notes a try and what follows from it; nothing if the delivery is no longer pending.
    fn delivery_tried(tried: Tried) -> Result<(), StoreError>;
    /// Newest first.
    fn deliveries(filter: DeliveryFilter, limit: usize) -> Result<Vec<DeliveryRecord>, StoreError>;
    /// Makes them due now, with all their tries ahead; returns how many. At most 10,000 at a time, the oldest first.
    fn redeliver(webhook: WebhookName, which: Redeliver, now: Timestamp) -> Result<usize, StoreError>;
    /// Forgets some of those that ended before this time; returns how many, 0 when none is left.
    fn forget_deliveries(before: Timestamp) -> Result<usize, StoreError>;
}

// API keys, and whose a task is.
forward! {
    fn create_key(key: NewKey, now: Timestamp) -> Result<(), StoreError>;
    /// All of them, revoked and expired ones too, newest first.
    fn keys() -> Result<Vec<KeyRecord>, StoreError>;
    /// Whatever its standing; `None`: there was never such a key.
    fn key_by_hash(hash: KeyHash) -> Result<Option<KeyRecord>, StoreError>;
    /// Returns it as it is now; `None`: not known. A repeated one changes nothing.
    fn revoke_key(key: KeyId, now: Timestamp) -> Result<Option<KeyRecord>, StoreError>;
    /// Notes that it was used; an older time than the noted one changes nothing.
    fn touch_key(key: KeyId, now: Timestamp) -> Result<(), StoreError>;
    fn task_owner(task: TaskId) -> Result<Option<Owner>, StoreError>;
    /// Whose tasks a conversation has ever held, each owner once; empty: it is not known.
    fn conversation_owners(conversation: ConversationId) -> Result<Vec<Owner>, StoreError>;
}

// Conversations, time, small things.
forward! {
    fn conversation(id: ConversationId) -> Result<Option<ConversationRecord>, StoreError>;
    /// Messages with numbers above `after`, oldest first.
    fn messages(id: ConversationId, after: u64, limit: usize) -> Result<Vec<Message>, StoreError>;
    /// Advances service time, expires leases, gives up tasks whose deadline has passed, promotes due tasks. Writes nothing when nothing changes.
    ///
    /// `elapsed` and `link_seen` as in [`longshore_core::time::ServiceTime::tick`].
    fn tick(epoch: Epoch, elapsed: Option<Duration>, link_seen: bool, now: Timestamp, roll: f64) -> Result<Tick, StoreError>;
    /// Sees to it that the days to come have a place; nothing in a store that needs none.
    fn make_room(now: Timestamp) -> Result<(), StoreError>;
    /// A control plane shows itself; returns all that were seen in the last five seconds, itself among them.
    fn replica_seen(replica: Replica) -> Result<Vec<Replica>, StoreError>;
    /// A control plane ends.
    fn replica_gone(id: Uuid) -> Result<(), StoreError>;
    /// Leads, or goes on leading, for the next three seconds; `None`: another replica does.
    fn lead(me: Uuid) -> Result<Option<Epoch>, StoreError>;
    /// Makes room for another leader at once.
    fn resign(me: Uuid) -> Result<(), StoreError>;
    fn meta_get(key: String) -> Result<Option<String>, StoreError>;
    fn meta_put(key: String, value: String) -> Result<(), StoreError>;
    /// As [`Store::meta_put`], of a leader: one that does not lead any more changes nothing.
    fn meta_put_leading(key: String, value: String, epoch: Epoch) -> Result<(), StoreError>;
    /// Keeps this value unless there is one; returns the one that counts.
    fn meta_first(key: String, value: String) -> Result<String, StoreError>;
    /// Finishes what was asked for and closes; later commands answer [`StoreError::Closed`].
    fn close() -> Result<(), StoreError>;
}
