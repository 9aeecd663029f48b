//! `longshore render`: writes what others start. Changes nothing that runs.

mod kubernetes;

use crate::error::Outcome;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Manifests of the control plane and of the fleets of platform `kubernetes`
    Kubernetes(kubernetes::Args),
}

pub async fn run(args: Args) -> Outcome {
    match args.command {
        Command::Kubernetes(args) => kubernetes::run(&args).await,
    }
}
