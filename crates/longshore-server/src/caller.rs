//! A caller of the API with the verb that its route asks for: what handlers ask whether they may.
//!
//! A task or worker that a caller may not see is answered as if it were not there; a fleet that a caller names, with 403.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use longshore_core::access::{Denied, Scope, Subject, Verb};
use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_store::{Owner, TaskFilter};

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
    /// An agent that submits children: of a named tenant it meets nothing but that tenant's. Which fleets do the work is its
    /// affair, as the API says.
    pub fn agent(tenant: &TenantName) -> Caller {
        let named = Some(tenant.clone()).filter(|tenant| *tenant != TenantName::default());
        let scope = Scope { verbs: [Verb::Submit].into(), fleets: BTreeSet::new(), tenant: named };
        Caller { known: Known { scope: Arc::new(scope), key: None }, verb: Verb::Submit }
    }

    /// What the operator's own file asks for, such as a schedule's tasks.
    pub fn operator(verb: Verb) -> Caller {
        Caller { known: Known { scope: Arc::new(Scope::everything()), key: None }, verb }
    }

    /// Errors: 403 `verb_not_allowed`, `fleet_not_allowed`, `tenant_not_allowed`.
    pub fn may(&self, subject: Subject<'_>) -> Answer<()> {
        self.known.scope.allow(self.verb, subject).map_err(|denied| refused(denied, subject))
    }

    pub fn fleet(&self, fleet: &FleetName) -> Answer<()> {
        self.may(Subject::Fleet(fleet))
    }

    /// For a fleet and a tenant that a request names. Errors: 403 `fleet_not_allowed`, `tenant_not_allowed`.
    pub fn names(&self, fleet: Option<&FleetName>, tenant: Option<&TenantName>) -> Answer<()> {
        let scope = &self.known.scope;
        let (fleet, tenant) = (fleet.or(scope.fleets.first()), tenant.or(scope.tenant.as_ref()));
        match (fleet, tenant) {
            (Some(fleet), tenant) => {
                let tenant = tenant.cloned().unwrap_or_default();
                self.may(Subject::Task { fleet, tenant: &tenant })
            }
            (None, Some(tenant)) if scope.tenant.as_ref().is_some_and(|own| own != tenant) => {
                Err(refused(Denied::Tenant, Subject::SomeTasks))
            }
            (None, _) => self.may(Subject::SomeTasks),
        }
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

    /// Errors: 404 `unknown_batch` for a batch that holds a task which is not this caller's, or none any more.
    pub async fn batch(&self, app: &App, id: BatchId) -> Answer<()> {
        if self.sees_batch(app, id).await? { Ok(()) } else { Err(Refused::no_batch(id)) }
    }

    /// For more tasks of a batch, or the first ones. Errors: as for a batch that is there.
    pub async fn adds_to_batch(&self, app: &App, id: BatchId) -> Answer<()> {
        match self.is_narrow() && app.store.batch(id).await?.is_some() {
            true => self.batch(app, id).await,
            false => Ok(()),
        }
    }

    /// Its numbers are of all its tasks together, so whoever sees it must be allowed to see them all.
    pub async fn sees_batch(&self, app: &App, id: BatchId) -> Answer<bool> {
        if !self.is_narrow() {
            return Ok(true);
        }
        let of_batch = TaskFilter { batch: Some(id), ..TaskFilter::default() };
        // All are of one tenant, so the first one tells.
        let first = app.store.search(of_batch.clone(), 1).await?.tasks.into_iter().next();
        let Some(first) = first else { return Ok(false) };
        if !self.sees(&Owner { fleet: first.fleet, tenant: first.tenant }) {
            return Ok(false);
        }
        let fleets = &self.known.scope.fleets;
        let others = app.store.fleets().await?.into_iter().map(|fleet| fleet.name);
        for other in others.filter(|name| !fleets.is_empty() && !fleets.contains(name)) {
            if any(app, TaskFilter { fleet: Some(other), ..of_batch.clone() }).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether all tasks that a conversation holds are this caller's: their messages are in one history. One that is not known
    /// yet is everybody's; of one whose tasks are all gone nobody can tell any more whose it was.
    pub async fn sees_conversation(&self, app: &App, id: &ConversationId) -> Answer<bool> {
        if !self.is_narrow() {
            return Ok(true);
        }
        let owners = app.store.conversation_owners(id.clone()).await?;
        if owners.is_empty() {
            return Ok(app.store.conversation(id.clone()).await?.is_none());
        }
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

/// Whether there is a task that a filter finds, however many have to be looked at.
async fn any(app: &App, mut filter: TaskFilter) -> Answer<bool> {
    loop {
        let page = app.store.matching(filter.clone(), 1).await?;
        if !page.tasks.is_empty() {
            return Ok(true);
        }
        filter.before = page.next;
        if filter.before.is_none() {
            return Ok(false);
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
