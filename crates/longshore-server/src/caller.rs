//! A caller of the API with the verb that its route asks for: what handlers ask whether they may.
//!
//! A task or worker that a caller may not see is answered as if it were not there; a fleet that a caller names, with 403.

use axum::extract::FromRequestParts;
use http::request::Parts;
use longshore_core::access::{Denied, Subject, Verb};
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_store::Owner;

use crate::app::App;
use crate::error::{Answer, Refused};
use crate::keys::Known;

#[derive(Clone, Debug)]
pub struct Caller {
    pub known: Known,
    /// What the route asks for.
    pub verb: Verb,
}

/// Put there by `admit`, without which no handler is reached.
impl FromRequestParts<App> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Answer<Self> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| {
            Refused::new(500, "no_caller", "this route was reached without being asked for a key")
        })
    }
}

impl Caller {
    /// Errors: 403 `verb_not_allowed`, `fleet_not_allowed`, `tenant_not_allowed`.
    pub fn may(&self, subject: Subject<'_>) -> Answer<()> {
        self.known.scope.allow(self.verb, subject).map_err(|denied| refused(denied, subject))
    }

    pub fn fleet(&self, fleet: &FleetName) -> Answer<()> {
        self.may(Subject::Fleet(fleet))
    }

    /// The tenant that this caller is confined to.
    pub fn tenant(&self) -> Option<&TenantName> {
        self.known.scope.tenant.as_ref()
    }

    /// Sees tasks of some fleets or of one tenant only.
    pub fn is_narrow(&self) -> bool {
        !self.known.scope.fleets.is_empty() || self.tenant().is_some()
    }

    /// Errors: 404 `unknown_task` for a task that is not there, or not this caller's.
    pub async fn task(&self, app: &App, id: TaskId) -> Answer<()> {
        if !self.is_narrow() {
            return Ok(());
        }
        let owner = app.store.task_owner(id).await?;
        if owner.is_some_and(|owner| self.sees(&owner)) { Ok(()) } else { Err(Refused::no_task(id)) }
    }

    /// Whether all tasks that a conversation ever held are this caller's: their messages are in one history. One that is
    /// not known yet is everybody's.
    pub async fn sees_conversation(&self, app: &App, id: &ConversationId) -> Answer<bool> {
        if !self.is_narrow() {
            return Ok(true);
        }
        let owners = app.store.conversation_owners(id.clone()).await?;
        Ok(owners.iter().all(|owner| self.sees(owner)))
    }

    /// For a new task of a conversation. Errors: 403 `conversation_not_allowed`.
    pub async fn joins_conversation(&self, app: &App, id: &ConversationId) -> Answer<()> {
        match self.sees_conversation(app, id).await? {
            true => Ok(()),
            false => Err(Refused::new(
                403,
                "conversation_not_allowed",
                format!("conversation `{id}` holds tasks that this key may not see"),
            )
            .hint("use another name for yours")),
        }
    }

    fn sees(&self, owner: &Owner) -> bool {
        self.may(Subject::Task { fleet: &owner.fleet, tenant: &owner.tenant }).is_ok()
    }

    /// What an idempotency key is unique within: one tenant cannot meet another's.
    pub fn idempotency_scope(&self, route: &str) -> String {
        self.tenant().map_or_else(|| route.to_owned(), |tenant| format!("{route}@{tenant}"))
    }

    /// Errors: 401 once the key is no good any more; for what is answered for longer than a moment.
    pub async fn still_good(&self, app: &App) -> Answer<()> {
        match self.known.key {
            Some(hash) => app.keys.check(hash).await.map(drop),
            None => Ok(()),
        }
    }
}

pub fn refused(denied: Denied, subject: Subject<'_>) -> Refused {
    match denied {
        Denied::Verb(verb) => {
            Refused::new(403, "verb_not_allowed", format!("this key lacks the verb `{verb}`"))
                .hint("verbs are given when a key is made: `longshore keys create --verbs …`")
        }
        Denied::Fleet => {
            let detail = match subject {
                Subject::Fleet(fleet) | Subject::Task { fleet, .. } => {
                    format!("this key is not for fleet `{fleet}`")
                }
                _ => "this key is for some fleets only".to_owned(),
            };
            Refused::new(403, "fleet_not_allowed", detail)
        }
        Denied::Tenant => Refused::new(403, "tenant_not_allowed", "this key is for one tenant's tasks only"),
    }
}
