//! The typed client of the public API, as the command line uses it.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use longshore_core::batch::BatchId;
use longshore_core::id::{KeyId, TaskId};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::{Batch, BatchCancelled, BatchEvent, BatchPage, BatchQuery};
use crate::bulk::{Bulk, BulkDone};
use crate::conversation::{Conversation, MessagePage, PostMessage};
use crate::fleet::{
    About, Applied, Apply, DrainWorker, FleetList, FleetStatus, ScaleStatus, SetScale, TenantList, Worker,
    WorkerList,
};
use crate::journal::Journal;
use crate::key::{CreateKey, CreatedKey, Key, KeyList};
use crate::problem::Problem;
use crate::schedule::{Schedule, ScheduleList};
pub use crate::search::TaskQuery;
use crate::sse::{SseEvent, SseReader};
use crate::task::{BatchAccepted, Cancel, EventPage, Submit, Task, TaskPage};
use crate::tenant::{EraseQuery, TenantErased};
use crate::tls::{self, Trust};
use crate::waiting::Input;
use crate::webhook::{DeliveryPage, Retried, RetryDeliveries, Webhook, WebhookList, WebhookTest};

/// An event of a stream may hold a result of the default limit and its frame.
const EVENT_LIMIT: usize = 64 << 20;

/// Talks to one control plane. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The control plane answered with an error.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    #[error("could not reach the control plane at {base}")]
    Unreachable { base: String, source: reqwest::Error },
    #[error("the control plane at {base} gave an answer that is not longshore's: {what}")]
    Unexpected { base: String, what: String },
}

impl ClientError {
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

impl Client {
    /// `base` such as `http://127.0.0.1:7117`; `token` is sent as a bearer token.
    pub fn new(base: &str, token: Option<String>) -> Result<Client, reqwest::Error> {
        Client::trusting(base, token, None)
    }

