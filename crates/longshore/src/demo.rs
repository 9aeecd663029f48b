//! `longshore demo`: a tour on this machine that shows what longshore promises, and checks that it held.
//!
//! Owns the order of things: set the stage, start a control plane, go through the tour, take everything down, judge.
//! Shares nothing with another installation: a folder of its own, free ports, no configuration file.

mod audit;
mod book;
mod chaos;
mod deploy;
mod leftovers;
mod provider;
mod screen;
mod spent;
mod stage;
mod submit;
mod summary;
mod tour;
mod trace;
mod twin;
mod view;

use std::time::Duration;

use longshore_api::client::Client;
use longshore_core::role::Roles;
use longshore_server::Server;
use longshore_simulate::Sim;
use tokio::time::{sleep, timeout};

use self::chaos::Chaos;
use self::deploy::Deploy;
use self::screen::Screen;
use self::stage::Stage;
use self::summary::{Facts, Summary};
use self::tour::Tour;
use self::twin::Twin;
use crate::commands::up;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::signals::Stop;
use crate::{logging, output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// End with one JSON object on standard output; progress goes to standard error
    #[arg(long)]
    json: bool,

    /// Keep the temporary folder with its configuration, store and logs
    #[arg(long)]
    keep: bool,

    /// How many tasks of the burst
    #[arg(long, hide = true, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(20..=200))]
    tasks: u16,

    /// Everything shorter
    #[arg(long, hide = true)]
    quick: bool,
}

/// What `--quick` divides times by.
const QUICK: u64 = 3;

impl Args {
    /// What divides every time of the tour.
    fn speed(&self) -> u64 {
        if self.quick { QUICK } else { 1 }
    }
}

pub async fn run(args: Args) -> Outcome {
    let mut stop = Stop::listen()?;
    let provider = provider::start(args.speed()).await?;
    let mut stage = Stage::set(&provider.openai_base_url(), args.quick, args.keep)?;
    logging::json_to_file(stage.open_log()?)?;
    let toured = tour(&args, &stage, &provider, &mut stop).await;
    let leftovers = leftovers::end(&stage.agent()).await;
    match toured {
        Ok(facts) => conclude(&args, &mut stage, Facts { leftovers, ..facts }),
        Err(fault) if fault.status() == Exit::Interrupted => Err(fault),
        Err(fault) => {
            stage.keep();
            Err(fault.hint(format!("the log is in {}", stage.log().display())))
        }
    }
}

/// Starts the control plane, goes through the tour, and stops it, however the tour ended.
async fn tour(args: &Args, stage: &Stage, provider: &Sim, stop: &mut Stop) -> Outcome<Facts> {
    let twin = Twin::start(stage.command()).await?;
    // It asks nobody for keys, whatever the environment says of other control planes.
    let mut server = up::start(stage.settings()?, Roles::ALL, None, false).await?;
    let tour = prepare(args, stage, provider, &server);
    let toured = tokio::select! {
        facts = async { tour?.run(&twin).await } => facts,
        part = server.failed() => Err(Fault::new(format!("the control plane lost a part: {part}"))),
        () = stop.asked() => {
            output::note("interrupted; stopping the workers");
            Err(Fault::quiet(Exit::Interrupted))
        }
    };
    take_down(&mut server, toured.is_err(), stop).await;
    toured
}

fn prepare<'a>(args: &Args, stage: &'a Stage, provider: &'a Sim, server: &Server) -> Outcome<Tour<'a>> {
    let speed = args.speed();
    let mut arrivals = trace::read(trace::BURST, speed).map_err(|error| Fault::of(&error))?;
    arrivals.truncate(usize::from(args.tasks));
    let api = server.addresses().api.expect("it has all roles");
    let base = format!("http://{api}");
    let client = Client::new(&base, None)
        .map_err(|error| Fault::new("could not make a client for the control plane").cause(&error))?;
    let total = arrivals.len() as u64;
    let events = (Chaos::new(stage.agent(), total, speed), Deploy::new(stage, total));
    Ok(Tour::new(provider, client, arrivals, events, Screen::open(args.json)))
}

/// Longer than a drain's time-out: who waits so long waits for nothing.
const LONGEST_STOP: Duration = Duration::from_secs(25);

/// Two signals that come at once may count as one.
const BETWEEN_SIGNALS: Duration = Duration::from_millis(300);

/// Stops the control plane and its workers; what stays is for [`leftovers`].
async fn take_down(server: &mut Server, hurry: bool, stop: &mut Stop) {
    if hurry {
        // The first signal makes a worker drain, and the one of `stop` makes it hand over at once.
        server.hurry();
        sleep(BETWEEN_SIGNALS).await;
    }
    tokio::select! {
        _ = timeout(LONGEST_STOP, server.stop()) => {}
        () = stop.asked() => {}
    }
}

fn conclude(args: &Args, stage: &mut Stage, facts: Facts) -> Outcome {
    let summary = summary::judge(&facts);
    let text = summary::text(&facts, &summary, &program_name());
    if !summary.broken.is_empty() {
        stage.keep();
    }
    if args.json {
        output::note(&text);
    } else {
        output::line(&format!("\n{text}"))?;
    }
    if stage.keeps() {
        output::note(&format!("\nkept: {} (the log is longshore.log)", stage.dir().display()));
    }
    if args.json {
        output::json_line(&summary)?;
    }
    Ok(verdict(&summary))
}

fn verdict(summary: &Summary) -> Exit {
    if summary.broken.is_empty() { Exit::Done } else { Exit::Error }
}

/// What the person at the terminal wrote to call us.
fn program_name() -> String {
    std::env::args().next().filter(|name| !name.is_empty()).unwrap_or_else(|| "longshore".into())
}
