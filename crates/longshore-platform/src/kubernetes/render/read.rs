//! Reads longshore.toml as a control plane in the cluster will: with the environment of its pod, not of this machine.

use longshore_core::settings::{self, Settings, SettingsError, Warning};

pub(super) const DATABASE: &str = "DATABASE_URL";
pub(super) const REDIS: &str = "REDIS_URL";

/// What the file declares, and what it leaves to the Secret of the store.
#[derive(Clone, Debug)]
pub struct Declared {
    pub settings: Settings,
    pub warnings: Vec<Warning>,
    /// Redis is its own wish, not only what `REDIS_URL` would add.
    pub(super) names_redis: bool,
    /// It wants the embedded store: a folder and no database.
    pub(super) embedded: bool,
}

/// Reads the file's text; `base_dir` is the folder that overlays are found in.
pub fn read(text: &str, file_name: &str, base_dir: &str) -> Result<Declared, Vec<SettingsError>> {
    // What the values are nobody sees: they only say that there is one.
    let given = |name: &str, scheme: &str| (name.to_owned(), format!("{scheme}://secret"));
    let both = [given(DATABASE, "postgres"), given(REDIS, "redis")];
    let parse = |env: &[(String, String)]| settings::parse(text, file_name, env, base_dir);
    let (settings, warnings) = parse(&both)?;
    let names_redis = parse(&both[..1])
        .is_ok_and(|(settings, _)| settings.store.shared.is_some_and(|shared| shared.redis.is_some()));
    let default = parse_dir("", file_name, base_dir);
    let embedded =
        parse(&[]).is_ok_and(|(bare, _)| bare.store.shared.is_none() && Some(bare.store.dir) != default);
    Ok(Declared { settings, warnings, names_redis, embedded })
}

/// Where the embedded store is when nothing is said.
fn parse_dir(text: &str, file_name: &str, base_dir: &str) -> Option<String> {
    settings::parse(text, file_name, &[], base_dir).ok().map(|(settings, _)| settings.store.dir)
}
