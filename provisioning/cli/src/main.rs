//! `cairnctl`: the operator's and release engineer's command.
//!
//! - What asks the controller is in [`site`], [`node`], [`plan`], [`watch`] and [`publish`]; what works with keys and
//!   files alone is in [`keys`], [`repo`], [`bundle`] and [`trust`]. Release keys never leave the machine they lie on.
//! - Data goes to standard output, as tables or JSON ([`output`]); progress and errors go to standard error.
//! - Exit codes are a contract: see [`error`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod bundle;
mod client;
mod error;
mod keys;
mod node;
mod output;
mod plan;
mod preview;
mod progress;
mod publish;
mod repo;
mod site;
mod trust;
mod watch;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command};
use error::Error;
use output::Output;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let format = cli.global.output;
    match run(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.report(format));
            std::process::ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    let global = &cli.global;
    let out = Output::new(global.output);
    match cli.command {
        Command::Keys(command) => keys::run(command, &out),
        Command::Repo(command) => repo::run(command, global, &out),
        Command::Bundle(command) => bundle::run(command, global, &out),
        Command::Publish(command) => publish::run(&command, global, &out),
        Command::Trust(command) => trust::run(command, global, &out),
        Command::Site(command) => site::run(command, global, &out),
        Command::Node(command) => node::run(command, global, &out),
        Command::Plan(command) => plan::run(command, global, &out),
        Command::Watch { once } => watch::run(once, global, &out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "cairnctl", &mut std::io::stdout());
            Ok(())
        }
    }
}
