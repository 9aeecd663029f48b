//! `longshore image build`: `docker build` with tags and labels that trace the image to a commit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use longshore_image::dockerfile;
use serde::Serialize;

use super::source::{self, Commit};
use super::{docker, own};
use crate::cli::Format;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  longshore image build --repository registry.internal/research\n  \
    longshore image build --version 1.4.2 --build-arg RUNTIME_BASE=gcr.io/distroless/python3")]
pub struct Args {
    /// Folder that is built
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,

    /// Where the image belongs, without a tag [default: the folder's name]
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,

    /// Version [default: the commit's tag, else what pyproject.toml, package.json or Cargo.toml says, else 0.0.0]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,

    /// Dockerfile [default: the one in the folder]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Argument of the Dockerfile; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    build_arg: Vec<String>,

    /// Architecture, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Refuse to build a tree with changes that no commit has
    #[arg(long)]
    clean: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    format: Format,
}

/// What is built and how it is called.
#[derive(Debug, Serialize)]
struct Plan {
    tags: Vec<String>,
    labels: BTreeMap<String, String>,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    dirty: bool,
    /// Digest of the image's configuration, once it is built.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    command: Vec<String>,
}

pub fn run(args: &Args) -> Outcome {
    let file = args.file.clone().unwrap_or_else(|| args.dir.join("Dockerfile"));
    let text = fs::read_to_string(&file).map_err(|error| {
        Fault::new(format!("could not read `{}`", file.display()))
            .cause(&error)
            .hint("`longshore init python|node|rust|shell` writes one")
    })?;
    let commit = Commit::of(&args.dir);
    if args.clean && commit.as_ref().is_none_or(|commit| commit.dirty) {
        return Err(
            Fault::new("the tree has changes that no commit has").hint("commit them, or leave out --clean")
        );
    }
    let mut plan = plan(args, &file, &text, commit.as_ref(), &created())?;
    if plan.dirty {
        output::note("the tree has changes that no commit has: tags and labels say `dirty`");
    } else if commit.is_none() {
        output::note("this folder is in no Git repository: the image cannot be traced to a commit");
    }
    if !args.dry_run {
        own::provide(&text, &args.build_arg)?;
        docker::run(&plan.command)?;
        let first = plan.tags[0].clone();
        let seen = docker::ask(&["image", "inspect", "--format", "{{.Id}} {{.Size}}", &first])?;
        if let Some((id, bytes)) = seen.as_deref().and_then(|seen| seen.split_once(' ')) {
            (plan.id, plan.bytes) = (Some(id.to_owned()), bytes.parse().ok());
        }
    }
    report(args, &plan)?;
    Ok(Exit::Done)
}

fn plan(args: &Args, file: &Path, text: &str, commit: Option<&Commit>, created: &str) -> Outcome<Plan> {
    let repository = repository(args)?;
    let version = args.version.clone().or_else(|| commit.and_then(|commit| commit.tag.clone()));
    let version = version.or_else(|| source::declared(&args.dir)).unwrap_or_else(|| "0.0.0".to_owned());
    let mark = commit.map_or("", Commit::mark);
    let version_tag = source::tag(&version);
    if version_tag.is_empty() {
        return Err(Fault::usage(format!("`{version}` cannot be a tag")));
    }
    let mut tags = vec![format!("{repository}:{version_tag}{mark}")];
    if let Some(commit) = commit {
        tags.push(format!("{repository}:{version_tag}-g{}{mark}", &commit.id[..12.min(commit.id.len())]));
    }
    let mut values = vec![("version", version.clone()), ("created", created.to_owned())];
    values.extend(commit.map(|commit| ("revision", commit.revision())));
    values.extend(commit.and_then(|commit| commit.source.clone()).map(|source| ("source", source)));
    let mut labels: BTreeMap<String, String> = values
        .iter()
        .map(|(name, value)| (format!("org.opencontainers.image.{name}"), value.clone()))
        .collect();
    if !mark.is_empty() {
        labels.insert("longshore.dirty".to_owned(), "true".to_owned());
    }
    let mut command: Vec<String> = vec!["build".into(), "--file".into(), file.display().to_string()];
    let mut add = |flag: &str, value: String| command.extend([flag.to_owned(), value]);
    tags.iter().for_each(|tag| add("--tag", tag.clone()));
    labels.iter().for_each(|(name, value)| add("--label", format!("{name}={value}")));
    // Only what the file declares: Docker warns about others.
    let declared = arguments(text);
    for (name, value) in values {
        let name = name.to_ascii_uppercase();
        let given = args.build_arg.iter().any(|argument| argument.split('=').next() == Some(&name));
        if declared.contains(&name) && !given {
            add("--build-arg", format!("{name}={value}"));
        }
    }
    args.build_arg.iter().for_each(|argument| add("--build-arg", argument.clone()));
    args.platform.iter().for_each(|platform| add("--platform", platform.clone()));
    command.push(args.dir.display().to_string());
    let dirty = commit.is_some_and(|commit| commit.dirty);
    Ok(Plan {
        tags,
        labels,
        version,
        commit: commit.map(|c| c.id.clone()),
        dirty,
        id: None,
        bytes: None,
        command,
    })
}

