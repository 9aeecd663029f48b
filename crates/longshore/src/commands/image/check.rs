//! `longshore image check`: reads an image layer by layer, then proves by running it what reading cannot tell.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_core::errors::chain;
use longshore_core::fleet::Protocol;
use longshore_core::json::Json;
use longshore_image::allow::{self, Rule};
use longshore_image::engine::{Engine, EngineError};
use longshore_image::prove::{self, Left, Proof, ProveError, Trial};
use longshore_image::{Archive, ArchiveError, Asked, Code, Finding, Limits, Report, Severity, Where};

use super::docker;
use crate::cli::Format;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, Paint, now};
use crate::signals::Stop;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 without errors, 1 with errors (with --strict, warnings count).\n\n\
    Examples:\n  longshore image check registry.internal/research:1.4.2\n  \
    longshore image check --archive image.tar --no-run --json\n  \
    longshore image check research:dev --allow setuid_file --allow 'config_in_env:APP_*'")]
pub struct Args {
    /// Image, as the engine knows it
    #[arg(required_unless_present = "archive", conflicts_with = "archive")]
    image: Option<String>,

    /// Read an archive instead (`docker save`, or an OCI layout in a tar); `-` is standard input. It is not run
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,

    /// Its Dockerfile [default: ./Dockerfile if it is there]
    #[arg(long, value_name = "FILE")]
    dockerfile: Option<PathBuf>,

    /// Read only
    #[arg(long)]
    no_run: bool,

    /// Live with a finding: its code, or code:pattern for what it is about; may be given several times
    #[arg(long, value_name = "RULE")]
    allow: Vec<Rule>,

    /// File of such rules, one on a line [default: ./.longshore-allow if it is there]
    #[arg(long, value_name = "FILE")]
    allow_file: Option<PathBuf>,

    /// Bytes that the image may have, unpacked, such as 300Mi [default: by what it is written in]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    budget: Option<u64>,

    /// Warnings are errors
    #[arg(long)]
    strict: bool,

    /// How tasks reach the agent when it is run
    #[arg(long, value_enum, default_value = "exec")]
    protocol: HowAsked,

    /// Input of the trial task, JSON
    #[arg(long, value_name = "JSON", default_value = "\"a trial\"", value_parser = input)]
    input: Json,

    /// Variable for the run, as the fleet's `env` sets it; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Seconds until it has to be ready
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    start_within: u64,

    /// The agent's command, if the image's own CMD does not name it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,

    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum HowAsked {
    Exec,
    Http,
}

fn size(text: &str) -> Result<u64, String> {
    longshore_core::units::parse_size(text).map_err(|error| error.to_string())
}

fn input(text: &str) -> Result<Json, String> {
    Json::parse(text).map_err(|error| error.to_string())
}

pub async fn run(args: Args) -> Outcome {
    let asked = asked(&args)?;
    let (report, fault) = match &args.archive {
        Some(file) => (longshore_image::check(from_file(file)?, &asked), None),
        None => of_engine(&args, &asked).await?,
    };
    print(&args, &report)?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let warnings = if args.strict { report.count(Severity::Warning) } else { 0 };
    Ok(if report.count(Severity::Error) + warnings == 0 { Exit::Done } else { Exit::Error })
}

fn asked(args: &Args) -> Outcome<Asked> {
    let dockerfile = text(args.dockerfile.as_deref(), "Dockerfile")?;
    let mut allow = args.allow.clone();
    if let Some(rules) = text(args.allow_file.as_deref(), ".longshore-allow")? {
        allow.extend(allow::parse(&rules).map_err(|error| {
            Fault::usage("the file of allowed findings cannot be read")
                .cause(&error)
                .hint("docs/images.md lists the codes")
        })?);
    }
    let archive = || args.archive.as_ref().map(|file| file.display().to_string());
    let name = args.image.clone().or_else(archive).unwrap_or_default();
    Ok(Asked { name, dockerfile, allow, budget: args.budget })
}

/// What a file holds: the given one has to be there, the usual one need not.
fn text(given: Option<&Path>, usual: &str) -> Outcome<Option<String>> {
    let path = given.unwrap_or(Path::new(usual));
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if given.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::new(format!("could not read `{}`", path.display())).cause(&error)),
    }
}

fn from_file(file: &Path) -> Outcome<Archive> {
    let from: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        let opened = fs::File::open(file);
        Box::new(
            opened
                .map_err(|error| Fault::new(format!("could not read `{}`", file.display())).cause(&error))?,
        )
    };
    longshore_image::read(BufReader::with_capacity(1 << 20, from), &Limits::default()).map_err(unreadable)
}

