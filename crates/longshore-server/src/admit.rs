//! Lets requests of the API in, or says why not: the host, the origin, the key, and what the route asks of it.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{Uri, header};

use crate::app::App;
use crate::caller::{Caller, refused};
use crate::error::{Answer, Refused};
use crate::extract::bearer;
use crate::routes::wrong_method;
use crate::rules;

pub async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = match judge(&app, request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    app.metrics.answered("api", response.status());
    response
}

async fn judge(app: &App, mut request: Request) -> Answer<Request> {
    check_host(app, &request)?;
    check_origin(&request)?;
    let known = app.keys.identify(shown(&request)?).await?;
    // No path: there is nothing there, and the router says so.
    if let Some(path) = request.extensions().get::<MatchedPath>().cloned() {
        let Some(rule) = rules::of(request.method(), path.as_str()) else {
            return Err(wrong_method(request.method().clone(), request.uri().clone()).await);
        };
        known.scope.allow(rule.verb, rule.subject).map_err(|denied| refused(denied, rule.subject))?;
        request.extensions_mut().insert(Caller { known, verb: rule.verb });
    }
    Ok(request)
}

/// The token that a request shows, if it shows any.
fn shown(request: &Request) -> Answer<Option<&str>> {
    match (bearer(request.headers()), request.headers().contains_key(header::AUTHORIZATION)) {
        (None, true) => Err(Refused::new(401, "bad_token", "the Authorization header holds no bearer token")
            .hint("send `Authorization: Bearer …`")),
        (token, _) => Ok(token),
    }
}

/// Where nobody is asked for a key, a page whose name was pointed at this address must not pass for one of ours (DNS
/// rebinding).
fn check_host(app: &App, request: &Request) -> Answer<()> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.filter(|_| app.check_host) else { return Ok(()) };
    let name = host.parse::<Authority>().map(|host| host.host().to_ascii_lowercase()).unwrap_or_default();
    let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    if is_address || name == "localhost" {
        return Ok(());
    }
    Err(Refused::new(403, "foreign_host", format!("this control plane does not answer to the name `{name}`"))
        .hint("use its address or localhost; for names, let it ask for keys: set LONGSHORE_ADMIN_TOKEN_FILE"))
}

fn check_origin(request: &Request) -> Answer<()> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin_host = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let origin_host = origin_host.and_then(|origin| origin.authority().map(|host| host.to_string()));
    if origin_host.is_some() && origin_host.as_deref() == host {
        return Ok(());
    }
    Err(Refused::new(403, "cross_origin", "pages of another origin may not call this API"))
}
