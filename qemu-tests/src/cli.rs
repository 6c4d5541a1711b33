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
use cairn_lab::{bench, clean, namespace, spec, summary, watch};
use clap::Args;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The rack file.
    #[arg(default_value = "qemu-tests/racks/first-light.toml")]
    rack: PathBuf,
    /// Keep disks and the controller's data of a run that succeeded, too.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The rack file, with nodes `agent` and `print`.
    #[arg(default_value = "qemu-tests/racks/bench.toml")]
    rack: PathBuf,
    /// How often each is booted.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    #[command(flatten)]
    common: Common,
}

/// Arguments of both.
#[derive(Debug, Args)]
struct Common {
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
    verb(&arguments.rack, &arguments.common, |_| Ok(()), |spec| stand(arguments, spec))
}

pub(crate) fn bench(arguments: &Bench) -> ExitCode {
    let say = |line: &str| println!("{line}");
    let more = |prepared: &Prepared| Ok(prepare::prepare_print_image(prepared, &say)?);
    verb(&arguments.rack, &arguments.common, more, |spec| measure(arguments, spec))
}

type Outcome = Result<bool, Box<dyn Error>>;

/// Prepares outside, then does `inside` in the lab's namespaces.
fn verb(
    rack: &Path,
    common: &Common,
    more: impl Fn(&Prepared) -> Result<(), Box<dyn Error>>,
    inside: impl FnOnce(spec::RackSpec) -> Outcome,
) -> ExitCode {
    let spec = match spec::load(rack) {
        Ok(spec) => spec,
        Err(error) => return failed(&error, USAGE),
    };
    let done = if namespace::inside() { inside(spec) } else { outside(common, &spec, more) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&*error, 1),
    }
}

/// Prepares with the host's network, then becomes the parent of the lab.
fn outside(
    arguments: &Common,
    spec: &spec::RackSpec,
    more: impl Fn(&Prepared) -> Result<(), Box<dyn Error>>,
) -> Outcome {
    let report = Report::default();
    Toolbox::ensure(&|line| report.line(line))?;
    if spec.site.controller {
        let recipe = spec.site.release.then_some(&*arguments.recipe);
        let prepared = prepare::prepare(spec.site.subnet.host(1), recipe, &spec.site.bundles, &|line| {
            report.line(line)
        })?;
        more(&prepared)?;
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

/// Puts the rack up, published where it has a controller, all power off.
fn put_up(arguments: &Common, spec: spec::RackSpec) -> Result<(Rack, Report, Duration), Box<dyn Error>> {
    let millis = std::env::var(PREPARE_MILLIS).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    let prepare_time = Duration::from_millis(millis);
    let report = Report::since(prepare_time);
    namespace::prepare()?;
    let prepared = spec.site.controller.then(|| Prepared::locate(spec.site.subnet.host(1))).transpose()?;
    let prepared = prepared.map(|prepared| prepared.with_bundles(&spec.site.bundles));
    let own = arguments.image.clone().or(spec.image.dir.clone());
    let image =
        own.or(prepared.as_ref().map(Prepared::image)).unwrap_or_else(|| PathBuf::from("target/image"));
    let accel = arguments.tcg.then_some(Accel::Tcg);
    let mut rack = Rack::start(spec, &Options { out: arguments.out.clone(), image, prepared, accel })?;
    let by =
        if rack.spec().has_machines() { format!(", accelerated by {}", rack.accel()) } else { String::new() };
    report.line(&format!("rack {} stands{by}", rack.spec().name));
    if rack.spec().site.controller {
        rack.publish()?;
        report.line("release and plan are with the controller");
    }
    Ok((rack, report, prepare_time))
}

fn measure(arguments: &Bench, spec: spec::RackSpec) -> Outcome {
    let initrd = Prepared::locate(spec.site.subnet.host(1))?.print_image();
    let (mut rack, report, _) = put_up(&arguments.common, spec)?;
    rack.share(&initrd);
    let rounds = usize::from(arguments.rounds);
    let bench = bench::boots(&mut rack, &initrd.join("initramfs.img"), rounds, &|line| report.line(line))?;
    rack.stop();
    let path = arguments.common.out.join("bench.json");
    summary::write_json(&path, &bench)?;
    println!(
        "power-on to enrolled: {:.2} times the CPU time of an init that only prints (at most {}), {}; {}",
        bench.ratio,
        bench.limit,
        bench.accel,
        path.display()
    );
    Ok(bench.ok)
}

fn stand(arguments: &Run, spec: spec::RackSpec) -> Outcome {
    let asked = Asked::listen();
    let (mut rack, report, prepare_time) = put_up(&arguments.common, spec)?;
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
