//! Agents' LLM calls, `/llm/<provider>/…`: who may call, told from two tokens; the gateway does the rest.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use http::header;
use longshore_api::link::ProviderSeen;
use longshore_api::llm;
use longshore_core::id::{FleetName, Held};
use longshore_core::role::Role;
use longshore_gateway::{Caller, Frames, Incoming};
use uuid::Uuid;

use super::Token;
use crate::app::App;
use crate::error::{Answer, Refused};
use crate::extract::{Broken, collect};

pub async fn call(State(app): State<App>, token: Token, request: Request) -> Answer<Response> {
    let gateway = app.gateway.as_ref().ok_or_else(|| Refused::not_here(Role::Gateway))?;
    if !gateway.takes_calls() {
        // The relay waits, and asks whoever comes next.
        return Err(Refused::draining());
    }
    let seat = app.calls.seat().ok_or_else(|| {
        // The same for the relay.
        Refused::new(
            503,
            "too_many_calls",
            "this control plane makes as many LLM calls as it has connections for",
        )
        .hint("raise its limit of open files, or add replicas")
    })?;
    let (parts, body) = request.into_parts();
    let (provider, path) = split(&parts.uri);
    let refuse = |status, code, message: String| framed(gateway.refuse(&provider, status, code, message));
    let Some(held) = task_of(&app, &parts.headers) else {
        let message = "longshore: this task token is not of this installation".to_owned();
        return Ok(refuse(401, "unknown_task_token", message));
    };
    let allowed = providers(&app, &token.0).await?;
    if !app.provider_kinds.contains_key(&provider) {
        let names = allowed.join("`, `");
        let message = format!(
            "longshore: no provider `{provider}` is declared; fleet `{}` may call `{names}`",
            token.0
        );
        return Ok(refuse(404, "unknown_provider", message));
    }
    if !allowed.contains(&provider) {
        let message = format!(
            "longshore: fleet `{}` may not call provider `{provider}`: list it in `providers`",
            token.0
        );
        return Ok(refuse(403, "provider_not_allowed", message));
    }
    let body = match collect(body, llm::BODY_LIMIT).await {
        Ok(body) => body,
        Err(Broken::TooLarge) => {
            let message = format!("longshore: the request is larger than {} MiB", llm::BODY_LIMIT >> 20);
            return Ok(refuse(413, "request_too_large", message));
        }
        Err(broken) => return Err(broken.into()),
    };
    let caller = caller(held, token.0, &parts.headers)?;
    let incoming = Incoming { provider, method: parts.method, path, headers: parts.headers, body };
    let frames = gateway.call(caller, incoming).await;
    Ok(framed(frames.inspect(move |_| _ = &seat)))
}

fn framed(frames: impl Stream<Item = <Frames as Stream>::Item> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, llm::CONTENT_TYPE)], Body::from_stream(frames)).into_response()
}

/// `/llm/openai/v1/models?x=1` is `openai` and `/v1/models?x=1`.
fn split(uri: &http::Uri) -> (String, String) {
    let whole = uri.path_and_query().map_or("/", |whole| whole.as_str());
    let rest = whole.strip_prefix(llm::PREFIX).unwrap_or(whole);
    let (provider, path) = rest.split_once('/').unwrap_or((rest, ""));
    (provider.to_owned(), format!("/{path}"))
}

/// The attempt whose token a request carries.
pub fn task_of(app: &App, headers: &http::HeaderMap) -> Option<Held> {
    app.signer.held_of(headers.get(llm::TASK_TOKEN)?.to_str().ok()?)
}

fn caller(held: Held, fleet: FleetName, headers: &http::HeaderMap) -> Answer<Caller> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let call = text(llm::CALL).and_then(|call| Uuid::try_parse(call).ok());
    let call = call.ok_or_else(|| {
        Refused::new(400, "call_id_missing", format!("the header `{}` has to hold a UUID", llm::CALL))
    })?;
    let undelivered = text(llm::UNDELIVERED).unwrap_or("").split(',');
    let undelivered = undelivered.filter_map(|id| Uuid::try_parse(id.trim()).ok());
    Ok(Caller { held, fleet, call, undelivered: undelivered.take(llm::UNDELIVERED_MOST).collect() })
}

/// The providers that a fleet may call.
pub async fn providers(app: &App, fleet: &FleetName) -> Answer<Arc<[String]>> {
    app.fleets.providers(&app.store, fleet).await?.ok_or_else(|| Refused::no_fleet(fleet))
}

/// What a worker is told of its fleet's providers; of those that this control plane does not declare, nothing.
pub fn seen(app: &App, providers: &[String]) -> Vec<ProviderSeen> {
    let seen = providers.iter().filter_map(|name| {
        let kind = app.provider_kinds.get(name)?;
        Some(ProviderSeen { name: name.clone(), kind: kind.as_str().to_owned() })
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_provider_and_the_rest_as_it_was_written() {
        let check = |uri: &str, provider: &str, path: &str| {
            let uri: http::Uri = uri.parse().expect("valid");
            assert_eq!(split(&uri), (provider.to_owned(), path.to_owned()));
        };
        check("/llm/openai/v1/chat/completions", "openai", "/v1/chat/completions");
        check("http://a:1/llm/b/v1/models/x%2Fy?after=1", "b", "/v1/models/x%2Fy?after=1");
        check("/llm/openai/", "openai", "/");
    }
}
