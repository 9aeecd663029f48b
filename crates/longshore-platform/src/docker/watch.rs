//! Sees containers end: by the engine's events, and by a look at all of them in case an event was missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Inner, label, state};
use crate::End;

/// How often all containers are looked at while events flow.
const LOOK: Duration = Duration::from_secs(5);

/// How long after the stream of events was asked for it surely flows.
const FLOWS: Duration = Duration::from_millis(200);

/// The containers that somebody waits for.
#[derive(Default)]
pub(super) struct Watched(Mutex<HashMap<String, watch::Sender<Option<End>>>>);

impl Watched {
    /// One watch per container, however often it is asked for.
    pub fn watch(&self, container: &str) -> watch::Receiver<Option<End>> {
        let mut watched = self.lock();
        watched.entry(container.to_owned()).or_insert_with(|| watch::channel(None).0).subscribe()
    }

    fn end(&self, container: &str, end: End) {
        if let Some(publish) = self.lock().remove(container) {
            info!(container, %end, "container ended");
            publish.send_replace(Some(end));
        }
    }

    fn all(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn has(&self, container: &str) -> bool {
        self.lock().contains_key(container)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<End>>>> {
        // Each change to the map is a single call, so a panic elsewhere cannot have left it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until the platform is dropped.
pub(super) async fn run(platform: Weak<Inner>) {
    let mut said = false;
    loop {
        let Some(inner) = platform.upgrade() else { return };
        if inner.watched.all().is_empty() {
            drop(inner);
            tokio::time::sleep(FLOWS).await;
            continue;
        }
        let why = follow(&inner, &mut said).await;
        if !std::mem::replace(&mut said, true) {
            warn!(why, host = inner.host, "events of the Docker engine break off; it is tried again");
        }
        drop(inner);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Returns why there are no more events.
async fn follow(inner: &Arc<Inner>, said: &mut bool) -> String {
    // Not by the label of the installation: what docker-compose started has none.
    let mut filters = HashMap::from([("type".to_owned(), vec!["container".to_owned()])]);
    filters.insert("event".into(), ["die", "destroy", "oom"].map(str::to_owned).to_vec());
    let mut events =
        std::pin::pin!(inner.docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build())));
    let mut next_look = tokio::time::Instant::now() + FLOWS;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => happened(inner, event).await,
                Some(Err(error)) => return error.to_string(),
                None => return "the stream ended".into(),
            },
            () = tokio::time::sleep_until(next_look) => {
                next_look = tokio::time::Instant::now() + LOOK;
                if let Err(why) = look(inner).await {
                    return why;
                }
                if std::mem::take(said) {
                    info!(host = inner.host, "the Docker engine answers again");
                }
            }
        }
    }
}

async fn happened(inner: &Arc<Inner>, event: EventMessage) {
    let Some(actor) = event.actor else { return };
    let Some(container) = actor.id else { return };
    if !inner.watched.has(&container) {
        return;
    }
    if event.action.as_deref() == Some("oom") {
        let labels = actor.attributes.unwrap_or_default();
        let worker = labels.get(label::WORKER).cloned().unwrap_or_default();
        warn!(worker, container, "something in the container was killed for lack of memory");
        return;
    }
    settle(inner, &container).await;
}

/// Looks at each container that is waited for and does not run.
async fn look(inner: &Arc<Inner>) -> Result<(), String> {
    let watched = inner.watched.all();
    // Running ones only.
    let options = ListContainersOptionsBuilder::new().build();
    let running = inner.docker.list_containers(Some(options)).await.map_err(|error| error.to_string())?;
    let running: Vec<String> = running.into_iter().filter_map(|container| container.id).collect();
    for container in watched.iter().filter(|container| !running.contains(container)) {
        settle(inner, container).await;
    }
    Ok(())
}

/// Publishes the container's end if it has ended. One that cannot be looked at is looked at again later.
pub(super) async fn settle(inner: &Arc<Inner>, container: &str) {
    let found = inner.docker.inspect_container(container, None::<InspectContainerOptions>).await;
    match found.map_err(inner.failed("look at a container")) {
        Ok(found) => {
            if let Some(end) = state::end(found.state.as_ref()) {
                inner.watched.end(container, end);
            }
        }
        Err(error) if error.is_missing() => inner.watched.end(container, End::Gone),
        Err(_) => {}
    }
}
