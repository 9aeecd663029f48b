//! Whether a call is still wanted: asked before it is sent, and while it is under way.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::id::TaskId;
use longshore_store::{CallKey, Store};
use uuid::Uuid;

use crate::gateway::Gateway;
use crate::incoming::Prepared;
use crate::live::Live;

/// A signal wakes at once; this is for one that was lost.
const LOOK: Duration = Duration::from_secs(5);

pub struct Watch {
    store: Store,
    task: TaskId,
    owner: Uuid,
    live: Arc<Live>,
    key: Option<CallKey>,
}

impl Watch {
    pub fn new(gateway: &Gateway, prepared: &Prepared, live: &Arc<Live>, key: Option<CallKey>) -> Watch {
        let (store, task) = (gateway.store.clone(), prepared.call.held.task);
        Watch { store, task, owner: gateway.owner, live: Arc::clone(live), key }
    }

    /// Whether a valid fence wants a call that is not sent yet. Where the store cannot tell, it is wanted.
    pub async fn is_wanted(&self) -> bool {
        match self.key {
            Some(key) => self.store.may_send(key, self.owner).await.unwrap_or(true),
            None => self.live.is_followed(),
        }
    }

    /// Resolves when a call that is not sent yet is not wanted any more; its intent is gone then.
    pub async fn unwanted(&self) {
        if self.key.is_none() {
            return self.live.abandoned().await;
        }
        let mut wake = self.store.signals().task(&self.task);
        loop {
            let _ = tokio::time::timeout(LOOK, wake.wait()).await;
            if !self.is_wanted().await {
                return;
            }
        }
    }

    /// Resolves when a call that is under way cannot matter any more: its task has ended, or, for one that is not
    /// journaled, nobody waits for it.
    pub async fn over(&self) {
        if self.key.is_none() {
            return self.live.abandoned().await;
        }
        let mut wake = self.store.signals().task(&self.task);
        loop {
            let _ = tokio::time::timeout(LOOK, wake.wait()).await;
            if self
                .store
                .task_state(self.task)
                .await
                .is_ok_and(|state| state.is_none_or(|it| it.is_terminal()))
            {
                return;
            }
        }
    }
}
