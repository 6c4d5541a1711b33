//! The verbs.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cairn_lab::qemu::args::Accel;
use cairn_lab::rack::{Options, Rack};
use cairn_lab::report::Report;
use cairn_lab::signals::Asked;
use cairn_lab::{namespace, spec, watch};
use clap::Args;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The rack file.
    #[arg(default_value = "qemu-tests/racks/first-light.toml")]
    rack: PathBuf,
    /// Where results go.
    #[arg(long, default_value = "target/lab")]
    out: PathBuf,
    /// Folder with boot files, in place of the rack file's or the prepared one.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Translate even where KVM works.
    #[arg(long)]
    tcg: bool,
    /// Keep disks and the controller's data of a run that succeeded, too.
    #[arg(long)]
    keep: bool,
}

/// Wrong usage.
const USAGE: u8 = 2;

/// An error with its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

fn failed(error: &dyn Error, status: u8) -> ExitCode {
    eprintln!("cairn-lab: {}", chain(error));
    ExitCode::from(status)
}

pub(crate) fn check(path: &Path) -> ExitCode {
    match spec::load(path) {
        Ok(rack) => {
            println!("{}: {} nodes", rack.name, rack.nodes.len());
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error, USAGE),
    }
}

pub(crate) fn run(arguments: &Run) -> ExitCode {
    let spec = match spec::load(&arguments.rack) {
        Ok(spec) => spec,
        Err(error) => return failed(&error, USAGE),
    };
    if !namespace::inside() {
        return match namespace::reenter(|_| {}) {
            Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
            Err(error) => failed(&error, 1),
        };
    }
    match stand(arguments, spec) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&*error, 1),
    }
}

fn stand(arguments: &Run, spec: spec::RackSpec) -> Result<bool, Box<dyn Error>> {
    let asked = Asked::listen();
    let report = Report::default();
    namespace::prepare()?;
    let image =
        arguments.image.clone().or(spec.image.dir.clone()).unwrap_or_else(|| PathBuf::from("target/image"));
    let options = Options {
        out: arguments.out.clone(),
        image,
        controller: None,
        accel: arguments.tcg.then_some(Accel::Tcg),
    };
    let mut rack = Rack::start(spec, &options)?;
    report.line(&format!("rack {} stands, accelerated by {}", rack.spec().name, rack.accel()));
    rack.power_on()?;
    report.line("power is on");
    let outcome = watch::watch(&mut rack, None, &report, &asked);
    let summary = outcome.summary(&mut rack, Duration::ZERO, false);
    println!("{}", outcome.table(&mut rack));
    rack.stop();
    summary.write(&rack.dirs().summary())?;
    if let Some(failure) = &summary.failure {
        println!("FAILED: {failure}");
        for node in &summary.nodes {
            if let Some(missing) = &node.missing {
                let console = rack.dirs().console(&node.name);
                println!("  {}: missing {missing}; console: {}", node.name, console.display());
            }
        }
        for path in &summary.evidence {
            println!("  evidence: {}", path.display());
        }
    } else if !arguments.keep {
        std::fs::remove_dir_all(rack.dirs().work())?;
    }
    report.line(&format!("summary: {}", rack.dirs().summary().display()));
    Ok(summary.ok)
}
