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
mod content;
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
use output::{Format, Output};

fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && asks_for_json(std::env::args_os()) => {
            return end(&Error::Usage(one_line(&error.to_string())), Format::Json);
        }
        // Help and versions too.
        Err(error) => error.exit(),
    };
    let format = cli.global.output;
    match run(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => end(&error, format),
    }
}

fn end(error: &Error, format: Format) -> std::process::ExitCode {
    eprintln!("{}", error.report(format));
    std::process::ExitCode::from(error.exit_code())
}

/// Whether a command line that could not be understood asks for JSON.
fn asks_for_json(words: impl Iterator<Item = std::ffi::OsString>) -> bool {
    let words: Vec<_> = words.collect();
    let pair = words.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    pair || words.iter().any(|word| word == "--output=json")
}

/// What clap says up to its usage lines, on one line.
fn one_line(text: &str) -> String {
    let text = text.split("\n\nUsage:").next().unwrap_or_default();
    let words: Vec<&str> = text.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
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
            // Into memory first: clap_complete panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cairnctl", &mut script);
            output::raw(&String::from_utf8_lossy(&script))
        }
    }
}
