//! Command line of `cairn-image`.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cairn_image::toolbox::Toolbox;
use clap::{Parser, Subcommand};

/// Builds Cairn's boot images and the toolbox they are built with.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The Debian root that holds QEMU, firmware and the other foreign tools.
    #[command(subcommand)]
    Toolbox(ToolboxVerb),
}

#[derive(Debug, Subcommand)]
enum ToolboxVerb {
    /// Builds it if it is not in the cache.
    Ensure,
    /// Prints the root's path, building it if needed.
    Path,
    /// Runs a program in it.
    Run {
        /// Host file or directory to show at its own path, writable (repeat).
        #[arg(long, value_name = "PATH")]
        bind: Vec<PathBuf>,
        /// The same, read-only.
        #[arg(long, value_name = "PATH")]
        bind_ro: Vec<PathBuf>,
        /// Working directory inside.
        #[arg(long, value_name = "DIR", default_value = "/")]
        cwd: PathBuf,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

/// Exit statuses: 0 done, 1 failed (one line says why), 2 wrong usage; `toolbox run` becomes the program.
pub(crate) fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("cairn-image: {error}");
            let mut cause = error.source();
            while let Some(next) = cause {
                text.push_str(&format!(": {next}"));
                cause = next.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let progress = progress();
    match arguments.verb {
        Verb::Toolbox(ToolboxVerb::Ensure) => {
            Toolbox::ensure(&progress)?;
        }
        Verb::Toolbox(ToolboxVerb::Path) => println!("{}", Toolbox::ensure(&progress)?.root().display()),
        Verb::Toolbox(ToolboxVerb::Run { bind, bind_ro, cwd, command }) => {
            let toolbox = Toolbox::ensure(&progress)?;
            let mut enter = toolbox.enter().cwd(cwd);
            for path in bind {
                enter = enter.bind(path);
            }
            for path in bind_ro {
                enter = enter.bind_ro(path);
            }
            return Err(enter.command(&command[0]).args(&command[1..]).exec().into());
        }
    }
    Ok(())
}

/// Progress lines on standard error, with the seconds since the start.
fn progress() -> impl Fn(&str) {
    let start = Instant::now();
    let (dim, plain) = if std::io::stderr().is_terminal() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    move |line| {
        // A closed standard error is no reason to stop building.
        let _ = writeln!(std::io::stderr(), "{dim}[{:6.1}s]{plain} {line}", start.elapsed().as_secs_f32());
    }
}
