//! Records of the store as the public API shows them.

use longshore_api::batch::{Batch, BatchCounts, BatchEvent};
use longshore_api::fleet::{TaskCounts, TenantStatus, Usage, Worker};
use longshore_api::journal::{Calls, Step};
use longshore_api::link::WorkerState;
use longshore_api::task::{Attempt, Event, Task};
use longshore_api::waiting::{Child, Question, Waiting};
use longshore_core::batch::BatchId;
use longshore_core::provider::show_money;
use longshore_core::tenant::Tenant;
use longshore_core::time::Timestamp;
use longshore_core::wait::{Wait, Which};
use longshore_store::{
    AttemptRecord, BatchEventRecord, BatchRecord, CallCounts, ChildRecord, EventRecord, FleetCounts,
    StepRecord, TaskRecord, TenantCounts, UsageRecord, WorkerRecord, WorkerState as Stored,
};

use crate::app::now;

/// A registered worker that was not heard of for this long is not counted on: three lost heartbeats.
pub const SILENT_AFTER: std::time::Duration = std::time::Duration::from_secs(15);

pub fn task(record: TaskRecord) -> Task {
    Task {
        id: record.id,
        fleet: record.fleet,
        tenant: record.tenant,
        state: record.state,
        hold: record.hold,
        waiting: record.wait.map(|wait| waiting(wait, record.wait_until)),
        input: record.input,
        result: record.result,
        result_expired: record.result_expired,
        journal_expired: record.journal_expired,
        failure: record.failure,
        conversation: record.conversation,
        priority: record.priority,
        run_at: record.run_at,
        deadline: record.deadline_at,
        labels: record.labels,
        timeout_ms: record.timeout_ms,
        max_attempts: record.max_attempts,
        failed_attempts: record.failed_attempts,
        attempts_begun: record.attempts,
        interrupted: record.interrupted,
        cancel_requested: record.cancel_requested,
        retry_of: record.retry_of,
        batch: record.batch,
        parent: record.parent,
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        last_event: record.last_event,
        attempts: Vec::new(),
        questions: Vec::new(),
        calls: None,
        no_gateway_calls: false,
    }
}

fn waiting(wait: Wait, until: Option<Timestamp>) -> Waiting {
    let nothing = Waiting { what: String::new(), children: None, of: Vec::new(), question: None, until };
    match wait {
        Wait::Interruption => Waiting { what: "interruption".into(), ..nothing },
        Wait::Question { name } => Waiting { what: "question".into(), question: Some(name), ..nothing },
        Wait::Children { which, of } => {
            let which = if which == Which::All { "all" } else { "any" };
            Waiting { what: "children".into(), children: Some(which.into()), of, ..nothing }
        }
    }
}

pub fn question(asked: longshore_core::wait::Question) -> Question {
    Question {
        state: asked.state(now()),
        name: asked.name,
        question: asked.question,
        schema: asked.schema,
        asked_at: asked.asked_at,
        expires_at: asked.expires_at,
        on_expiry: asked.on_expiry,
        answered_at: asked.answered_at,
        answer: asked.answer,
    }
}

pub fn child(record: ChildRecord, created: bool) -> Child {
    Child {
        name: record.name,
        id: record.id,
        fleet: record.fleet,
        state: record.state,
        ended: record.state.is_terminal(),
        detach: record.detach,
        created,
        created_at: record.created_at,
        finished_at: record.finished_at,
        failure: record.failure,
        result: record.result,
    }
}

pub fn attempt(record: AttemptRecord) -> Attempt {
    Attempt {
        number: record.number,
        fence: record.fence.0,
        worker: record.worker.to_string(),
        started_at: record.started_at,
        ended_at: record.ended_at,
        outcome: record.outcome.map(|outcome| outcome.as_str().to_owned()),
        reason: record.reason,
    }
}

pub fn calls(counts: CallCounts) -> Calls {
    Calls {
        live: counts.live,
        replayed: counts.replayed,
        maybe_billed: counts.maybe_billed,
        passed: counts.passed,
        bought_again: counts.bought_again,
        input_tokens: counts.used.input,
        cached_tokens: counts.used.cached,
        output_tokens: counts.used.output,
        cost: show_money(counts.cost_nano),
        saved_tokens: counts.saved_tokens,
        saved: show_money(counts.saved_nano),
        currency: counts.currency,
    }
}

