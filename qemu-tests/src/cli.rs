//! The verbs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cairn_lab::qemu::args::Accel;
use cairn_lab::rack::{Options, Rack};
use cairn_lab::report::Report;
use cairn_lab::{namespace, spec};
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
}

/// Wrong usage.
const USAGE: u8 = 2;

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        // A transparent wrapper repeats its cause.
        if !text.ends_with(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}

pub(crate) fn check(path: &Path) -> ExitCode {
    match spec::load(path) {
        Ok(rack) => {
            println!("{}: {} nodes", rack.name, rack.nodes.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cairn-lab: {}", chain(&error));
            ExitCode::from(USAGE)
        }
    }
}

pub(crate) fn run(arguments: &Run) -> ExitCode {
    let spec = match spec::load(&arguments.rack) {
        Ok(spec) => spec,
        Err(error) => {
            eprintln!("cairn-lab: {}", chain(&error));
            return ExitCode::from(USAGE);
        }
    };
    if !namespace::inside() {
        return match namespace::reenter(|_| {}) {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
            Err(error) => {
                eprintln!("cairn-lab: {}", chain(&error));
                ExitCode::FAILURE
            }
        };
    }
    match stand(arguments, spec) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-lab: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn stand(arguments: &Run, spec: spec::RackSpec) -> Result<(), Box<dyn std::error::Error>> {
    let report = Report::default();
    namespace::prepare()?;
    let image = arguments.image.clone().or(spec.image.dir.clone()).unwrap_or_else(|| PathBuf::from("target/image"));
    let options =
        Options { out: arguments.out.clone(), image, controller: None, accel: arguments.tcg.then_some(Accel::Tcg) };
    let mut rack = Rack::start(spec, &options)?;
    report.line(&format!("rack {} stands, {}", rack.spec().name, rack.accel()));
    rack.power_on()?;
    report.line("power on");
    let deadline = rack.spec().expect.deadline.0;
    if let Some(text) = rack.spec().expect.console.clone() {
        for node in rack.nodes() {
            let left = deadline.saturating_sub(report.elapsed());
            let line = node.wait_text(0, left, &text)?;
            report.line(&format!("{}: {line} ({:.1} CPU-s)", node.spec().name, node.cpu_seconds()));
        }
    }
    rack.stop();
    Ok(())
}