fn unreadable(error: ArchiveError) -> Fault {
    Fault::of(&error).hint("an archive is what `docker save IMAGE` writes, or a tar of an OCI layout")
}

/// The report, and why it could not be proven, if it was to be.
async fn of_engine(args: &Args, asked: &Asked) -> Outcome<(Report, Option<Fault>)> {
    let engine = Engine::connect(&docker::address()).await.map_err(of_engine_error)?;
    let saved = engine.save(&asked.name).await.map_err(of_engine_error)?;
    let read = tokio::task::spawn_blocking(move || longshore_image::read(saved, &Limits::default())).await;
    let archive =
        read.map_err(|error| Fault::new("reading the image broke off").cause(&error))?.map_err(unreadable)?;
    let trial = trial(args, &archive);
    let mut report = longshore_image::check(archive, asked);
    if args.no_run {
        return Ok((report, None));
    }
    let platform = engine.platform().await.map_err(of_engine_error)?;
    if platform != report.platform {
        let what = format!("it is for {}, the engine is {platform}", report.platform);
        report.findings.push(Finding::new(Code::WrongArchitecture, Where::Config, what));
        report.settle(&asked.allow);
        return Ok((report, None));
    }
    // Whoever ends a job of a pipeline sends SIGTERM.
    let mut stop = Stop::listen()?;
    let proven = tokio::select! {
        proven = prove_alone(&engine, &trial) => Some(proven),
        () = stop.asked() => None,
    };
    prove::clear(&engine, &trial.name).await.iter().for_each(warn);
    match proven.ok_or_else(|| Fault::quiet(Exit::Interrupted))? {
        Ok((proof, findings)) => {
            report.prove(proof, findings, &asked.allow);
            Ok((report, None))
        }
        Err(error) => Ok((report, Some(unproven(error)))),
    }
}

/// After it removed what runs left that were killed.
async fn prove_alone(engine: &Engine, trial: &Trial) -> Result<(Proof, Vec<Finding>), ProveError> {
    match prove::sweep(engine, now()).await {
        Ok(left) => left.iter().for_each(warn),
        Err(error) => {
            output::note(&format!("warning: what earlier checks left is not seen: {}", chain(&error)))
        }
    }
    prove::prove(engine, trial).await
}

/// Of the engine's words, too.
fn warn(left: &Left) {
    output::note(&format!("warning: {}", output::clean(&left.to_string())));
}

fn trial(args: &Args, archive: &Archive) -> Trial {
    let runtime = archive.config.runtime();
    let test = runtime.healthcheck.as_ref().and_then(|check| check.test.clone());
    Trial {
        image: archive.id.clone(),
        name: prove::name(),
        worker: runtime.is_worker(),
        healthcheck: test.filter(|test| test.first().is_some_and(|first| first != "NONE")),
        protocol: match args.protocol {
            HowAsked::Exec => Protocol::Exec,
            HowAsked::Http => Protocol::Http,
        },
        command: args.command.clone(),
        input: args.input.clone(),
        env: args.env.clone(),
        start_within: Duration::from_secs(args.start_within),
    }
}

fn of_engine_error(error: EngineError) -> Fault {
    let fault = Fault::of(&error);
    match error {
        EngineError::NoImage(_) => {
            fault.hint("`docker image ls` lists what is there; `docker pull` fetches what is not")
        }
        EngineError::Unreachable { .. } => fault
            .exit(Exit::Unreachable)
            .hint("is Docker running, and may you use it? DOCKER_HOST names another engine"),
        EngineError::Address(_) => fault.hint("write DOCKER_HOST as unix:///path or tcp://HOST:PORT"),
        _ => fault,
    }
}

fn unproven(error: ProveError) -> Fault {
    match error {
        ProveError::Engine(error) => of_engine_error(error),
        error => Fault::of(&error).hint("run the check on the engine's own machine, or with --no-run"),
    }
}

fn print(args: &Args, report: &Report) -> Outcome<()> {
    if args.format.json {
        return output::json(report);
    }
    let painted = |severity: Severity, word: &str| {
        let paint = match severity {
            Severity::Error => Paint::Bad,
            Severity::Warning => Paint::Warn,
            Severity::Info => Paint::Faint,
        };
        output::paint(word, paint)
    };
    output::line(report.text(painted).trim_end())
}
