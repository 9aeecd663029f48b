//! `longshore init`: a longshore.toml, a small agent, a Dockerfile. Never overwrites without --force.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::Format;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language of the agent
    #[arg(value_enum, default_value = "python")]
    language: Language,

    /// Folder to write to; made if it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// Overwrite files that are there
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    Python,
    Node,
    Rust,
    Shell,
}

struct Template {
    path: &'static str,
    text: &'static str,
    executable: bool,
}

const fn file(path: &'static str, text: &'static str) -> Template {
    Template { path, text, executable: false }
}

const PYTHON: &[Template] = &[
    file("longshore.toml", include_str!("../templates/python/longshore.toml")),
    file("agent.py", include_str!("../templates/python/agent.py")),
    file("requirements.txt", include_str!("../templates/python/requirements.txt")),
    file("Dockerfile", include_str!("../templates/python/Dockerfile")),
    file(".dockerignore", include_str!("../templates/dockerignore")),
];

const NODE: &[Template] = &[
    file("longshore.toml", include_str!("../templates/node/longshore.toml")),
    file("agent.mjs", include_str!("../templates/node/agent.mjs")),
    file("package.json", include_str!("../templates/node/package.json")),
    file("Dockerfile", include_str!("../templates/node/Dockerfile")),
    file(".dockerignore", include_str!("../templates/dockerignore")),
];

const RUST: &[Template] = &[
    file("longshore.toml", include_str!("../templates/rust/longshore.toml")),
    file("Cargo.toml", include_str!("../templates/rust/Cargo.toml.template")),
    file("src/main.rs", include_str!("../templates/rust/main.rs.template")),
    file("Dockerfile", include_str!("../templates/rust/Dockerfile")),
    file(".dockerignore", include_str!("../templates/dockerignore")),
];

const SHELL: &[Template] = &[
    file("longshore.toml", include_str!("../templates/shell/longshore.toml")),
    Template { path: "agent.sh", text: include_str!("../templates/shell/agent.sh"), executable: true },
    file("Dockerfile", include_str!("../templates/shell/Dockerfile")),
    file(".dockerignore", include_str!("../templates/dockerignore")),
];

impl Language {
    fn templates(self) -> &'static [Template] {
        match self {
            Language::Python => PYTHON,
            Language::Node => NODE,
            Language::Rust => RUST,
            Language::Shell => SHELL,
        }
    }
}

#[derive(Serialize)]
struct Written {
    files: Vec<String>,
    next: Vec<String>,
}

pub fn run(args: &Args) -> Outcome {
    let templates = args.language.templates();
    if !args.force {
        refuse_overwriting(&args.dir, templates)?;
    }
    for template in templates {
        let path = args.dir.join(template.path);
        write(&path, template, args.force)
            .map_err(|error| Fault::new(format!("could not write `{}`", path.display())).cause(&error))?;
    }
    report(args, templates)?;
    Ok(Exit::Done)
}

/// All at once and before anything is written, so that a refusal leaves the folder as it was.
fn refuse_overwriting(dir: &Path, templates: &[Template]) -> Outcome<()> {
    let there: Vec<_> =
        templates.iter().filter(|template| dir.join(template.path).symlink_metadata().is_ok()).collect();
    if there.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = there.iter().map(|template| format!("`{}`", template.path)).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    Err(Fault::new(format!("{} {verb} already in {}; nothing was written", names.join(", "), dir.display()))
        .hint("choose another folder with --dir, or overwrite with --force"))
}

fn write(path: &Path, template: &Template, force: bool) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).mode(if template.executable { 0o755 } else { 0o644 });
    // Somebody else may have made it since it was looked for.
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(path)?.write_all(template.text.as_bytes())
}

fn report(args: &Args, templates: &[Template]) -> Outcome<()> {
    let files: Vec<_> =
        templates.iter().map(|template| args.dir.join(template.path).display().to_string()).collect();
    let next = next(args);
    if args.format.json {
        return output::json(&Written { files, next });
    }
    for file in &files {
        output::line(&format!("wrote {file}"))?;
    }
    output::line("\nnext, the second one in another terminal:")?;
    for command in next {
        output::line(&format!("  {command}"))?;
    }
    Ok(())
}

fn next(args: &Args) -> Vec<String> {
    let enter = match args.dir.as_os_str() == "." {
        true => String::new(),
        false => format!("cd {} && ", quoted(&args.dir.display().to_string())),
    };
    let build = match args.language {
        Language::Rust => "cargo build --release && ",
        _ => "",
    };
    vec![
        format!("{enter}{build}longshore up"),
        "longshore submit hello --input '\"world\"' --wait".to_owned(),
    ]
}

fn quoted(path: &str) -> String {
    let plain = path.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    if plain { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
