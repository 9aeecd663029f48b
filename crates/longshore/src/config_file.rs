//! Finds longshore.toml and reads it together with the environment.

use std::path::{Path, PathBuf};

use longshore_core::settings::{self, Settings, SettingsError, Warning};

use crate::cli::ConfigFile;
use crate::error::{Fault, Outcome};
use crate::output::{self, Paint, paint_error};

const NAME: &str = "longshore.toml";
const SYSTEM: &str = "/etc/longshore/longshore.toml";

/// A configuration that was read, and where it was found.
#[derive(Debug)]
pub struct Found {
    pub path: PathBuf,
    pub settings: Settings,
    pub warnings: Vec<Warning>,
}

/// A configuration's text, and where it was found.
#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    /// As it is shown.
    pub name: String,
    pub text: String,
    /// That relative paths in it begin at; absolute.
    pub folder: String,
}

impl ConfigFile {
    /// Where the configuration is, without looking into it.
    pub fn path(&self) -> Outcome<PathBuf> {
        if let Some(path) = self.config.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            return Ok(path.clone());
        }
        let there = [NAME, SYSTEM].map(PathBuf::from).into_iter().find(|path| path.exists());
        there.ok_or_else(|| {
            Fault::new(format!("there is no {NAME} here, and no {SYSTEM}")).hint(
                "`longshore init` writes one with a small agent; --config or LONGSHORE_CONFIG names another",
            )
        })
    }

    /// Reads it, and tells its warnings on standard error.
    pub fn load(&self) -> Outcome<Found> {
        let found = self.read()?;
        warn(&found.warnings);
        Ok(found)
    }

    pub fn read(&self) -> Outcome<Found> {
        let File { path, name, text, folder } = self.file()?;
        let (settings, warnings) =
            settings::parse(&text, &name, &environment(), &folder).map_err(|errors| mistakes(&errors))?;
        Ok(Found { path, settings, warnings })
    }

    /// Its text, for those who read it otherwise.
    pub fn file(&self) -> Outcome<File> {
        let path = self.path()?;
        let text = std::fs::read(&path).map_err(|error| could_not_read(&path).cause(&error))?;
        let text = String::from_utf8(text).map_err(|error| could_not_read(&path).cause(&error))?;
        let folder = folder(&path).map_err(|error| could_not_read(&path).cause(&error))?;
        Ok(File { name: path.display().to_string(), path, text, folder })
    }
}

/// What is wrong with a file, all of it.
pub fn mistakes(errors: &[SettingsError]) -> Fault {
    let count = errors.len();
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    Fault::new(format!("the configuration has {count} {noun}"))
        .details(errors.iter().map(ToString::to_string))
}

/// Tells them on standard error.
pub fn warn<T: std::fmt::Display>(warnings: &[T]) {
    for warning in warnings {
        let told = output::clean(&warning.to_string());
        output::note(&format!("{} {told}", paint_error("warning:", Paint::Warn)));
    }
}

fn could_not_read(path: &Path) -> Fault {
    Fault::new(format!("could not read `{}`", path.display()))
}

/// The folder that relative paths of the file begin at; absolute, so that it means the same in every process.
fn folder(path: &Path) -> std::io::Result<String> {
    let folder = std::path::absolute(path)?.parent().map(Path::to_owned).unwrap_or_default();
    folder.into_os_string().into_string().map_err(|folder| {
        let message = format!("its folder `{}` is not UTF-8 text", folder.display());
        std::io::Error::new(std::io::ErrorKind::InvalidInput, message)
    })
}

/// Variables that are not text cannot be overrides.
fn environment() -> Vec<(String, String)> {
    let text = |pair: (std::ffi::OsString, std::ffi::OsString)| {
        Some((pair.0.into_string().ok()?, pair.1.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}
