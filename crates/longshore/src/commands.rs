//! One module per command; here only which runtime each of them gets.

pub mod apply;
pub mod ask;
pub mod batches;
pub mod config;
pub mod doctor;
pub mod fleets;
pub mod image;
pub mod init;
pub mod keys;
pub mod llm_sim;
pub mod migrate;
pub mod pod;
pub mod probe;
pub mod render;
pub mod rollout;
pub mod scale;
pub mod schedules;
pub mod serve;
pub mod submit;
pub mod tasks;
pub mod tenants;
pub mod up;
pub mod wait;
pub mod webhooks;
pub mod worker;
pub mod workers;

use tokio::runtime::{Builder, Runtime};

use crate::cli::Command;
use crate::error::{Fault, Outcome};
use crate::logging;

pub fn run(command: Command) -> Outcome {
    match command {
        Command::Demo(args) => threads()?.block_on(crate::demo::run(args)),
        Command::Up(args) => threads()?.block_on(up::run(args)),
        Command::Serve(args) => threads()?.block_on(serve::run(args)),
        Command::Worker(args) => threads()?.block_on(worker::run(args)),
        Command::Init(args) => init::run(&args),
        Command::Image(args) => threads()?.block_on(image::run(args)),
        Command::Config(args) => config::run(&args),
        Command::Migrate(args) => client()?.block_on(migrate::run(args)),
        Command::Apply(args) => client()?.block_on(apply::run(args)),
        Command::Submit(args) => client()?.block_on(submit::run(args)),
        Command::Tasks(args) => client()?.block_on(tasks::run(args)),
        Command::Batches(args) => client()?.block_on(batches::run(args)),
        Command::Tenants(args) => client()?.block_on(tenants::run(args)),
        Command::Fleets(args) => client()?.block_on(fleets::run(args)),
        Command::Workers(args) => client()?.block_on(workers::run(args)),
        Command::Keys(args) => client()?.block_on(keys::run(args)),
        Command::Deploy(args) => client()?.block_on(rollout::deploy(args)),
        Command::Rollout(args) => client()?.block_on(rollout::run(args)),
        Command::Scale(args) => client()?.block_on(scale::run(args)),
        Command::Schedules(args) => client()?.block_on(schedules::run(args)),
        Command::Webhooks(args) => client()?.block_on(webhooks::run(args)),
        Command::Doctor(args) => client()?.block_on(doctor::run(args)),
        Command::Render(args) => client()?.block_on(render::run(args)),
        Command::Install(args) => pod::install(&args),
        Command::Pause => client()?.block_on(pod::pause()),
        Command::Probe(args) => client()?.block_on(probe::run(args)),
        // One thread, so that what is measured against it has the other cores.
        Command::LlmSim(args) => client()?.block_on(llm_sim::run(args)),
    }
}

/// For the parts that serve. Two threads: they wait for sockets and the disk, and memory is counted per worker.
fn threads() -> Outcome<Runtime> {
    built(Builder::new_multi_thread().worker_threads(2).enable_all().build())
}

/// For commands that ask a control plane and print.
fn client() -> Outcome<Runtime> {
    logging::if_wanted()?;
    built(Builder::new_current_thread().enable_all().build())
}

fn built(runtime: std::io::Result<Runtime>) -> Outcome<Runtime> {
    runtime.map_err(|error| Fault::new("could not start the runtime").cause(&error))
}
