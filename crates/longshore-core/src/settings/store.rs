//! Reads `[store]`.

use super::section::Section;
use super::tree::{Node, Value};
use super::{Address, Pooler, RedisSettings, RedisTopology, SharedStore, StoreSettings, resolve};

/// The folder of the embedded store, beside the file.
const STORE_DIR: &str = ".longshore";

const SCHEMA: &str = "longshore";
const REDIS_PREFIX: &str = "longshore:";
const CONNECTIONS: u32 = 16;

/// Keys that mean something beside an address only.
const DATABASE_KEYS: [&str; 5] = ["database_password", "schema", "connections", "pooler", "migrate"];
const REDIS_KEYS: [&str; 7] = [
    "redis_password",
    "redis_user",
    "redis_prefix",
    "redis_topology",
    "redis_master",
    "redis_ca",
    "redis_cache",
];

pub(super) fn read_store(root: &mut Section<'_>, base_dir: &str) -> StoreSettings {
    let default = resolve(base_dir, STORE_DIR);
    let Some(mut section) = root.section("store") else {
        return StoreSettings { dir: default, shared: None };
    };
    let dir = section.text("dir", "a path").map(|dir| {
        if dir.is_empty() || dir.contains('\0') {
            section.error("dir", "expected the path of a folder".into());
        }
        resolve(base_dir, &dir)
    });
    let database = address(&mut section, "database", base_dir, &["postgres://", "postgresql://"]);
    let redis = read_redis(&mut section, base_dir);
    let shared = match database {
        Some(database) => Some(read_shared(&mut section, database, redis, base_dir)),
        None => {
            alone(&mut section, &redis);
            None
        }
    };
    section.finish();
    StoreSettings { dir: dir.unwrap_or(default), shared }
}

/// Keys of a shared store without its database: taken, so that they are not called unknown.
fn alone(section: &mut Section<'_>, redis: &Option<RedisSettings>) {
    let wrong = section.was_given("database");
    for key in DATABASE_KEYS {
        if section.take(key).is_some() && !wrong {
            section.error(key, "there is no `database` that it could be about".into());
        }
    }
    if redis.is_some() && !wrong {
        let problem =
            "needs `database`: without one all state is in the embedded store, and Redis would not be used";
        section.error("redis", problem.into());
    }
}

fn read_shared(
    section: &mut Section<'_>,
    database: Address,
    redis: Option<RedisSettings>,
    base_dir: &str,
) -> SharedStore {
    let schema = section.text("schema", "the name of a schema").unwrap_or_else(|| SCHEMA.into());
    if !is_schema(&schema) {
        let expected = "expected 1 to 63 of a-z, 0-9 and _, beginning with a letter, and not pg_…";
        section.error("schema", expected.into());
    }
    let poolers = [("none", Pooler::None), ("transaction", Pooler::Transaction)];
    let migrate = [("auto", true), ("check", false)];
    SharedStore {
        database,
        database_password: section.secret("database_password", base_dir),
        schema,
        connections: section.whole("connections", 4..=1000).unwrap_or(CONNECTIONS),
        pooler: section.choice("pooler", &poolers, &[]).unwrap_or_default(),
        migrate: section.choice("migrate", &migrate, &[]).unwrap_or(true),
        redis,
    }
}

fn is_schema(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.starts_with("pg_")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn read_redis(section: &mut Section<'_>, base_dir: &str) -> Option<RedisSettings> {
    const SCHEMES: [&str; 2] = ["redis://", "rediss://"];
    let Some(addresses) = addresses(section, "redis", base_dir, &SCHEMES) else {
        let wrong = section.was_given("redis");
        for key in REDIS_KEYS {
            if section.take(key).is_some() && !wrong {
                section.error(key, "there is no `redis` that it could be about".into());
            }
        }
        return None;
    };
    let topologies = [("single", false), ("cluster", true)];
    let master = section.text("redis_master", "the name that the sentinels know the master by");
    let cluster = section.choice("redis_topology", &topologies, &["sentinel"]);
    if master.is_some() && cluster == Some(true) {
        section.error("redis_master", "a cluster has no sentinels: leave one of the two out".into());
    }
    let topology = match (master, cluster) {
        (Some(master), _) => RedisTopology::Sentinel { master },
        (None, Some(true)) => RedisTopology::Cluster,
        (None, _) => RedisTopology::Single,
    };
    Some(RedisSettings {
        addresses,
        topology,
        user: section.text("redis_user", "the name of a user"),
        password: section.secret("redis_password", base_dir),
        prefix: section
            .text("redis_prefix", "what each key begins with")
            .unwrap_or_else(|| REDIS_PREFIX.into()),
        ca: section
            .text("redis_ca", "the path of a file with certificates")
            .map(|path| resolve(base_dir, &path)),
        cache: addresses_of_cache(section, base_dir, &SCHEMES),
    })
}

fn addresses_of_cache(section: &mut Section<'_>, base_dir: &str, schemes: &[&str]) -> Vec<Address> {
    addresses(section, "redis_cache", base_dir, schemes).unwrap_or_default()
}

/// One address, or a list of them.
fn addresses(
    section: &mut Section<'_>,
    key: &'static str,
    base_dir: &str,
    schemes: &[&str],
) -> Option<Vec<Address>> {
    let node = section.take(key)?;
    let Node { value: Value::Array(list), .. } = node else {
        return Some(vec![address_in(section, key, node, base_dir, schemes)?]);
    };
    if list.is_empty() {
        section.error(key, "expected at least one address".into());
        return None;
    }
    list.into_iter().map(|node| address_in(section, key, node, base_dir, schemes)).collect()
}

fn address(
    section: &mut Section<'_>,
    key: &'static str,
    base_dir: &str,
    schemes: &[&str],
) -> Option<Address> {
    let node = section.take(key)?;
    address_in(section, key, node, base_dir, schemes)
}

/// An address as text, without a password; or where it is, then it may hold one.
fn address_in(
    section: &mut Section<'_>,
    key: &'static str,
    node: Node,
    base_dir: &str,
    schemes: &[&str],
) -> Option<Address> {
    if let Value::Table(_) = node.value {
        return section.secret_in(key, node, base_dir).map(Address::Secret);
    }
    let expected = || {
        format!("expected an address that begins with {}, or its source, {{ env = \"NAME\" }}", schemes[0])
    };
    let (Value::Text(text), place) = (&node.value, node.place.clone()) else {
        section.error(key, expected());
        return None;
    };
    // The text is not shown: it may hold a password.
    if !schemes.iter().any(|scheme| text.starts_with(scheme)) {
        section.error_in(place, key, expected());
        return None;
    }
    if holds_password(text) {
        let problem = "a password does not belong here: give the whole address as { env = \"NAME\" } or \
                       { file = \"PATH\" }, or the password by itself in the key with `_password`";
        section.error_in(place, key, problem.into());
        return None;
    }
    Some(Address::Given(text.clone()))
}

fn holds_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let login = authority.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'));
    login
        || rest
            .split_once('?')
            .is_some_and(|(_, query)| query.split('&').any(|pair| pair.starts_with("password=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_seen() {
        for (url, holds) in [
            ("postgres://u:p@db/x", true),
            ("postgres://db/x?password=p", true),
            ("redis://:p@cache:6379", true),
            ("postgres://u@db:5432/x?sslmode=verify-full", false),
            ("redis://cache:6379/0", false),
        ] {
            assert_eq!(holds_password(url), holds, "{url}");
        }
    }
}
