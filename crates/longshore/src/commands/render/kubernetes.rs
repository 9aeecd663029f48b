//! `longshore render kubernetes`: reads the file and its overlays, and prints or writes YAML.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use longshore_core::container::Supervisor;
use longshore_core::fleet::Fleet;
use longshore_core::id::FleetName;
use longshore_core::settings::Settings;
use longshore_platform::kubernetes::render::{self, ChartFile, Declared, Problem, Rendered, Request};

use crate::cli::ConfigFile;
use crate::config_file::{self, File};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;
use crate::pin::{self, Which};

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

    /// Write a Helm chart into this folder, whose values have the keys of longshore.toml
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "fleets"])]
    helm: Option<PathBuf>,

    /// Also a DaemonSet for each fleet that keeps its image on every node
    #[arg(long)]
    prepull: bool,

    /// Name images by their digest: registries are asked what tags stand for, with what `docker login` kept
    #[arg(long)]
    pin: bool,

    #[command(flatten)]
    config: ConfigFile,
}

/// The first words of files that are ours to judge.
const MARK: &str = "# Rendered by longshore ";

pub async fn run(args: &Args) -> Outcome {
    let mut file = args.config.file()?;
    let mut declared = read(&file)?;
    if args.pin {
        let changes = pin::changes(&declared.settings, which(args, &declared.settings)).await?;
        file.text = pin::write(&file.text, &changes)?;
        declared = read(&file)?;
    }
    config_file::warn(&declared.warnings);
    let overlays = overlays(&declared.settings, &args.fleets)?;
    let request = Request {
        declared: &declared,
        config: &file.text,
        overlays: &overlays,
        version: env!("CARGO_PKG_VERSION"),
        only: &args.fleets,
        prepull: args.prepull,
    };
    let rendered = render::render(&request).map_err(|problems| in_the_way(&problems))?;
    config_file::warn(&rendered.warnings);
    tell_unpinned(&declared.settings, which(args, &declared.settings));
    match (&args.helm, &args.output) {
        (Some(dir), _) => {
            let chart = render::chart(&request).map_err(|problems| in_the_way(&problems))?;
            write(dir, &marked(chart))?;
            let templates = dir.join("templates");
            tell_left_over(&templates, &paths(&templates, &rendered));
        }
        (None, Some(dir)) => {
            let files = rendered.groups.iter();
            let files = files.map(|group| (format!("{}.yaml", group.name), render::print(&group.objects)));
            write(dir, &marked(files))?;
            if args.fleets.is_empty() {
                tell_left_over(dir, &paths(dir, &rendered));
            }
        }
        (None, None) => {
            let texts = rendered.groups.iter().map(|group| render::print(&group.objects));
            output::line(texts.collect::<Vec<_>>().join("---\n").trim_end())?;
        }
    }
    Ok(Exit::Done)
}

fn read(file: &File) -> Outcome<Declared> {
    let declared = render::read(&file.text, &file.name, &file.folder);
    declared.map_err(|errors| config_file::mistakes(&errors))
}

/// The images in what is rendered.
fn which<'a>(args: &'a Args, settings: &Settings) -> Which<'a> {
    let injects = |fleet: &&Fleet| {
        let container = fleet.container.as_ref();
        args.fleets.contains(&fleet.name) && container.is_some_and(|it| it.supervisor == Supervisor::Inject)
    };
    let own = args.fleets.is_empty() || args.prepull || settings.fleets.iter().any(|fleet| injects(&fleet));
    Which { fleets: &args.fleets, own, again: false }
}

/// What a tag stands for each node finds out for itself, and a tag may move.
fn tell_unpinned(settings: &Settings, which: Which<'_>) {
    let tags = pin::unpinned(settings, which);
    if !tags.is_empty() {
        output::note(&format!(
            "by tag, not by digest: {}; --pin names what they stand for now, `longshore image pin` writes it into the file",
            tags.join(", ")
        ));
    }
}

/// Their texts, by path: of what is rendered alone.
fn overlays(settings: &Settings, only: &[FleetName]) -> Outcome<BTreeMap<String, String>> {
    let wanted = settings.fleets.iter().filter(|fleet| only.is_empty() || only.contains(&fleet.name));
    let fleets = wanted.filter_map(|fleet| fleet.overlay.as_ref());
    let paths = settings.kubernetes.overlay.iter().filter(|_| only.is_empty()).chain(fleets);
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

/// Files that say themselves where they come from.
fn marked(files: impl IntoIterator<Item = ChartFile>) -> Vec<ChartFile> {
    let head = format!("{MARK}{}: change longshore.toml and render again.\n", env!("CARGO_PKG_VERSION"));
    // JSON has no comments.
    let head = |path: &str| if path.ends_with(".json") { "" } else { head.as_str() };
    files.into_iter().map(|(path, text)| (path.clone(), head(&path).to_owned() + &text)).collect()
}

fn paths(dir: &Path, rendered: &Rendered) -> Vec<PathBuf> {
    rendered.groups.iter().map(|group| dir.join(format!("{}.yaml", group.name))).collect()
}

fn write(dir: &Path, files: &[ChartFile]) -> Outcome<()> {
    for (name, text) in files {
        let path = dir.join(name);
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| Fault::new(format!("could not write `{}`", path.display())).cause(&error))?;
        output::line(&path.display().to_string())?;
    }
    Ok(())
}

fn tell_left_over(dir: &Path, written: &[PathBuf]) {
    for path in left_over(dir, written) {
        output::note(&format!(
            "`{}` is left of an earlier rendering: delete its objects, then the file",
            path.display()
        ));
    }
}

/// Files of an earlier rendering that this one has nothing for.
fn left_over(dir: &Path, written: &[PathBuf]) -> Vec<PathBuf> {
    let there = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let ours = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK));
    let mut left: Vec<PathBuf> = there.filter(|path| !written.contains(path) && ours(path)).collect();
    left.sort();
    left
}