    /// The same, pinned: only a control plane that `trust` vouches for is spoken to.
    pub fn trusting(
        base: &str,
        token: Option<String>,
        trust: Option<&Trust>,
    ) -> Result<Client, reqwest::Error> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(5))
        };
        let http = tls::client(builder, trust)?;
        Ok(Client { http, base: base.trim_end_matches('/').to_owned(), token })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn about(&self) -> Result<About, ClientError> {
        self.get("/v1/about", &()).await
    }

    pub async fn submit(&self, task: &Submit, idempotency: Option<&str>) -> Result<Task, ClientError> {
        self.send(keyed(self.request(Method::POST, "/v1/tasks").json(task), idempotency)).await
    }

    /// Submits one task per line of NDJSON: all or none.
    pub async fn submit_batch(
        &self,
        lines: Vec<u8>,
        idempotency: Option<&str>,
    ) -> Result<BatchAccepted, ClientError> {
        let request = self.request(Method::POST, "/v1/tasks:batch");
        let request = request.header("content-type", "application/x-ndjson").body(lines);
        self.send(keyed(request, idempotency)).await
    }

    /// Submits one part of a batch, or all of it.
    pub async fn submit_part(
        &self,
        batch: &BatchQuery,
        lines: Vec<u8>,
        idempotency: Option<&str>,
    ) -> Result<BatchAccepted, ClientError> {
        let request = self.request(Method::POST, "/v1/tasks:batch").query(batch);
        let request = request.header("content-type", "application/x-ndjson").body(lines);
        self.send(keyed(request, idempotency)).await
    }

    pub async fn batches(
        &self,
        unfinished: bool,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<BatchPage, ClientError> {
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(unfinished.then(|| ("unfinished", "true".to_owned())));
        query.extend(limit.map(|limit| ("limit", limit.to_string())));
        query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        self.get("/v1/batches", &query).await
    }

    pub async fn batch(&self, id: BatchId) -> Result<Batch, ClientError> {
        self.get(&format!("/v1/batches/{id}"), &()).await
    }

    pub async fn cancel_batch(
        &self,
        id: BatchId,
        reason: Option<String>,
    ) -> Result<BatchCancelled, ClientError> {
        self.post(&format!("/v1/batches/{id}/cancel"), &Cancel { reason }).await
    }

    /// Follows a batch's events from number `after` on, until its end.
    pub async fn follow_batch(
        &self,
        id: BatchId,
        after: u64,
    ) -> Result<EventStream<BatchEvent>, ClientError> {
        self.stream(&format!("/v1/batches/{id}/events"), after).await
    }

    /// Cancels the tasks that a filter finds.
    pub async fn cancel_many(&self, bulk: &Bulk) -> Result<BulkDone, ClientError> {
        self.post("/v1/tasks:cancel", bulk).await
    }

    /// Runs the tasks that a filter finds again; the same key never runs one of them twice.
    pub async fn retry_many(&self, bulk: &Bulk, idempotency: Option<&str>) -> Result<BulkDone, ClientError> {
        self.send(keyed(self.request(Method::POST, "/v1/tasks:retry").json(bulk), idempotency)).await
    }

    pub async fn erase_tenant(&self, tenant: &str, how: &EraseQuery) -> Result<TenantErased, ClientError> {
        let path = format!("/v1/tenants/{}/data", escape(tenant));
        self.send(self.request(Method::DELETE, &path).query(how)).await
    }

    pub async fn tasks(&self, query: &TaskQuery) -> Result<TaskPage, ClientError> {
        self.get("/v1/tasks", query).await
    }

    pub async fn task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.get(&format!("/v1/tasks/{id}"), &()).await
    }

    pub async fn cancel(&self, id: TaskId, reason: Option<String>) -> Result<Task, ClientError> {
        self.post(&format!("/v1/tasks/{id}/cancel"), &Cancel { reason }).await
    }

    /// A task's LLM calls and steps.
    pub async fn journal(&self, id: TaskId) -> Result<Journal, ClientError> {
        self.get(&format!("/v1/tasks/{id}/journal"), &()).await
    }

    /// Says whether a task that was interrupted may run again, or answers a question of its agent.
    pub async fn input(&self, id: TaskId, input: &Input) -> Result<Task, ClientError> {
        self.post(&format!("/v1/tasks/{id}/input"), input).await
    }

    pub async fn retry(&self, id: TaskId, idempotency: Option<&str>) -> Result<Task, ClientError> {
        self.send(keyed(self.request(Method::POST, &format!("/v1/tasks/{id}/retry")), idempotency)).await
    }

    /// The events after number `after` that are there now.
    pub async fn events(&self, id: TaskId, after: u64) -> Result<EventPage, ClientError> {
        self.get(&format!("/v1/tasks/{id}/events"), &[("after", after)]).await
    }

    /// Follows a task's events from number `after` on, until its terminal one.
    pub async fn follow(&self, id: TaskId, after: u64) -> Result<EventStream, ClientError> {
        self.stream(&format!("/v1/tasks/{id}/events"), after).await
    }

    async fn stream<T>(&self, path: &str, after: u64) -> Result<EventStream<T>, ClientError> {
        let request = self.request(Method::GET, path);
        let request =
            request.header("accept", "text/event-stream").header("last-event-id", after.to_string());
        let response = self.checked(request.send().await).await?;
        Ok(EventStream {
            response,
            reader: SseReader::new(EVENT_LIMIT),
            ready: Vec::new(),
            base: self.base.clone(),
            kind: PhantomData,
        })
    }

    pub async fn conversation(&self, id: &str) -> Result<Conversation, ClientError> {
        self.get(&format!("/v1/conversations/{}", escape(id)), &()).await
    }

    pub async fn messages(&self, id: &str, after: u64) -> Result<MessagePage, ClientError> {
        self.get(&format!("/v1/conversations/{}/messages", escape(id)), &[("after", after)]).await
    }

    pub async fn post_message(&self, id: &str, message: &PostMessage) -> Result<Task, ClientError> {
        self.post(&format!("/v1/conversations/{}/messages", escape(id)), message).await
    }

    pub async fn fleets(&self) -> Result<FleetList, ClientError> {
        self.get("/v1/fleets", &()).await
    }

    pub async fn fleet(&self, name: &str) -> Result<FleetStatus, ClientError> {
        self.get(&format!("/v1/fleets/{}", escape(name)), &()).await
    }

    /// Lets nothing of a fleet start (`true`), or everything again.
    pub async fn set_paused(&self, fleet: &str, paused: bool) -> Result<FleetStatus, ClientError> {
        let verb = if paused { "pause" } else { "resume" };
        self.send(self.request(Method::POST, &format!("/v1/fleets/{}/{verb}", escape(fleet)))).await
    }

    /// The tenants of a fleet with the most to do.
    pub async fn tenants(&self, fleet: &str) -> Result<TenantList, ClientError> {
        self.get(&format!("/v1/fleets/{}/tenants", escape(fleet)), &()).await
    }

    pub async fn apply(&self, apply: &Apply) -> Result<Applied, ClientError> {
        self.post("/v1/fleets:apply", apply).await
    }

    pub async fn scale(&self, fleet: &str) -> Result<ScaleStatus, ClientError> {
        self.get(&format!("/v1/fleets/{}/scale", escape(fleet)), &()).await
    }

    pub async fn set_scale(&self, fleet: &str, replicas: Option<u32>) -> Result<ScaleStatus, ClientError> {
        self.post(&format!("/v1/fleets/{}/scale", escape(fleet)), &SetScale { replicas }).await
    }

    /// `gone`: those that ended lately as well.
    pub async fn workers(&self, fleet: Option<&str>, gone: bool) -> Result<WorkerList, ClientError> {
        let mut query = vec![("gone", gone.to_string())];
        query.extend(fleet.map(|fleet| ("fleet", fleet.to_owned())));
        self.get("/v1/workers", &query).await
    }

    pub async fn worker(&self, id: &str) -> Result<Worker, ClientError> {
        self.get(&format!("/v1/workers/{}", escape(id)), &()).await
    }

    pub async fn drain_worker(&self, id: &str, how: &DrainWorker) -> Result<Worker, ClientError> {
        self.post(&format!("/v1/workers/{}/drain", escape(id)), how).await
    }

    pub async fn schedules(&self) -> Result<ScheduleList, ClientError> {
        self.get("/v1/schedules", &()).await
    }

    pub async fn schedule(&self, name: &str) -> Result<Schedule, ClientError> {
        self.get(&format!("/v1/schedules/{}", escape(name)), &()).await
    }

    pub async fn pause_schedule(&self, name: &str, paused: bool) -> Result<Schedule, ClientError> {
        let verb = if paused { "pause" } else { "resume" };
        self.send(self.request(Method::POST, &format!("/v1/schedules/{}/{verb}", escape(name)))).await
    }

    /// Submits the schedule's task now.
    pub async fn run_schedule(&self, name: &str, idempotency: Option<&str>) -> Result<Task, ClientError> {
        let request = self.request(Method::POST, &format!("/v1/schedules/{}/run", escape(name)));
        self.send(keyed(request, idempotency)).await
    }

    pub async fn webhooks(&self) -> Result<WebhookList, ClientError> {
        self.get("/v1/webhooks", &()).await
    }

    pub async fn webhook(&self, name: &str) -> Result<Webhook, ClientError> {
        self.get(&format!("/v1/webhooks/{}", escape(name)), &()).await
    }

    /// Newest first; `state`: only those in it; `before`: only numbers below it.
    pub async fn deliveries(
        &self,
        webhook: &str,
        state: Option<&str>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<DeliveryPage, ClientError> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(state.map(|state| ("state", state.to_owned())));
        query.extend(before.map(|before| ("before", before.to_string())));
        self.get(&format!("/v1/webhooks/{}/deliveries", escape(webhook)), &query).await
    }

    pub async fn retry_deliveries(
        &self,
        webhook: &str,
        which: &RetryDeliveries,
    ) -> Result<Retried, ClientError> {
        self.post(&format!("/v1/webhooks/{}/retry", escape(webhook)), which).await
    }

    pub async fn test_webhook(&self, name: &str) -> Result<WebhookTest, ClientError> {
        self.send(self.request(Method::POST, &format!("/v1/webhooks/{}/test", escape(name)))).await
    }

    /// Sends to a webhook again that was switched off.
    pub async fn enable_webhook(&self, name: &str) -> Result<Webhook, ClientError> {
        self.send(self.request(Method::POST, &format!("/v1/webhooks/{}/enable", escape(name)))).await
    }

    /// Makes a key; the answer is the only place where it is.
    pub async fn create_key(&self, wanted: &CreateKey) -> Result<CreatedKey, ClientError> {
        self.post("/v1/keys", wanted).await
    }

    pub async fn keys(&self) -> Result<KeyList, ClientError> {
        self.get("/v1/keys", &()).await
    }

    pub async fn revoke_key(&self, id: KeyId) -> Result<Key, ClientError> {
        self.post(&format!("/v1/keys/{id}/revoke"), &serde_json::json!({})).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T, ClientError> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.checked(request.timeout(Duration::from_secs(120)).send().await).await?;
        let body = response.bytes().await.map_err(|source| self.unreachable(source))?;
        serde_json::from_slice(&body).map_err(|error| self.unexpected(error.to_string()))
    }

    async fn checked(&self, sent: reqwest::Result<Response>) -> Result<Response, ClientError> {
        let response = sent.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|source| self.unreachable(source))?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
            Err(_) => Err(self.unexpected(format!("status {status} without a problem body"))),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable { base: self.base.clone(), source }
    }

    fn unexpected(&self, what: String) -> ClientError {
        ClientError::Unexpected { base: self.base.clone(), what }
    }
}

