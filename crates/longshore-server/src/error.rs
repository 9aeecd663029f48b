//! Turns what went wrong into a problem that says what, where and what to do.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use longshore_api::problem::{self, Problem};
use longshore_core::batch::BatchId;
use longshore_core::errors::chain;
use longshore_core::id::{TaskId, WorkerId};
use longshore_core::role::Role;
use longshore_store::{ClaimError, LinkError, RegisterError, StoreError, SubmitError};
use tracing::error;

/// A refused request. Boxed: problems are large and rare.
#[derive(Debug)]
pub struct Refused(pub Box<Problem>);

pub type Answer<T> = Result<T, Refused>;

impl Refused {
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Refused {
        Refused(Box::new(Problem::new(status, code, detail)))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Refused {
        self.0.hint = Some(hint.into());
        self
    }

    pub fn no_batch(id: BatchId) -> Refused {
        Refused::new(404, "unknown_batch", format!("there is no batch {id}"))
    }

    pub fn no_task(id: TaskId) -> Refused {
        Refused::new(404, "unknown_task", format!("there is no task {id}"))
    }

    pub fn no_fleet(name: impl std::fmt::Display) -> Refused {
        Refused::new(404, "unknown_fleet", format!("there is no fleet `{name}`"))
            .hint("list the declared fleets with `longshore fleets`")
    }

    pub fn invalid(at: &str, detail: impl Into<String>) -> Refused {
        let detail = detail.into();
        let mut refused = Refused::new(422, "invalid_value", format!("`{at}`: {detail}"));
        refused.0.errors.push(problem::Detail { at: at.to_owned(), detail });
        refused
    }

    /// This replica is asked for what only others serve.
    pub fn not_here(role: Role) -> Refused {
        Refused::new(421, "role_not_here", format!("this replica does not have the role `{role}`"))
            .hint(format!("ask one that has it: `longshore serve --roles {role}`; a worker of an older version needs replicas with both `link` and `gateway`"))
    }

    pub fn draining() -> Refused {
        Refused::new(503, "stopping", "this control plane is stopping; ask again in a moment")
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refused(Box::new(problem))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(*self.0)).into_response();
        let kind = HeaderValue::from_static(problem::CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if matches!(status.as_u16(), 503 | 507) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Refused {
    fn from(failed: StoreError) -> Self {
        match failed {
            StoreError::Full => {
                Refused::new(507, "store_full", "the store's disk is full: nothing was written")
                    .hint("free space in the folder of the embedded store; longshore goes on by itself")
            }
            StoreError::Closed => Refused::draining(),
            // No status that a worker waits out: its agent is to go on without.
            unavailable @ (StoreError::NoRedis | StoreError::RedisUnavailable { .. }) => {
                Refused::new(424, "cache_unavailable", unavailable.to_string())
                    .hint("go on without the cache, or ask again in a moment")
            }
            StoreError::Unavailable { why } => {
                error!(why, "the database cannot be reached");
                Refused::new(
                    503,
                    "store_unavailable",
                    "the database cannot be reached; nothing was acknowledged",
                )
                .hint("ask again in a moment; with an Idempotency-Key nothing is done twice")
            }
            other => {
                error!(error = %chain(&other), "store fails");
                Refused::new(500, "store_failed", "the store could not do this; its log says why")
            }
        }
    }
}

impl From<SubmitError> for Refused {
    fn from(failed: SubmitError) -> Self {
        match failed {
            SubmitError::UnknownFleet(name) => Refused::no_fleet(name),
            SubmitError::KeyReused => Refused::new(
                422,
                "idempotency_key_reused",
                "this Idempotency-Key was used before with another request",
            )
            .hint("use a new key for a new request; repeat the very same body to repeat a request"),
            SubmitError::BatchOfSeveral { batch, tenant } => Refused::new(
                422,
                "batch_of_several_tenants",
                format!("batch {batch} is of tenant `{tenant}`, and so are all of its tasks"),
            )
            .hint("send a batch for each tenant"),
            SubmitError::BatchClosed(batch) => {
                Refused::new(409, "batch_closed", format!("batch {batch} takes no more tasks"))
                    .hint("send `more=true` with every request of a batch but the last")
            }
            SubmitError::ConversationBusy(id) => Refused::new(
                409,
                "conversation_busy",
                format!("conversation `{id}` has a task that is not finished"),
            )
            .hint("wait for it, or submit with `on_busy` \"enqueue\" or \"interrupt\""),
            SubmitError::Store(failed) => failed.into(),
        }
    }
}

pub fn unknown_worker(worker: &WorkerId) -> Refused {
    Refused::new(404, "unknown_worker", format!("worker `{worker}` is not registered"))
}

fn stale_nonce() -> Refused {
    Refused::new(409, "stale_nonce", "this worker was started anew: the newer start holds its place")
}

impl From<LinkError> for Refused {
    fn from(failed: LinkError) -> Self {
        match failed {
            LinkError::UnknownWorker(worker) => unknown_worker(&worker),
            LinkError::StaleNonce(_) => stale_nonce(),
            LinkError::Store(failed) => failed.into(),
        }
    }
}

impl From<RegisterError> for Refused {
    fn from(failed: RegisterError) -> Self {
        match failed {
            RegisterError::UnknownFleet(name) => Refused::no_fleet(name),
            other @ RegisterError::OtherFleet { .. } => {
                Refused::new(401, "bad_worker_token", other.to_string())
            }
            RegisterError::StaleNonce(_) => stale_nonce(),
            RegisterError::Store(failed) => failed.into(),
        }
    }
}

impl From<ClaimError> for Refused {
    fn from(failed: ClaimError) -> Self {
        match failed {
            ClaimError::UnknownWorker(worker) => unknown_worker(&worker),
            ClaimError::StaleNonce(_) => stale_nonce(),
            ClaimError::OutOfOrder { newest } => Refused::new(
                409,
                "claim_out_of_order",
                format!("the newest claim of this worker is {newest}"),
            ),
            ClaimError::Store(failed) => failed.into(),
        }
    }
}
