//! What people should know of a compose fleet: in its notes, in the log, and in the override file.

use std::collections::BTreeMap;

use longshore_core::id::FleetName;
use longshore_platform::docker::compose::{Counts, OverrideFile, Replica, Service, override_text};
use tracing::{info, warn};

use super::Crew;
use super::stand::Stand;
use crate::app::App;

/// What is said of a fleet.
pub type Notes = Vec<String>;

/// All fleets of one look.
#[derive(Default)]
pub struct Counted {
    fleets: BTreeMap<FleetName, (Service, Stand, u32)>,
    folder: Option<String>,
    /// Whether there is a replica of any, running or not.
    any: bool,
}

impl Counted {
    pub fn add(&mut self, fleet: &FleetName, service: &Service, replicas: &[Replica], stand: Stand) {
        let added = replicas.iter().filter(|replica| replica.runs && replica.worker.is_some()).count();
        self.any |= !replicas.is_empty();
        self.folder = self.folder.take().or_else(|| replicas.iter().find_map(|it| it.folder.clone()));
        let added = u32::try_from(added).unwrap_or(u32::MAX);
        self.fleets.insert(fleet.clone(), (service.clone(), stand, added));
    }

    fn projects(&self) -> BTreeMap<String, Counts> {
        let mut projects: BTreeMap<String, Counts> = BTreeMap::new();
        for (service, stand, _) in self.fleets.values() {
            let counts = projects.entry(service.project.clone()).or_default();
            // None at all is no count to begin with.
            if stand.count > 0 {
                counts.insert(service.name.clone(), stand.count);
            }
        }
        projects
    }
}

/// Writes the override file, and notes what changed. `declared`: all compose fleets, also those that could not be looked at,
/// of which is remembered what was seen.
pub async fn tell(app: &App, crew: &Crew, declared: &[&FleetName], counted: Counted) {
    // Of one that could not be looked at nobody knows whether it has replicas.
    let none_left = !counted.any && declared.iter().all(|fleet| counted.fleets.contains_key(*fleet));
    let written = write(crew, &counted, none_left).await;
    let mut fleets = crew.0.compose.fleets.lock().expect("no holder panics");
    let mut told = app.notes.lock().expect("no holder panics");
    for fleet in fleets.keys().filter(|fleet| !counted.fleets.contains_key(*fleet)) {
        told.remove(fleet);
    }
    fleets.retain(|fleet, _| declared.contains(&fleet));
    for (fleet, (_, stand, added)) in &counted.fleets {
        let notes = notes(stand, *added, &written);
        let seen = fleets.entry(fleet.clone()).or_default();
        for note in notes.iter().filter(|note| !seen.notes.contains(note)) {
            warn!(%fleet, note, "compose service");
        }
        told.insert(fleet.clone(), notes.clone());
        seen.notes = notes;
    }
}

/// Errors: why there is no file, in words.
async fn write(crew: &Crew, counted: &Counted, none_left: bool) -> Result<String, String> {
    let Some((project, counts)) = counted.projects().into_iter().next() else { return Ok(String::new()) };
    let configured = crew.0.docker.override_file().map(str::to_owned);
    let folder = crew.0.compose.folder(counted.folder.clone());
    let write = move || {
        let file = OverrideFile::find(configured.as_deref(), folder.as_deref());
        if counts.is_empty() {
            let Ok(file) = file else { return Ok(String::new()) };
            if none_left && file.clear(&project)? {
                info!(file = %file.path().display(), "no replica is left: counts of compose services taken out");
            }
            return Ok(String::new());
        }
        let file = file?;
        let shown = file.path().display().to_string();
        if file.write(&override_text(&project, &counts))? {
            info!(file = shown, ?counts, "counts of compose services written");
        }
        Ok(shown)
    };
    tokio::task::spawn_blocking(write).await.unwrap_or_else(|_| Err("it could not be written".into()))
}

fn notes(stand: &Stand, added: u32, file: &Result<String, String>) -> Notes {
    let mut notes = Vec::new();
    // Said in the same words while only the number changes, so that the log is not full of it.
    if added > 0 {
        notes.push(match file {
            Ok(path) => format!(
                "the scaler has added replicas: `docker-compose up` sets their count back, unless it reads `{path}`, which has the current one"
            ),
            Err(why) => format!(
                "the scaler has added replicas: `docker-compose up` sets their count back, and no override file has the current one ({why})"
            ),
        });
    } else if let Err(why) = file {
        notes.push(format!("no override file is written: {why}"));
    }
    if stand.configs.len() > 1 {
        notes
            .push("replicas of different configurations run: `docker-compose up -d` makes them alike".into());
    }
    for (name, why) in &stand.stuck {
        notes.push(format!("`{name}` has ended and stays, since it cannot be removed: {why}"));
    }
    for name in &stand.silent {
        notes.push(format!("`{name}` runs, but its worker does not register: see `docker logs {name}`; it needs LONGSHORE_LINK, LONGSHORE_FLEET and a token"));
    }
    for name in &stand.failing {
        notes.push(format!("`{name}` ends again and again: see `docker logs {name}`"));
    }
    notes
}
