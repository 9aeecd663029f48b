//! Claims: a long poll that ends when there is something to do.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use longshore_api::link::{Answered, Claim, Claimed, ClaimedTask, History, Message};
use longshore_core::id::Held;
use longshore_core::wait::{Question, QuestionState};
use longshore_store::{ClaimRequest, LeasedTask};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{LEASE, Token};
use crate::app::{App, now};
use crate::error::Answer;
use crate::extract::LinkBody;

/// The longest that a claim waits here; keeps proxies from cutting it off.
const LONGEST_WAIT: Duration = Duration::from_secs(50);

/// The most tasks that one claim takes: its answer has to be read in one go.
const MOST: u32 = 1_000;

pub async fn claim(
    State(app): State<App>,
    token: Token,
    LinkBody(claim): LinkBody<Claim>,
) -> Answer<Json<Claimed>> {
    token.admit(&app, &claim.worker).await?;
    let mut poll = begin(&app, &claim);
    let deadline = Instant::now() + Duration::from_millis(claim.wait_ms).min(LONGEST_WAIT);
    let request = ClaimRequest {
        worker: claim.worker,
        nonce: claim.nonce,
        seq: claim.seq,
        max: claim.max.min(MOST),
        in_flight: claim.in_flight,
        lease: LEASE,
    };
    // A place in the line before looking: a task that is submitted in between still calls us. If this poll ends without
    // having looked, somebody else is called.
    let mut turn = app.store.signals().runnable(&token.0);
    loop {
        token.still_good(&app).await?;
        app.metrics.looked_for_tasks();
        let leased = app.store.claim(request.clone(), now()).await?;
        if !leased.is_empty() {
            turn.found();
            return Ok(Json(answer(&app, claim.seq, leased)));
        }
        // Asked only of who was called: the task was not for this worker, or somebody was faster.
        let left = turn.may_pass_on() && tasks_are_left(&app, &token).await?;
        turn.found_nothing(left);
        if Instant::now() >= deadline {
            return Ok(Json(answer(&app, claim.seq, leased)));
        }
        tokio::select! {
            _ = turn.wait() => {}
            () = tokio::time::sleep_until(deadline) => {}
            // A newer poll of this worker took over: this one's connection is lost, so it must not take tasks.
            _ = poll.changed() => return Ok(Json(answer(&app, claim.seq, Vec::new()))),
            () = app.stopped() => return Ok(Json(answer(&app, claim.seq, Vec::new()))),
        }
    }
}

async fn tasks_are_left(app: &App, Token(fleet, _): &Token) -> Answer<bool> {
    let counts = app.store.counts().await?;
    Ok(counts.iter().any(|of| of.fleet == *fleet && of.runnable > 0))
}

fn begin(app: &App, claim: &Claim) -> watch::Receiver<()> {
    let (sender, receiver) = watch::channel(());
    // Replacing the sender drops the older one, which ends the older poll.
    app.polls.lock().expect("no holder panics").insert(claim.worker.clone(), sender);
    receiver
}

fn answer(app: &App, seq: u64, leased: Vec<LeasedTask>) -> Claimed {
    app.metrics.claimed(leased.len());
    Claimed { seq, tasks: leased.into_iter().map(|task| wire(app, task)).collect() }
}

/// Questions that are open tell an agent nothing that it does not know.
fn answered(asked: Question) -> Option<(String, Answered)> {
    match asked.state(now()) {
        QuestionState::Open => None,
        state => Some((asked.name, Answered { state, answer: asked.answer })),
    }
}

fn wire(app: &App, task: LeasedTask) -> ClaimedTask {
    let history = task.conversation.map(|conversation| History {
        id: conversation.id,
        messages: conversation.messages.into_iter().map(|m| Message { seq: m.seq, data: m.data }).collect(),
        truncated: conversation.truncated,
    });
    ClaimedTask {
        token: app.signer.task_token(Held { task: task.id, fence: task.fence }),
        id: task.id,
        fence: task.fence,
        attempt: task.attempt,
        input: task.input,
        labels: task.labels,
        conversation: history,
        questions: task.questions.into_iter().filter_map(answered).collect(),
        timeout_ms: task.timeout_ms,
        alone: task.alone,
    }
}
