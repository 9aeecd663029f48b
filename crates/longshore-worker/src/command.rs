//! The agent's command: found before anything is claimed for it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use longshore_core::id::FleetName;
use nix::unistd::{AccessFlags, access};

use crate::error::WorkerError;

/// Checks that the command can be run from here.
///
/// Errors: `NoCommand`, or `Command` with the program as it was given.
pub fn check(command: &[String], fleet: &FleetName) -> Result<(), WorkerError> {
    let Some(program) = command.first().filter(|program| !program.is_empty()) else {
        return Err(WorkerError::NoCommand { fleet: fleet.clone() });
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    find(program, &path).map(drop).map_err(|why| WorkerError::Command { program: program.clone(), why })
}

/// Looks a program up as exec does.
fn find(program: &str, path: &OsStr) -> Result<PathBuf, &'static str> {
    if program.contains('/') {
        return runnable(Path::new(program));
    }
    let mut why = "it is in no folder of PATH";
    for folder in std::env::split_paths(path) {
        match runnable(&folder.join(program)) {
            Ok(found) => return Ok(found),
            Err(NOT_THERE) => {}
            Err(other) => why = other,
        }
    }
    Err(why)
}

const NOT_THERE: &str = "there is no such file";

fn runnable(file: &Path) -> Result<PathBuf, &'static str> {
    let Ok(found) = file.metadata() else { return Err(NOT_THERE) };
    if found.is_dir() {
        return Err("it is a folder");
    }
    match access(file, AccessFlags::X_OK) {
        Ok(()) => Ok(file.to_owned()),
        Err(_) => Err("it is not executable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn check(program: &str, path: &Path, expected: Result<(), &'static str>) {
        assert_eq!(find(program, path.as_os_str()).map(drop), expected, "{program}");
    }

    #[test]
    fn a_program_is_found_as_exec_would_find_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, mode| {
            let path = folder.path().join(name);
            std::fs::write(&path, "#!/bin/sh\n").expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode set");
            path.to_str().expect("UTF-8").to_owned()
        };
        let (good, bad) = (file("good", 0o755), file("bad", 0o644));
        check("good", folder.path(), Ok(()));
        check(&good, Path::new(""), Ok(()));
        check("bad", folder.path(), Err("it is not executable"));
        check(&bad, folder.path(), Err("it is not executable"));
        check("absent", folder.path(), Err("it is in no folder of PATH"));
        check("./absent", folder.path(), Err(NOT_THERE));
        check("/", folder.path(), Err("it is a folder"));
    }
}
