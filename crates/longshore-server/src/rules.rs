//! What each route of the API asks of its caller. A route that is not listed here is not reached.

use http::Method;
use longshore_core::access::{Subject, Verb};

/// One route with its rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub method: &'static str,
    /// As the router has it.
    pub path: &'static str,
    pub verb: Verb,
    /// What is known of the request before it is read; handlers ask for the rest.
    pub subject: Subject<'static>,
}

const fn rule(method: &'static str, path: &'static str, verb: Verb, subject: Subject<'static>) -> Rule {
    Rule { method, path, verb, subject }
}

use Subject::{Installation, Nothing, SomeFleets, SomeTasks};
use Verb::{Admin, Operate, Read, Submit};

pub const RULES: &[Rule] = &[
    rule("GET", "/openapi.json", Read, Nothing),
    rule("GET", "/v1/about", Read, Nothing),
    rule("POST", "/v1/tasks", Submit, SomeTasks),
    rule("GET", "/v1/tasks", Read, SomeTasks),
    rule("POST", "/v1/tasks:batch", Submit, SomeTasks),
    rule("POST", "/v1/tasks:cancel", Submit, SomeTasks),
    rule("POST", "/v1/tasks:retry", Submit, SomeTasks),
    rule("GET", "/v1/tasks/{id}", Read, SomeTasks),
    rule("POST", "/v1/tasks/{id}/cancel", Submit, SomeTasks),
    rule("POST", "/v1/tasks/{id}/retry", Submit, SomeTasks),
    rule("POST", "/v1/tasks/{id}/input", Submit, SomeTasks),
    rule("GET", "/v1/tasks/{id}/journal", Read, SomeTasks),
    rule("GET", "/v1/tasks/{id}/events", Read, SomeTasks),
    rule("GET", "/v1/batches", Read, SomeTasks),
    rule("GET", "/v1/batches/{id}", Read, SomeTasks),
    rule("POST", "/v1/batches/{id}/cancel", Submit, SomeTasks),
    rule("GET", "/v1/batches/{id}/events", Read, SomeTasks),
    rule("DELETE", "/v1/tenants/{id}/data", Admin, Installation),
    rule("GET", "/v1/conversations/{id}", Read, SomeTasks),
    rule("GET", "/v1/conversations/{id}/messages", Read, SomeTasks),
    rule("POST", "/v1/conversations/{id}/messages", Submit, SomeTasks),
    rule("GET", "/v1/fleets", Read, SomeFleets),
    rule("POST", "/v1/fleets:apply", Admin, Installation),
    rule("GET", "/v1/fleets/{name}", Read, SomeFleets),
    rule("GET", "/v1/fleets/{name}/scale", Read, SomeFleets),
    rule("POST", "/v1/fleets/{name}/scale", Operate, SomeFleets),
    rule("POST", "/v1/fleets/{name}/pause", Operate, SomeFleets),
    rule("POST", "/v1/fleets/{name}/resume", Operate, SomeFleets),
    rule("GET", "/v1/fleets/{name}/tenants", Read, SomeFleets),
    rule("GET", "/v1/fleets/{name}/releases", Read, SomeFleets),
    rule("GET", "/v1/rollouts", Read, SomeFleets),
    rule("POST", "/v1/rollouts", Operate, SomeFleets),
    rule("GET", "/v1/rollouts/{name}", Read, SomeFleets),
    rule("POST", "/v1/rollouts/{name}/pause", Operate, SomeFleets),
    rule("POST", "/v1/rollouts/{name}/resume", Operate, SomeFleets),
    rule("POST", "/v1/rollouts/{name}/undo", Operate, SomeFleets),
    rule("GET", "/v1/workers", Read, SomeFleets),
    rule("GET", "/v1/workers/{id}", Read, SomeFleets),
    rule("POST", "/v1/workers/{id}/drain", Operate, SomeFleets),
    rule("GET", "/v1/schedules", Read, Installation),
    rule("GET", "/v1/schedules/{name}", Read, Installation),
    rule("POST", "/v1/schedules/{name}/pause", Operate, Installation),
    rule("POST", "/v1/schedules/{name}/resume", Operate, Installation),
    rule("POST", "/v1/schedules/{name}/run", Operate, Installation),
    rule("GET", "/v1/webhooks", Read, Installation),
    rule("GET", "/v1/webhooks/{name}", Read, Installation),
    rule("GET", "/v1/webhooks/{name}/deliveries", Read, Installation),
    rule("POST", "/v1/webhooks/{name}/retry", Operate, Installation),
    rule("POST", "/v1/webhooks/{name}/test", Operate, Installation),
    rule("POST", "/v1/webhooks/{name}/enable", Operate, Installation),
    rule("GET", "/v1/keys", Admin, Installation),
    rule("POST", "/v1/keys", Admin, Installation),
    rule("POST", "/v1/keys/{id}/revoke", Admin, Installation),
];

/// The rule of a route; a HEAD is a GET.
pub fn of(method: &Method, path: &str) -> Option<&'static Rule> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    RULES.iter().find(|rule| rule.path == path && rule.method == method)
}