/// The names that ARG instructions declare.
pub fn arguments(text: &str) -> Vec<String> {
    let instructions = dockerfile::parse(text).into_iter().filter(|instruction| instruction.keyword == "ARG");
    let words = instructions
        .flat_map(|argument| argument.text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    words.map(|word| word.split('=').next().unwrap_or_default().to_owned()).collect()
}

fn repository(args: &Args) -> Outcome<String> {
    if let Some(given) = &args.repository {
        let last = given.rsplit('/').next().unwrap_or(given);
        return match last.contains(':') || given.is_empty() {
            true => Err(Fault::usage(format!("`{given}` has a tag"))
                .hint("give the repository alone; tags are made from version and commit")),
            false => Ok(given.clone()),
        };
    }
    let folder =
        args.dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().to_lowercase()));
    let name = folder.map(|name| source::tag(&name).trim_end_matches(['.', '-', '_']).to_owned());
    name.filter(|name| !name.is_empty()).ok_or_else(|| {
        Fault::usage("the folder's name makes no name for an image").hint("give one by --repository")
    })
}

/// Now, or what the environment says for builds that are to come out the same.
fn created() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse::<i64>().ok());
    let at = given
        .and_then(|seconds| seconds.checked_mul(1000))
        .map_or_else(output::now, longshore_core::time::Timestamp);
    at.to_string()
}

fn report(args: &Args, plan: &Plan) -> Outcome<()> {
    if args.format.json {
        return output::json(plan);
    }
    if args.dry_run {
        return output::line(&format!("docker {}", plan.command.join(" ")));
    }
    for tag in &plan.tags {
        output::line(tag)?;
    }
    if let (Some(id), Some(bytes)) = (&plan.id, plan.bytes) {
        output::line(&format!("{id}  {}", output::size(bytes)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan_of(line: &[&str], text: &str, commit: Option<&Commit>) -> Outcome<Plan> {
        let line = Line::parse_from(["build"].iter().chain(line));
        plan(&line.args, Path::new("Dockerfile"), text, commit, "2026-11-24T10:00:00Z")
    }

    fn commit(dirty: bool) -> Commit {
        Commit {
            id: "4b825dc642cb6eb9a060e54bf8d69288fbee4904".into(),
            dirty,
            tag: Some("1.4.2".into()),
            source: Some("https://git.example/acme/agent.git".into()),
        }
    }

    #[test]
    fn a_clean_commit_is_in_tags_and_labels() {
        let plan = plan_of(&["--repository", "acme/agent"], "ARG VERSION\nFROM x", Some(&commit(false)))
            .expect("a plan");
        assert_eq!(plan.tags, ["acme/agent:1.4.2", "acme/agent:1.4.2-g4b825dc642cb"]);
        assert_eq!(
            plan.command.join(" "),
            "build --file Dockerfile --tag acme/agent:1.4.2 --tag acme/agent:1.4.2-g4b825dc642cb \
             --label org.opencontainers.image.created=2026-11-24T10:00:00Z \
             --label org.opencontainers.image.revision=4b825dc642cb6eb9a060e54bf8d69288fbee4904 \
             --label org.opencontainers.image.source=https://git.example/acme/agent.git \
             --label org.opencontainers.image.version=1.4.2 --build-arg VERSION=1.4.2 ."
        );
    }

    #[test]
    fn a_dirty_tree_never_takes_the_name_of_a_clean_one() {
        let plan = plan_of(&["--repository", "a"], "FROM x", Some(&commit(true))).expect("a plan");
        assert_eq!(plan.tags, ["a:1.4.2-dirty", "a:1.4.2-g4b825dc642cb-dirty"]);
        assert_eq!(plan.labels["longshore.dirty"], "true");
        assert!(plan.labels["org.opencontainers.image.revision"].ends_with("-dirty"));
    }

    #[test]
    fn without_a_repository_there_is_a_version_only() {
        let plan = plan_of(&["--repository", "a", "--version", "2.0+x"], "FROM x", None).expect("a plan");
        assert_eq!((plan.tags.join(" ").as_str(), plan.commit), ("a:2.0-x", None));
    }

    #[test]
    fn a_repository_has_no_tag() {
        assert!(plan_of(&["--repository", "a:1"], "FROM x", None).is_err());
        assert!(plan_of(&["--repository", "host:5000/a"], "FROM x", None).is_ok());
    }
}
