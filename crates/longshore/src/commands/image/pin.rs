//! `longshore image pin`: writes into longshore.toml which images its tags stand for.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use longshore_platform::kubernetes::render;
use serde::Serialize;

use crate::cli::{ConfigFile, Format};
use crate::config_file;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;
use crate::pin::{self, Change, Which};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of what runs in a cluster: fleets of platform `kubernetes`, and `[kubernetes] image`. Registries are asked \
    with what `docker login` kept."
)]
pub struct Args {
    /// Also names that have a digest already: what does their tag stand for now?
    #[arg(long)]
    update: bool,

    /// Write nothing; exit status 1 if there is something to write
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Serialize)]
struct Shown {
    key: String,
    from: String,
    to: String,
}

pub async fn run(args: Args) -> Outcome {
    let file = args.config.file()?;
    let declared = render::read(&file.text, &file.name, &file.folder)
        .map_err(|errors| config_file::mistakes(&errors))?;
    let changes =
        pin::changes(&declared.settings, Which { fleets: &[], own: true, again: args.update }).await?;
    let text = pin::write(&file.text, &changes)?;
    if !args.check && !changes.is_empty() {
        replace(&file.path, &text)?;
    }
    show(&changes, args.format)?;
    Ok(if args.check && !changes.is_empty() { Exit::Error } else { Exit::Done })
}

fn show(changes: &[Change], format: Format) -> Outcome<()> {
    if format.json {
        let shown = changes.iter().map(|change| Shown {
            key: change.key.clone(),
            from: change.from.to_string(),
            to: change.to.to_string(),
        });
        return output::json(&shown.collect::<Vec<_>>());
    }
    if changes.is_empty() {
        return output::line("every image is named by its digest");
    }
    changes.iter().try_for_each(|change| output::line(&format!("{} = \"{}\"", change.key, change.to)))
}

/// All of it or nothing: a file that is cut off halfway would start no control plane.
fn replace(path: &Path, text: &str) -> Outcome<()> {
    let write = || {
        let real = fs::canonicalize(path)?;
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        let beside = real.with_file_name(format!(".{name}.{}", std::process::id()));
        let written = (|| {
            let mut new = fs::File::create(&beside)?;
            new.set_permissions(fs::metadata(&real)?.permissions())?;
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            fs::rename(&beside, &real)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    };
    write().map_err(|error: std::io::Error| {
        Fault::new(format!("could not write `{}`", path.display())).cause(&error)
    })
}
