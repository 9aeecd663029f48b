//! What a control plane leaves in its state folder for others of this machine: where it listens, its authority, workers' tokens.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use longshore_core::id::FleetName;

use super::{Addresses, StartError};
use crate::app::App;
use crate::tls::Tls;

/// The file that says where this control plane listens.
const ADDRESSES: &str = "addresses.json";

/// Where an earlier start listened, by the name of the listener.
pub(super) fn last_addresses(dir: &Path) -> HashMap<String, SocketAddr> {
    let text = fs::read_to_string(dir.join(ADDRESSES)).unwrap_or_default();
    let named: HashMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    let address = |at: serde_json::Value| at.as_str()?.parse().ok();
    named.into_iter().filter_map(|(name, at)| Some((name, address(at)?))).collect()
}

/// The file that holds a fleet's worker token.
fn token_file(dir: &Path, fleet: &FleetName) -> PathBuf {
    dir.join("tokens").join(fleet.as_str())
}

/// Writes each fleet's worker token where only this user can read it.
pub async fn write_tokens(app: &App) -> Result<(), StartError> {
    for record in app.store.fleets().await? {
        write_token(app, &app.state_dir, &record.name)?;
    }
    Ok(())
}

/// Writes one fleet's worker token below this folder; returns the file that holds it.
pub fn write_token(app: &App, dir: &Path, fleet: &FleetName) -> Result<PathBuf, StartError> {
    let (dir, path) = (dir.join("tokens"), token_file(dir, fleet));
    fs::create_dir_all(&dir).map_err(|source| StartError::Write { path: dir, source })?;
    let written = write_private(&path, &app.signer.worker_token(fleet));
    written.map_err(|source| StartError::Write { path: path.clone(), source })?;
    Ok(path)
}

/// Says where this control plane listens, for tools on the same machine.
pub(super) fn write_addresses(app: &App, addresses: &Addresses, tls: bool) -> Result<(), StartError> {
    let path = app.state_dir.join(ADDRESSES);
    let named = [
        ("api", addresses.api),
        ("link", addresses.link),
        ("probes", Some(addresses.probes)),
        ("metrics", addresses.metrics),
    ];
    let at = named.into_iter().filter_map(|(name, at)| Some((name.to_owned(), at?.to_string().into())));
    let mut all: serde_json::Map<String, serde_json::Value> = at.collect();
    all.insert("tls".into(), tls.into());
    let text = serde_json::Value::Object(all).to_string();
    write_private(&path, &text).map_err(|source| StartError::Write { path, source })
}

/// Puts the authority's certificate where people can fetch it for other machines.
pub(super) fn write_authority(app: &App, tls: Option<&Tls>) -> Result<(), StartError> {
    let Some(certificate) = tls.and_then(Tls::authority) else { return Ok(()) };
    let path = app.state_dir.join("ca.pem");
    write_private(&path, certificate).map_err(|source| StartError::Write { path, source })
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}
