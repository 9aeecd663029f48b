//! The cache that the agents of a fleet share: bytes by key, with a time to live.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::{HeaderValue, StatusCode, header};
use longshore_core::cache::{self, VALUE_LIMIT};
use longshore_core::units;
use longshore_store::{Cached, NewCached};
use serde::Deserialize;

use super::agent::Speaker;
use crate::app::{App, now};
use crate::error::{Answer, Refused};
use crate::extract::{self, Param, Params};

pub fn routes() -> [(&'static str, MethodRouter<App>); 1] {
    [("/agent/v1/cache/{key}", get(read).put(write).delete(delete))]
}

impl From<cache::Refused> for Refused {
    fn from(why: cache::Refused) -> Self {
        match why {
            cache::Refused::Key => Refused::invalid("key", why.to_string()),
            cache::Refused::Ttl => Refused::invalid("ttl", why.to_string()),
            cache::Refused::TooLarge(_) => Refused::new(413, "value_too_large", why.to_string()),
        }
    }
}

fn absent(key: &str) -> Refused {
    Refused::new(404, "not_cached", format!("nothing is kept under `{key}`"))
}

async fn read(State(app): State<App>, speaker: Speaker, Param(key): Param<String>) -> Answer<Response> {
    cache::check_key(&key)?;
    app.store.check_fence(speaker.held, speaker.fleet.clone()).await?;
    let found = app.store.cache_get(speaker.fleet, key.clone(), now()).await?.ok_or_else(|| absent(&key))?;
    let kind = found.kind.and_then(|kind| HeaderValue::try_from(kind).ok());
    let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    Ok(([(header::CONTENT_TYPE, kind)], found.value).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keep {
    ttl: Option<String>,
}

async fn write(
    State(app): State<App>,
    speaker: Speaker,
    Param(key): Param<String>,
    Params(keep): Params<Keep>,
    request: Request,
) -> Answer<StatusCode> {
    let wrong = |error: units::UnitError| Refused::invalid("ttl", error.to_string());
    let ttl = keep.ttl.as_deref().map(units::parse_duration).transpose().map_err(wrong)?;
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).map(str::to_owned);
    // A byte more than fits tells that it does not.
    let value = match extract::read(request.into_body(), VALUE_LIMIT).await {
        Err(refused) if refused.0.status == 413 => {
            return Err(cache::Refused::TooLarge(VALUE_LIMIT + 1).into());
        }
        value => value?,
    };
    let ttl_ms = cache::check(&key, value.len(), ttl)?;
    app.store.check_fence(speaker.held, speaker.fleet.clone()).await?;
    let cached = Cached { kind, value: value.to_vec() };
    app.store.cache_put(NewCached { fleet: speaker.fleet, key, ttl_ms, cached }, now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn delete(State(app): State<App>, speaker: Speaker, Param(key): Param<String>) -> Answer<StatusCode> {
    cache::check_key(&key)?;
    app.store.check_fence(speaker.held, speaker.fleet.clone()).await?;
    match app.store.cache_delete(speaker.fleet, key.clone(), now()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(absent(&key)),
    }
}
