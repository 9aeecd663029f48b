//! API keys: making, listing, revoking. For administrators.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use longshore_api::key::{CreateKey, CreatedKey, Key, KeyList};
use longshore_core::access::{KEY_PREFIX, Scope, Standing, is_name, standing};
use longshore_core::id::KeyId;
use longshore_store::{KeyRecord, NewKey};
use tracing::info;
use uuid::Uuid;

use crate::app::{App, now};
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param};
use crate::keys::{hash, new_key};

/// Letters of a key that are shown ever after.
const HINT: usize = 4;

/// All keys, newest first, without what is secret about them.
#[utoipa::path(get, path = "/v1/keys", responses((status = 200, body = KeyList),
    (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn list(State(app): State<App>) -> Answer<Json<KeyList>> {
    let items = app.store.keys().await?.into_iter().map(shown).collect();
    Ok(Json(KeyList { items }))
}

/// Make a key. It is in this answer and nowhere else: `Idempotency-Key` is ignored, a repeated request makes another one.
#[utoipa::path(post, path = "/v1/keys", request_body = CreateKey, responses((status = 201, body = CreatedKey),
    (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(app): State<App>,
    JsonBody(wanted): JsonBody<CreateKey>,
) -> Answer<(StatusCode, Json<CreatedKey>)> {
    if !is_name(&wanted.name) {
        return Err(Refused::invalid("name", "expected 1 to 100 characters on one line"));
    }
    if wanted.expires_at.is_some_and(|at| at <= now()) {
        return Err(Refused::invalid("expires_at", "this time has passed"));
    }
    let scope = Scope {
        verbs: wanted.verbs.into_iter().collect(),
        fleets: wanted.fleets.into_iter().collect(),
        tenant: wanted.tenant,
    };
    scope.check().map_err(|rule| Refused::invalid("verbs", rule))?;
    for fleet in &scope.fleets {
        // A key for a fleet that is misspelt would open nothing, and nobody would know why.
        app.store.fleet(fleet.clone()).await?.ok_or_else(|| Refused::no_fleet(fleet))?;
    }
    let key = new_key();
    let record = NewKey {
        id: KeyId(Uuid::now_v7()),
        hash: hash(&key),
        name: wanted.name,
        hint: key[key.len() - HINT..].to_owned(),
        scope,
        expires_at: wanted.expires_at,
    };
    let (id, created_at) = (record.id, now());
    let about = shown(KeyRecord {
        id,
        hash: record.hash,
        name: record.name.clone(),
        hint: record.hint.clone(),
        scope: record.scope.clone(),
        created_at,
        expires_at: record.expires_at,
        revoked_at: None,
        used_at: None,
    });
    app.store.create_key(record, created_at).await?;
    info!(key = %id, name = about.name, "key made");
    Ok((StatusCode::CREATED, Json(CreatedKey { key, about })))
}

/// Revoke a key. Every replica refuses it within two seconds.
#[utoipa::path(post, path = "/v1/keys/{id}/revoke", params(("id" = String, Path)), responses((status = 200, body = Key),
    (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn revoke(State(app): State<App>, Param(id): Param<String>) -> Answer<Json<Key>> {
    let id: KeyId = id.parse().map_err(|error: longshore_core::id::IdError| {
        Refused::new(400, "invalid_key_id", error.to_string())
    })?;
    let unknown = || {
        Refused::new(404, "unknown_key", format!("there is no key {id}"))
            .hint("`longshore keys list` shows their ids")
    };
    let record = app.store.revoke_key(id, now()).await?.ok_or_else(unknown)?;
    app.keys.forget();
    info!(key = %id, name = record.name, "key revoked");
    Ok(Json(shown(record)))
}

fn shown(record: KeyRecord) -> Key {
    let standing = match standing(record.expires_at, record.revoked_at, now()) {
        Standing::Good => "good",
        Standing::Expired => "expired",
        Standing::Revoked => "revoked",
    };
    Key {
        id: record.id,
        name: record.name,
        hint: format!("{KEY_PREFIX}…{}", record.hint),
        verbs: record.scope.verbs.into_iter().collect(),
        fleets: record.scope.fleets.into_iter().collect(),
        tenant: record.scope.tenant,
        standing: standing.into(),
        created_at: record.created_at,
        expires_at: record.expires_at,
        revoked_at: record.revoked_at,
        used_at: record.used_at,
    }
}
