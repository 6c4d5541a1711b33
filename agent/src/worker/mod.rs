//! The worker: walks the stages. PID 1 starts it and starts it again; each stage finds what an earlier one left.

pub mod context;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_protocol::heartbeat::{Severity, Waiting};
use cairn_protocol::limits::clean_text;
use cairn_protocol::plan::Timeouts;
use cairn_protocol::stage::Stage;
use sha2::{Digest as _, Sha256};

use crate::cli::WorkerOptions;
use crate::clock;
use crate::control::{Control, Message};
use crate::engine::{Engine, Next, Outcome, Step, Trouble, time_limit};
use crate::stages;
use context::Context;

/// How often the worker tells PID 1 that it goes on.
const TICK: Duration = Duration::from_secs(5);
/// How much longer than a stage's limit the walk may go without a step before the ticks stop.
const SLACK: Duration = Duration::from_secs(120);
/// Below this many MiB of SHA-256 per second a machine is taken for emulated. Hardware without SHA instructions does
/// 150 and more, software emulation 5 to 30.
const SLOW_BELOW: f64 = 50.0;

/// Runs the worker to its end.
pub fn main(options: WorkerOptions) -> ExitCode {
    let paths = crate::paths::Paths::new(&options.root);
    if let Err(error) = std::fs::create_dir_all(paths.run()) {
        eprintln!("cairn-agent: {} cannot be made: {error}", paths.run().display());
        return ExitCode::FAILURE;
    }
    crate::pid1::crash::hook_panics(paths.panic());
    // PID 1 takes its signals through a descriptor and has them blocked; a child inherits that.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    let runtime =
        match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("cairn-agent: the runtime cannot be built: {error}");
                return ExitCode::FAILURE;
            }
        };
    runtime.block_on(walk(options));
    // Blocking work that is left over (a name look-up) must not hold the end up.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

/// Measures the machine: 64 KiB of SHA-256, 1.3 ms at the limit and some milliseconds under emulation.
pub fn measure_speed() -> Timeouts {
    let block = [0x5a_u8; 64 << 10];
    let before = clock::own_cpu();
    let mut hasher = Sha256::new();
    hasher.update(block);
    std::hint::black_box(hasher.finalize());
    let seconds = clock::own_cpu().saturating_sub(before).as_secs_f64();
    if 0.0625 / seconds.max(1e-9) < SLOW_BELOW { Timeouts::Slow } else { Timeouts::Fast }
}

async fn walk(options: WorkerOptions) {
    let until = options.until;
    let control = Arc::new(Control::of_process());
    let mut context = Context::new(options, Arc::clone(&control));
    context.take_over_crashes();
    // Ticks go on while the walk is within its limits; a walk that hangs lets them stop.
    let deadline = Arc::new(AtomicU64::new(u64::MAX));
    tokio::spawn(tick(Arc::clone(&control), Arc::clone(&deadline)));

    let mut engine = Engine::new(until);
    let mut step = engine.start(clock::since_boot());
    loop {
        apply(&context, engine.stage(), &control, &step);
        let stage = match step.next {
            Next::End => break,
            Next::Run(stage) => stage,
            Next::Pause(stage, pause) => {
                deadline.store((clock::since_boot() + pause + SLACK).as_secs(), Ordering::Relaxed);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = context.report.wake.notified() => {}
                }
                stage
            }
        };
        // Drivers that could wait: once the node is a member, or has time.
        if stage > Stage::Enrol {
            stages::load_the_rest(&mut context);
        }
        let limit = time_limit(stage, context.speed());
        deadline.store((clock::since_boot() + limit + SLACK).as_secs(), Ordering::Relaxed);
        let mut outcome = match tokio::time::timeout(limit, stages::run(stage, &mut context)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Wait(Trouble::waiting(
                format!("{stage} took longer than {} s and was broken off", limit.as_secs()),
                "see the lines above; it is tried again",
            )),
        };
        if let Outcome::Wait(trouble) = outcome {
            stages::load_the_rest(&mut context);
            let late = stages::disks_came_late(&context);
            outcome = Outcome::Wait(if late { trouble.from(Stage::Devices) } else { trouble });
        }
        step = engine.outcome(outcome, clock::since_boot(), random());
    }
    context.finish().await;
}

/// Says and publishes a step.
fn apply(context: &Context, stage: Stage, control: &Control, step: &Step) {
    for (at, said) in &step.say {
        context.console.say(*at, said.clone());
    }
    if let Some((stage, took)) = step.finished {
        context.report.finished(stage, took);
    }
    if let Some((at, event)) = &step.event {
        let code = event.code.unwrap_or("refused");
        context.spool.event(&context.clock, *at, Severity::Error, code, &event.reason);
    }
    let waiting = step
        .waiting
        .as_ref()
        .map(|trouble| Waiting { reason: clean_text(&trouble.reason), advice: clean_text(&trouble.advice) });
    control.send(&Message::Stage(stage));
    context.report.change(|facts| {
        facts.stage = stage;
        // A reason stands until the stage it belongs to is done.
        if waiting.is_some() || step.finished.is_some() {
            facts.waiting = waiting;
        }
        facts.spooled = context.spool.len();
    });
}

async fn tick(control: Arc<Control>, deadline: Arc<AtomicU64>) {
    loop {
        if clock::since_boot().as_secs() < deadline.load(Ordering::Relaxed) {
            control.send(&Message::Tick);
        }
        tokio::time::sleep(TICK).await;
    }
}

/// A number in 0..1 for jitter: from clocks, because the kernel's randomness may not be ready for seconds after
/// power-on and asking for it blocks.
pub fn random() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The keys of std's hasher are random per process where the kernel has randomness, and never wait for it.
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u128(clock::since_boot().as_nanos());
    hasher.write_u128(clock::own_cpu().as_nanos());
    f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}
