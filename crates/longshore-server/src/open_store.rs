//! Opens the store that the settings name.

use std::path::PathBuf;
use std::time::Duration;

use longshore_core::fleet::SecretSource;
use longshore_core::settings::{Address, Pooler, RedisSettings, RedisTopology, SharedStore, StoreSettings};
use longshore_store::{ConnectError, ConnectOptions, Migrate, OpenOptions, RedisKind, RedisOptions, Store};
use tracing::warn;

use crate::app::now;
use crate::controller;
use crate::start::StartError;

/// How often a database that is not there yet is tried, a second apart: in many places it starts beside us.
const TRIES: u32 = 30;

pub async fn open(settings: &StoreSettings) -> Result<Store, StartError> {
    let dir = PathBuf::from(&settings.dir);
    let Some(shared) = &settings.shared else { return Ok(Store::open(&OpenOptions::new(dir))?) };
    std::fs::create_dir_all(&dir).map_err(|source| StartError::Write { path: dir, source })?;
    let options = options(shared)?;
    let mut tries = 0;
    loop {
        tries += 1;
        match Store::connect(&options, now()).await {
            Err(ConnectError::Unreachable(why)) if tries < TRIES => {
                warn!(why, tries, "the database is not there yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            done => return Ok(done?),
        }
    }
}

/// Brings the schema of a shared store to the newest version; returns the versions before and after. `None`: the settings
/// name no shared store.
pub async fn migrate(settings: &StoreSettings) -> Result<Option<(usize, usize)>, StartError> {
    let Some(shared) = &settings.shared else { return Ok(None) };
    Ok(Some(longshore_store::migrate_now(&options(shared)?).await?))
}

fn options(shared: &SharedStore) -> Result<ConnectOptions, StartError> {
    let database = read_address("the database's address", &shared.database)?;
    let mut options = ConnectOptions {
        schema: shared.schema.clone(),
        connections: shared.connections as usize,
        pooled: shared.pooler == Pooler::Transaction,
        migrate: if shared.migrate { Migrate::Auto } else { Migrate::Check },
        ..ConnectOptions::new(database)
    };
    options.redis = shared.redis.as_ref().map(redis).transpose()?;
    match &shared.database_password {
        // A file may change while we run; a variable cannot.
        Some(SecretSource::File(path)) => options.password_file = Some(path.into()),
        Some(source) => options.password = Some(read("the database's password", source)?),
        None => {}
    }
    Ok(options)
}

fn redis(settings: &RedisSettings) -> Result<RedisOptions, StartError> {
    let read_all = |what, addresses: &[Address]| {
        addresses.iter().map(|address| read_address(what, address)).collect::<Result<Vec<_>, _>>()
    };
    let (mut password, mut password_file) = (None, None);
    match &settings.password {
        Some(SecretSource::File(path)) => password_file = Some(path.into()),
        Some(source) => password = Some(read("Redis' password", source)?),
        None => {}
    }
    Ok(RedisOptions {
        addresses: read_all("Redis' address", &settings.addresses)?,
        topology: match &settings.topology {
            RedisTopology::Single => RedisKind::Single,
            RedisTopology::Cluster => RedisKind::Cluster,
            RedisTopology::Sentinel { master } => RedisKind::Sentinel { master: master.clone() },
        },
        user: settings.user.clone(),
        password,
        password_file,
        prefix: settings.prefix.clone(),
        ca_file: settings.ca.as_ref().map(PathBuf::from),
        cache: read_all("the cache's address", &settings.cache)?,
    })
}

fn read_address(what: &'static str, address: &Address) -> Result<String, StartError> {
    match address {
        Address::Given(url) => Ok(url.clone()),
        Address::Secret(source) => read(what, source),
    }
}

fn read(what: &'static str, source: &SecretSource) -> Result<String, StartError> {
    controller::read_secret(source).map(|text| text.trim().to_owned()).map_err(|error| {
        StartError::StoreSecret { what, from: controller::name_secret(source), source: error }
    })
}