fn keyed(request: RequestBuilder, idempotency: Option<&str>) -> RequestBuilder {
    match idempotency {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    }
}

/// Writes a name as one segment of a path.
fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Events as they happen, a task's unless it says otherwise.
pub struct EventStream<T = crate::task::Event> {
    kind: PhantomData<fn() -> T>,
    response: Response,
    reader: SseReader,
    ready: Vec<SseEvent>,
    base: String,
}

impl<T: DeserializeOwned> EventStream<T> {
    /// The next event; `None` when the stream ended (after the terminal event, or because the control plane stops).
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if !self.ready.is_empty() {
                let event = self.ready.remove(0);
                let unexpected = |error: serde_json::Error| ClientError::Unexpected {
                    base: self.base.clone(),
                    what: error.to_string(),
                };
                return serde_json::from_str(&event.data).map(Some).map_err(unexpected);
            }
            let chunk = self.response.chunk().await;
            let chunk =
                chunk.map_err(|source| ClientError::Unreachable { base: self.base.clone(), source })?;
            let Some(chunk) = chunk else { return Ok(None) };
            let events = self.reader.push(&chunk);
            self.ready = events.map_err(|error| ClientError::Unexpected {
                base: self.base.clone(),
                what: error.to_string(),
            })?;
        }
    }
}
