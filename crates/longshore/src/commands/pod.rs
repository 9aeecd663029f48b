//! What longshore does in pods beside serving and working: `install` and `pause`, for rendered manifests alone.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::signals::Stop;

#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// Where to
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// The longshore image holds nothing else, so no `cp` either.
pub fn install(args: &InstallArgs) -> Outcome {
    let failed = |error: io::Error| {
        Fault::new(format!("could not copy longshore to `{}`", args.path.display())).cause(&error)
    };
    copy(Path::new("/proc/self/exe"), &args.path).map_err(failed)?;
    Ok(Exit::Done)
}

/// Beside it first: whoever finds the file finds all of it, and one that runs can be replaced.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let beside = to.with_file_name(format!(".{}.{}", name.display(), std::process::id()));
    let copied = fs::copy(from, &beside)
        .and_then(|_| fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&beside, to));
    if copied.is_err() {
        let _ = fs::remove_file(&beside);
    }
    copied
}

pub async fn pause() -> Outcome {
    Stop::listen()?.asked().await;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_can_be_run_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "new").expect("written");
        for _ in 0..2 {
            copy(&from, &to).expect("copied");
            assert_eq!(fs::read_to_string(&to).expect("there"), "new");
        }
        assert_eq!(fs::metadata(&to).expect("there").permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2);
        assert!(copy(&from, &dir.path().join("absent/to")).is_err());
    }
}
