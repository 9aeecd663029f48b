//! `longshore image`: builds agent images, checks them, makes longshore's own, names those of a file by digest.

mod build;
mod check;
mod docker;
mod own;
mod pin;
mod source;

use crate::error::Outcome;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Build an agent's image with tags and labels that trace it to a commit
    Build(build::Args),
    /// Say what an image holds that it should not, and prove the rest by running it
    Check(check::Args),
    /// Make the longshore image from this very binary, if it is a static one
    Own(own::Args),
    /// Write into longshore.toml which images its tags stand for, by digest
    Pin(pin::Args),
}

pub async fn run(args: Args) -> Outcome {
    match args.command {
        Command::Build(args) => build::run(&args),
        Command::Check(args) => check::run(args).await,
        Command::Own(args) => own::run(&args),
        Command::Pin(args) => pin::run(args).await,
    }
}
