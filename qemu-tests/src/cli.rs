//! The verbs.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cairn_image::toolbox::Toolbox;
use cairn_lab::central::Central;
use cairn_lab::prepare::{self, Prepared};
use cairn_lab::qemu::args::Accel;
use cairn_lab::rack::{Options, Rack};
use cairn_lab::report::Report;
use cairn_lab::signals::Asked;
use cairn_lab::{clean, namespace, spec, watch};
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
    /// The bundle recipe that is built and published.
    #[arg(long, default_value = "image/recipes/base.toml")]
    recipe: PathBuf,
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

pub(crate) fn clean(out: &Path) -> ExitCode {
    match clean::clean(out, &|line| println!("{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}

/// Told to the inner program: how long the outer one prepared, in milliseconds.
const PREPARE_MILLIS: &str = "CAIRN_LAB_PREPARE_MILLIS";

pub(crate) fn run(arguments: &Run) -> ExitCode {
    let spec = match spec::load(&arguments.rack) {
        Ok(spec) => spec,
        Err(error) => return failed(&error, USAGE),
    };
    let done = if namespace::inside() { stand(arguments, spec) } else { outside(arguments, &spec) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&*error, 1),
    }
}

/// Prepares with the host's network, then becomes the parent of the lab.
fn outside(arguments: &Run, spec: &spec::RackSpec) -> Result<bool, Box<dyn Error>> {
    let report = Report::default();
    Toolbox::ensure(&|line| report.line(line))?;
    if spec.site.controller {
        prepare::prepare(spec.site.subnet.host(1), &arguments.recipe, &|line| report.line(line))?;
    }
    let millis = report.elapsed().as_millis().to_string();
    if let Some(proof) = clean::running(&arguments.out, &spec.name).first() {
        return Err(format!(
            "rack {} is up already (process {}); stop it, or `cairn-lab clean`",
            spec.name, proof.pid
        )
        .into());
    }
    let record = |child| clean::record(&arguments.out, &spec.name, &[std::process::id(), child]);
    let mut recorded = Ok(());
    let status = namespace::reenter(&[(PREPARE_MILLIS, &millis)], |child| recorded = record(child))?;
    recorded?;
    Ok(status.success())
}

fn stand(arguments: &Run, spec: spec::RackSpec) -> Result<bool, Box<dyn Error>> {
    let asked = Asked::listen();
    let millis = std::env::var(PREPARE_MILLIS).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    let prepare_time = Duration::from_millis(millis);
    let report = Report::since(prepare_time);
    namespace::prepare()?;
    let prepared = spec.site.controller.then(|| Prepared::locate(spec.site.subnet.host(1))).transpose()?;
    let own = arguments.image.clone().or(spec.image.dir.clone());
    let image =
        own.or(prepared.as_ref().map(Prepared::image)).unwrap_or_else(|| PathBuf::from("target/image"));
    let accel = arguments.tcg.then_some(Accel::Tcg);
    let mut rack = Rack::start(spec, &Options { out: arguments.out.clone(), image, prepared, accel })?;
    report.line(&format!("rack {} stands, accelerated by {}", rack.spec().name, rack.accel()));
    if rack.spec().site.controller {
        rack.publish()?;
        report.line("the release is published, the plan applied");
    }
    rack.power_on()?;
    report.line("power is on");
    let watch = rack.central().map(Central::watch);
    let outcome = watch::watch(&mut rack, watch.as_ref(), &report, &asked);
    let summary = outcome.summary(&mut rack, prepare_time, watch.is_some());
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
