//! The command line: what may be said, and what is shown as help. Does nothing.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use longshore_api::tls::{Trust, TrustError};

use crate::commands::{
    apply, batches, config, doctor, fleets, image, init, keys, llm_sim, migrate, pod, probe, render, rollout,
    scale, schedules, serve, submit, tasks, tenants, up, webhooks, worker, workers,
};

/// Run AI agents at scale without losing a task.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, arg_required_else_help = true, after_help = AFTER)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const AFTER: &str = "\
Environment: LONGSHORE_SERVER and LONGSHORE_TOKEN name the control plane, LONGSHORE_CONFIG the configuration file, \
LONGSHORE_LOG the log filter (such as `info` or `longshore_worker=debug`).

Exit status: 0 done, 1 error, 2 usage, 3 the task or rollout failed, 4 a wait timed out, 5 unreachable or not authorised, \
130 interrupted.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A one-minute tour on this machine: burst, scale-up, kill -9, drain, scale-down
    Demo(crate::demo::Args),
    /// Run everything in longshore.toml on this machine, until Ctrl-C
    Up(up::Args),
    /// Run the control plane; its workers outlive it
    Serve(serve::Args),
    /// Run one worker of a fleet
    Worker(worker::Args),
    /// Write a longshore.toml, a small agent and a Dockerfile
    Init(init::Args),
    /// Build, check and make images
    Image(image::Args),
    /// Write what runs control plane and fleets elsewhere: manifests for Kubernetes
    Render(render::Args),
    /// Hand the fleets of longshore.toml to a control plane
    Apply(apply::Args),
    /// Show the effective configuration, without secrets
    Config(config::Args),
    /// Bring the schema of the shared store to this version's, or print the statements
    Migrate(migrate::Args),
    /// Submit a task, or a file of tasks
    Submit(submit::Args),
    /// List, show, watch, cancel and retry tasks
    Tasks(tasks::Args),
    /// List, show, watch and cancel batches
    Batches(batches::Args),
    /// Erase what belongs to a tenant
    Tenants(tenants::Args),
    /// Show fleets and how they stand
    Fleets(fleets::Args),
    /// Show workers, or drain one
    Workers(workers::Args),
    /// Show or set how many workers a fleet has, and why
    Scale(scale::Args),
    /// Have a fleet run another image, and wait until it does
    Deploy(rollout::DeployArgs),
    /// Show, pause, resume and undo rollouts
    Rollout(rollout::Args),
    /// List, show, pause, resume and run schedules
    Schedules(schedules::Args),
    /// List webhooks and their messages, send again, try out
    Webhooks(webhooks::Args),
    /// Make, list and revoke API keys
    Keys(keys::Args),
    /// Say what is wrong with this installation and what to do
    Doctor(doctor::Args),
    /// Ask a worker whether it is alive or ready, for health checks
    Probe(probe::Args),
    /// A simulated LLM provider for tests and benchmarks; it keeps a bill
    LlmSim(llm_sim::Args),
    /// Copy this binary to a path, for containers whose image does not hold it
    #[command(hide = true)]
    Install(pod::InstallArgs),
    /// Do nothing until told to stop, so that a container of an image stays
    #[command(hide = true)]
    Pause,
}

/// Which control plane to talk to.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    /// Address of the control plane
    #[arg(
        long,
        value_name = "URL",
        env = "LONGSHORE_SERVER",
        default_value = crate::remote::DEFAULT_SERVER,
        hide_env_values = true
    )]
    pub server: String,

    /// Token for the control plane
    #[arg(long, value_name = "TOKEN", env = "LONGSHORE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// Authority of the control plane's certificate: a PEM file, or `sha256:` and its fingerprint
    #[arg(long, value_name = "CA", env = "LONGSHORE_CA", hide_env_values = true, value_parser = ca)]
    pub ca: Option<Ca>,
}

/// What a control plane's certificate is held against; a variable that is set to nothing is none.
#[derive(Clone, Debug, Default)]
pub struct Ca(pub Option<Trust>);

pub fn ca(text: &str) -> Result<Ca, TrustError> {
    match text.trim() {
        "" => Ok(Ca(None)),
        text => text.parse().map(|trust| Ca(Some(trust))),
    }
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct Format {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub struct ConfigFile {
    /// Configuration file; without it ./longshore.toml, else /etc/longshore/longshore.toml
    #[arg(long, value_name = "FILE", env = "LONGSHORE_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_put_together_without_conflicts() {
        super::Cli::command().debug_assert();
    }
}
