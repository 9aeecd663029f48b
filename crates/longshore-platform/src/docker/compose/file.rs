//! The override file that tells the next `docker-compose up` how many replicas there are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Replicas by service.
pub type Counts = BTreeMap<String, u32>;

/// What every file of ours begins with: no other one is written over.
const HEAD: &str = "# Written by longshore";

/// The name that docker-compose reads by itself beside the project's file.
const NAME: &str = "docker-compose.override.yml";

/// Where counts are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverrideFile(PathBuf);

/// Without a count it says nothing, in words that docker-compose takes: 1.x wants a version where it finds no service.
///
/// `scale`, since compose 1.x takes a change of `deploy` for another configuration and would recreate every container.
pub fn override_text(project: &str, counts: &Counts) -> String {
    let mut text = format!(
        "{HEAD}: how many replicas its scaler keeps in project {project}.\n\
         # Without this file `docker-compose up` sets them back to what the project's own file says.\n"
    );
    text.push_str(if counts.is_empty() { "version: \"3.8\"\nservices: {}\n" } else { "services:\n" });
    for (service, count) in counts {
        // In quotes: a name may look like a number.
        text.push_str(&format!("  \"{service}\":\n    scale: {count}\n"));
    }
    text
}

impl OverrideFile {
    /// The file that was configured, else the one that docker-compose reads by itself in the project's folder.
    ///
    /// Errors: why there is none, for people.
    pub fn find(configured: Option<&str>, folder: Option<&str>) -> Result<OverrideFile, String> {
        if let Some(path) = configured {
            return Ok(OverrideFile(path.into()));
        }
        let folder = folder.map(Path::new).filter(|folder| folder.is_dir());
        let folder = folder
            .ok_or("the project's folder cannot be seen from here: mount it, and set `[docker] override`")?;
        let path = folder.join(NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.starts_with(HEAD) => {
                Err(format!("`{}` is your own: set `[docker] override` to another file", path.display()))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("`{}` cannot be read: {error}", path.display()))
            }
            _ => Ok(OverrideFile(path)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes the counts out of a file that has some; where none of ours is, none is made. Returns whether it changed.
    ///
    /// Errors: in words.
    pub fn clear(&self, project: &str) -> Result<bool, String> {
        match std::fs::read_to_string(&self.0) {
            Ok(text) if text.starts_with(HEAD) => self.write(&override_text(project, &Counts::new())),
            _ => Ok(false),
        }
    }

    /// Writes the file, if it would change: true. One that is not ours stays as it is.
    ///
    /// Errors: in words.
    pub fn write(&self, text: &str) -> Result<bool, String> {
        let failed = |error: io::Error| format!("`{}` could not be written: {error}", self.0.display());
        match std::fs::read_to_string(&self.0) {
            Ok(there) if there == text => return Ok(false),
            Ok(there) if !there.is_empty() && !there.starts_with(HEAD) => {
                return Err(format!(
                    "`{}` was not written by longshore and stays as it is",
                    self.0.display()
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // Beside it and then in its place, so that nobody reads half of it; a file that is mounted alone cannot be replaced.
        let mut beside = self.0.clone().into_os_string();
        beside.push(".new");
        let replaced = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &self.0));
        replaced.or_else(|_| std::fs::write(&self.0, text)).map_err(failed)?;
        Ok(true)
    }
}
