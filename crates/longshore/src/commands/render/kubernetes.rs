//! `longshore render kubernetes`: reads the file and its overlays, and prints or writes YAML.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use longshore_core::id::FleetName;
use longshore_core::settings::Settings;
use longshore_platform::kubernetes::render::{self, Declared, Problem, Rendered, Request};

use crate::cli::ConfigFile;
use crate::config_file::{self, File};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longshore render kubernetes | kubectl apply --server-side -f -\n\n\
    Reads longshore.toml as it stands: LONGSHORE__… variables of this machine change nothing.")]
pub struct Args {
    /// Only what belongs to these fleets; without any: all of them, and the control plane
    #[arg(value_name = "FLEET")]
    fleets: Vec<FleetName>,

    /// Write files into this folder instead of printing, one for each fleet and three for the control plane
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Also a DaemonSet for each fleet that keeps its image on every node
    #[arg(long)]
    prepull: bool,

    #[command(flatten)]
    config: ConfigFile,
}

/// The first words of files that are ours to judge.
const MARK: &str = "# Rendered by longshore ";

pub fn run(args: &Args) -> Outcome {
    let file = args.config.file()?;
    let declared = render::read(&file.text, &file.name, &file.folder)
        .map_err(|errors| config_file::mistakes(&errors))?;
    config_file::warn(&declared.warnings);
    let rendered = rendered(args, &file, &declared)?;
    config_file::warn(&rendered.warnings);
    match &args.output {
        Some(dir) => write(dir, &rendered, args.fleets.is_empty())?,
        None => {
            let texts = rendered.groups.iter().map(|group| render::print(&group.objects));
            output::line(texts.collect::<Vec<_>>().join("---\n").trim_end())?;
        }
    }
    Ok(Exit::Done)
}

fn rendered(args: &Args, file: &File, declared: &Declared) -> Outcome<Rendered> {
    let overlays = overlays(&declared.settings)?;
    let request = Request {
        declared,
        config: &file.text,
        overlays: &overlays,
        version: env!("CARGO_PKG_VERSION"),
        only: &args.fleets,
        prepull: args.prepull,
    };
    render::render(&request).map_err(|problems| in_the_way(&problems))
}

/// Their texts, by path.
fn overlays(settings: &Settings) -> Outcome<BTreeMap<String, String>> {
    let fleets = settings.fleets.iter().filter_map(|fleet| fleet.overlay.as_ref());
    let paths = settings.kubernetes.overlay.iter().chain(fleets);
    let read = |path: &String| match fs::read_to_string(path) {
        Ok(text) => Ok((path.clone(), text)),
        Err(error) => Err(Fault::new(format!("could not read the overlay `{path}`"))
            .cause(&error)
            .hint("`overlay` in longshore.toml names it, relative to that file's folder")),
    };
    paths.map(read).collect()
}

fn in_the_way(problems: &[Problem]) -> Fault {
    Fault::new("this cannot be rendered for Kubernetes").details(problems.iter().map(ToString::to_string))
}

fn write(dir: &Path, rendered: &Rendered, all: bool) -> Outcome<()> {
    let failed = |path: &Path, error: &std::io::Error| {
        Fault::new(format!("could not write `{}`", path.display())).cause(error)
    };
    fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    let mut written = Vec::new();
    for group in &rendered.groups {
        let path = dir.join(format!("{}.yaml", group.name));
        let head = format!("{MARK}{}: change longshore.toml and render again.\n", env!("CARGO_PKG_VERSION"));
        fs::write(&path, head + &render::print(&group.objects)).map_err(|error| failed(&path, &error))?;
        output::line(&path.display().to_string())?;
        written.push(path);
    }
    if all {
        for path in left_over(dir, &written) {
            let name = path.display();
            output::note(&format!(
                "`{name}` is of a fleet that is declared no more: delete its objects, then the file"
            ));
        }
    }
    Ok(())
}

/// Files of an earlier rendering that this one has nothing for.
fn left_over(dir: &Path, written: &[PathBuf]) -> Vec<PathBuf> {
    let there = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let ours = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK));
    let mut left: Vec<PathBuf> = there.filter(|path| !written.contains(path) && ours(path)).collect();
    left.sort();
    left
}
