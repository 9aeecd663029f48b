//! The administrators' tokens: from `[server] token`, and from the file of the first key.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use longshore_core::settings::Settings;
use tracing::info;

use crate::controller;
use crate::keys::new_key;

/// The fewest characters of a token: a shorter one is guessed.
const SHORTEST: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("could not read the token from {from}")]
    Read { from: String, source: io::Error },
    #[error("the token in {from} has fewer than {SHORTEST} characters: anybody could guess it")]
    Short { from: String },
    #[error("the token in {from} is more than one word, which no header can carry")]
    Words { from: String },
    #[error("could not write a first key to `{path}`")]
    Write { path: PathBuf, source: io::Error },
}

/// All that are set; none: there are none.
///
/// The file is made, for its owner only, if it is not there.
pub fn tokens(settings: &Settings, file: Option<&Path>) -> Result<Vec<String>, TokenError> {
    let mut tokens = Vec::new();
    if let Some(source) = &settings.server.token {
        let from = controller::name_secret(source);
        let text = controller::read_secret(source)
            .map_err(|source| TokenError::Read { from: from.clone(), source })?;
        tokens.push(checked(&text, from)?);
    }
    if let Some(path) = file {
        let text = read_or_make(path)?;
        tokens.push(checked(&text, format!("the file `{}`", path.display()))?);
    }
    Ok(tokens)
}

fn checked(text: &str, from: String) -> Result<String, TokenError> {
    let token = text.trim();
    if token.chars().count() < SHORTEST {
        return Err(TokenError::Short { from });
    }
    match token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(token.to_owned()),
        false => Err(TokenError::Words { from }),
    }
}

fn read_or_make(path: &Path) -> Result<String, TokenError> {
    let from = || format!("the file `{}`", path.display());
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read.map_err(|source| TokenError::Read { from: from(), source }),
    }
    match make(path) {
        // Somebody else was faster: theirs counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::read_to_string(path).map_err(|source| TokenError::Read { from: from(), source })
        }
        made => {
            let key = made.map_err(|source| TokenError::Write { path: path.to_owned(), source })?;
            info!(file = %path.display(), "first key made");
            Ok(key)
        }
    }
}

/// Written beside it first: whoever reads the file finds all of the key or no file.
fn make(path: &Path) -> io::Result<String> {
    let key = new_key();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(format!("{key}\n").as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::hard_link(&beside, path));
    let _ = fs::remove_file(&beside);
    written.map(|()| key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use longshore_core::access::is_key;
    use longshore_core::settings;

    use super::*;

    fn none() -> Settings {
        settings::parse("", "longshore.toml", &[], "/").expect("an empty file is fine").0
    }

    #[test]
    fn the_first_key_is_made_once_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("admin");
        let made = tokens(&none(), Some(&path)).expect("made");
        assert!(is_key(&made[0]));
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(tokens(&none(), Some(&path)).expect("read"), made);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing is left beside it");
        assert_eq!(tokens(&none(), None).expect("none"), Vec::<String>::new());
    }

    #[test]
    fn what_is_too_short_or_cannot_be_used_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("admin");
        for text in ["", "\n", "hunter2", "hunter2 hunter2 hunter2"] {
            fs::write(&path, text).expect("written");
            let error = tokens(&none(), Some(&path)).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        let absent = tokens(&none(), Some(&dir.path().join("absent/admin")));
        assert!(matches!(absent, Err(TokenError::Write { .. })), "{absent:?}");
    }

    #[test]
    fn starters_at_the_same_time_agree_on_the_first_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("admin");
        let start = || {
            std::thread::spawn({
                let path = path.clone();
                move || tokens(&none(), Some(&path)).expect("made or read")
            })
        };
        let all: Vec<_> = (0..8).map(|_| start()).collect();
        let all: Vec<_> = all.into_iter().map(|one| one.join().expect("no panic")).collect();
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    }
}
