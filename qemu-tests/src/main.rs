//! `cairn-lab`: racks in QEMU.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

/// Racks of nodes in QEMU: switch, power, faults, assertions.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Puts up a rack, powers it on and waits until what its file expects is true.
    Run(cli::Run),
    /// Compares the agent's boot with that of an init that only prints.
    Bench(cli::Bench),
    /// Removes what killed runs left: recorded processes that still run, disks, controller data.
    Clean {
        /// Where results are.
        #[arg(long, default_value = "target/lab")]
        out: PathBuf,
    },
    /// Reads a rack file and says what is wrong with it.
    Check {
        /// The rack file.
        rack: PathBuf,
    },
}

/// Exit statuses: 0 every expectation holds, 1 one does not or something failed, 2 wrong usage or rack file.
fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Run(run) => cli::run(&run),
        Verb::Bench(bench) => cli::bench(&bench),
        Verb::Clean { out } => cli::clean(&out),
        Verb::Check { rack } => cli::check(&rack),
    }
}