pub fn usage(record: UsageRecord) -> Usage {
    let counts = CallCounts {
        live: record.live,
        replayed: record.replayed,
        maybe_billed: record.maybe_billed,
        used: record.used,
        cost_nano: record.cost_nano,
        saved_tokens: record.saved_tokens,
        saved_nano: record.saved_nano,
        currency: Some(record.currency),
        // Counted per task, and per fleet in the metrics.
        passed: 0,
        bought_again: 0,
    };
    Usage { provider: record.provider, model: record.model, calls: calls(counts) }
}

pub fn step(record: StepRecord) -> Step {
    Step {
        name: record.name,
        begun: record.begun,
        begun_at: record.begun_at,
        ended_at: record.ended_at,
        result: record.result,
    }
}

pub fn event(record: EventRecord) -> Event {
    Event { task: record.task, seq: record.seq, at: record.at, kind: record.kind, data: record.data }
}

pub fn batch(record: BatchRecord) -> Batch {
    Batch {
        counts: batch_counts(&record),
        id: record.id,
        name: record.name,
        labels: record.labels,
        open: record.open,
        cancel_requested: record.cancel_requested,
        created_at: record.created_at,
        finished_at: record.finished_at,
    }
}

pub fn batch_counts(record: &BatchRecord) -> BatchCounts {
    let counts = &record.counts;
    BatchCounts {
        total: counts.total(),
        queued: counts.queued,
        running: counts.running,
        waiting: counts.waiting,
        succeeded: counts.succeeded,
        failed: counts.failed,
        cancelled: counts.cancelled,
    }
}

pub fn batch_event(batch: BatchId, record: BatchEventRecord) -> BatchEvent {
    BatchEvent { batch, seq: Some(record.seq), at: record.at, kind: record.kind, data: record.data }
}

pub fn counts(counts: &FleetCounts) -> TaskCounts {
    TaskCounts {
        queued: counts.queued(),
        running: counts.running,
        waiting: counts.waiting,
        succeeded: counts.succeeded,
        failed: counts.failed,
        cancelled: counts.cancelled,
    }
}

pub fn tenant(counts: TenantCounts, declared: &[Tenant]) -> TenantStatus {
    let known = declared.iter().find(|tenant| tenant.name == counts.tenant);
    TenantStatus {
        weight: known.map_or(1, |tenant| tenant.weight),
        max_running: known.and_then(|tenant| tenant.max_running),
        ready: counts.ready,
        tasks: TaskCounts {
            queued: counts.ready + counts.delayed + counts.held,
            running: counts.running,
            waiting: counts.waiting,
            succeeded: counts.succeeded,
            failed: counts.failed,
            cancelled: counts.cancelled,
        },
        tenant: counts.tenant,
    }
}

/// The state that a worker reports, as the store keeps it.
pub fn stored_state(state: WorkerState) -> Stored {
    match state {
        WorkerState::Starting => Stored::Starting,
        WorkerState::Ready => Stored::Ready,
        WorkerState::NotReady => Stored::NotReady,
        WorkerState::Draining => Stored::Draining,
        WorkerState::Gone => Stored::Gone,
    }
}

/// What a worker is to its fleet: its own word, but an ended, drained or silent one is believed less.
pub fn worker_state(record: &WorkerRecord) -> WorkerState {
    if record.ended_at.is_some() {
        return WorkerState::Gone;
    }
    if record.drain.is_some() {
        return WorkerState::Draining;
    }
    match record.state {
        Stored::Draining => WorkerState::Draining,
        Stored::Gone => WorkerState::Gone,
        _ if is_silent(record) => WorkerState::NotReady,
        Stored::Ready => WorkerState::Ready,
        Stored::NotReady => WorkerState::NotReady,
        Stored::Starting => WorkerState::Starting,
    }
}

fn is_silent(record: &WorkerRecord) -> bool {
    record.registered_at.is_some() && record.last_seen.is_some_and(|seen| now().since(seen) > SILENT_AFTER)
}

pub fn worker(record: WorkerRecord) -> Worker {
    let state = worker_state(&record);
    let reason = match (&record.end, state) {
        (Some(end), _) => end.clone(),
        (None, WorkerState::NotReady) if is_silent(&record) => "no heartbeat".into(),
        _ => record.reason,
    };
    Worker {
        id: record.id.to_string(),
        fleet: record.fleet,
        state,
        reason,
        generation: record.generation,
        platform: record.platform,
        concurrency: record.concurrency,
        in_flight: record.in_flight,
        memory: record.memory,
        version: record.version,
        pid: record.pid,
        host: record.host,
        probe_addr: record.probe_addr,
        registered_at: record.registered_at,
        last_seen: record.last_seen,
        tasks: Vec::new(),
    }
}
