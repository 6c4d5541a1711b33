//! The service of the booted root: keeps the network, tells central how the node is, judges a new generation's health,
//! and stages the next one beside it.

mod health;
mod kmsg;
mod repair;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_protocol::console::Said;
use cairn_protocol::heartbeat::{FailedGeneration, NodeState, Severity, Waiting};
use cairn_protocol::limits::clean_text;
use cairn_protocol::stage::Stage;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::cli::WorkerOptions;
use crate::clock;
use crate::control::Control;
use crate::engine::{Engine, Next, Outcome, Trouble, time_limit};
use crate::notify::{Notifier, watchdog_interval};
use crate::reinstall;
use crate::report::read_json;
use crate::running::{self, Running};
use crate::stages;
use crate::worker::context::Context;

/// How often the service looks after itself when nothing calls for it.
const TURN: Duration = Duration::from_secs(30);
/// How often health is judged while a generation is on trial, and until a boot is well.
const TRIAL_TURN: Duration = Duration::from_secs(5);
/// Between the end of one walk and a look whether there is need of another.
const AFTER_WALK: Duration = Duration::from_secs(1);
/// How much longer than its limit a step may take before the watchdogs are let go.
const SLACK: Duration = Duration::from_secs(60);
/// After SIGTERM the last heartbeat has this long.
const FAREWELL: Duration = Duration::from_secs(4);
/// Steps of the line to the controller, in order.
const LINE: [Stage; 5] = [Stage::Network, Stage::Time, Stage::Identity, Stage::Enrol, Stage::Plan];
/// Steps of an update, after them.
const UPDATE: [Stage; 3] = [Stage::Plan, Stage::Fetch, Stage::Verify];

/// Runs the service.
pub fn main(root: PathBuf) -> ExitCode {
    let paths = crate::paths::Paths::new(&root);
    crate::pid1::crash::hook_panics(paths.panic());
    if let Ok(journal) = tracing_journald::layer() {
        let journal = journal.with_syslog_identifier("cairn-agent".to_owned());
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(journal));
    }
    let runtime =
        match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("cairn-agent: the runtime cannot be built: {error}");
                return ExitCode::FAILURE;
            }
        };
    let code = runtime.block_on(serve(root));
    runtime.shutdown_background();
    code
}

/// The service's state.
struct Service {
    context: Context,
    running: Option<Running>,
    health: health::Health,
    /// The walk to the controller, or an update.
    walk: Option<Engine>,
    /// When the walk goes on.
    due: Instant,
    updating: bool,
    /// A reboot was asked for.
    leaving: bool,
    /// The etag of an assignment that is not acted on.
    refused: Option<String>,
    /// Until when the loop may stay in one step, seconds since the kernel started.
    deadline: Arc<AtomicU64>,
}

async fn serve(root: PathBuf) -> ExitCode {
    let options = WorkerOptions { root, ..WorkerOptions::default() };
    let mut context = Context::new(options, Arc::new(Control::of_process()));
    context.take_over_crashes();
    let running: Option<Running> = read_json(&context.paths.in_run(running::FILE_NAME));
    context.clock.raise_floor(stages::last_time(&context.paths.state()));
    context.spool.attach(&context.paths.state());
    context.console.say(Stage::Service, Said::Started);
    tracing::info!(generation = running.as_ref().map(|running| running.id.as_str()), "the service starts");
    begin(&mut context, running.as_ref());
    context.find_disk().await;

    let notifier = Notifier::from_env().ok().flatten().map(Arc::new);
    if let Some(notifier) = &notifier {
        let _ = notifier.ready();
    }
    let deadline = Arc::new(AtomicU64::new(u64::MAX));
    let hardware = watchdog::Keeper::new(!context.cmdline.watchdog_off);
    tokio::spawn(stay_alive(notifier.clone(), hardware, Arc::clone(&deadline)));
    // In a container the kernel's log is the host's, and no verity device is the node's.
    let (_keep, mut bad_blocks) = if context.container.is_some() { kmsg::silent() } else { kmsg::watch() };
    let stop = Arc::new(Notify::new());
    tokio::spawn(stop_on_signal(Arc::clone(&stop)));
    let mut service = Service {
        health: health::Health::new(&context, running.as_ref()),
        context,
        running,
        walk: None,
        due: Instant::now(),
        updating: false,
        leaving: false,
        refused: None,
        deadline,
    };
    // It runs beside everything else, on trial too: what it does is safe to cut off.
    let _bootstrap = crate::bootstrap::start(&service.context, service.running.as_ref());
    let mut judge = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(judge) => {
                judge = Instant::now() + if service.health.is_settling() { TRIAL_TURN } else { TURN * 2 };
                service.judge(notifier.as_deref()).await;
            }
            () = tokio::time::sleep_until(service.due) => service.step().await,
            () = service.context.report.wake.notified() => service.due = Instant::now(),
            () = service.context.report.judge.notified() => judge = Instant::now(),
            Some(bad) = bad_blocks.recv() => repair::damaged(&mut service.context, &mut service.health, bad).await,
            () = stop.notified() => break,
        }
    }
    if let Some(notifier) = &notifier {
        let _ = notifier.stopping();
    }
    service.context.finish().await;
    ExitCode::SUCCESS
}

/// Feeds systemd's and the machine's watchdog while the loop is within its limits.
async fn stay_alive(
    notifier: Option<Arc<Notifier>>,
    mut hardware: watchdog::Keeper,
    deadline: Arc<AtomicU64>,
) {
    let every = watchdog_interval().map_or(TURN, |interval| interval / 2).clamp(Duration::from_secs(1), TURN);
    loop {
        if clock::since_boot().as_secs() < deadline.load(Ordering::Relaxed) {
            if let Some(notifier) = &notifier {
                let _ = notifier.alive();
            }
            hardware.turn();
        }
        tokio::time::sleep(every).await;
    }
}

/// Ends the process soon after SIGTERM, whatever the loop does: everything that counts is on STATE already.
async fn stop_on_signal(stop: Arc<Notify>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.notify_one();
    tokio::time::sleep(FAREWELL).await;
    std::process::exit(0);
}

/// Tells at once what is known: the stage, the generation, its layers.
fn begin(context: &mut Context, running: Option<&Running>) {
    let on_trial = running.is_some_and(|running| running.on_trial);
    let boot = context.cmdline.boot.clone();
    context.report.change_status(|status| {
        status.boot_source = boot.unwrap_or_else(|| "disk".to_owned());
        status.layers = running
            .iter()
            .flat_map(|r| &r.layers)
            .map(|l| (l.name.clone(), l.root_hash.to_string()))
            .collect();
    });
    context.report.change(|facts| {
        facts.stage = Stage::Service;
        facts.waiting = None;
        facts.state = if on_trial { NodeState::Trying } else { NodeState::Degraded };
        facts.generation = running.map(|running| running.id.clone());
        facts.assignment_sequence = running.map_or(0, |running| running.sequence);
        facts.assignment_etag = running.map(|running| running.id.clone()).unwrap_or_default();
    });
    context.planned = running.map_or(context.planned, |running| running.plan.timeouts);
    context.network_plan = running.and_then(|running| running.plan.network.clone());
}

impl Service {
    /// One step of the walk: to the controller, or of an update. Failures pause it; nothing ends it.
    async fn step(&mut self) {
        if self.leaving {
            return self.reboot().await;
        }
        let stage = match &self.walk {
            Some(walk) => walk.stage(),
            None if self.context.heartbeats.is_none() || self.is_outcast() => {
                let mut walk = Engine::new(Stage::Plan);
                let first = if self.context.network.is_none() { LINE[0] } else { LINE[1] };
                walk.start_at(first, clock::since_boot());
                self.updating = false;
                self.walk.insert(walk).stage()
            }
            None if self.wants_update() => {
                let mut walk = Engine::new(Stage::Verify);
                walk.start_at(UPDATE[0], clock::since_boot());
                self.updating = true;
                self.walk.insert(walk).stage()
            }
            None => {
                self.due = Instant::now() + TURN * 2;
                return;
            }
        };
        let limit = time_limit(stage, self.context.speed());
        self.deadline.store((clock::since_boot() + limit + SLACK).as_secs(), Ordering::Relaxed);
        let outcome = match tokio::time::timeout(limit, stages::run(stage, &mut self.context)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Wait(Trouble::waiting(
                format!("{stage} took longer than {} s and was broken off", limit.as_secs()),
                "it is tried again",
            )),
        };
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.after(stage, outcome).await;
    }

    async fn after(&mut self, stage: Stage, outcome: Outcome) {
        let outcome = match outcome {
            // A reinstall fetches nothing now: the disk that it would lie on is wiped.
            Outcome::Done
                if self.updating && stage == Stage::Plan && self.context.reinstall_ordered().is_some() =>
            {
                Outcome::Jump(Stage::Activate)
            }
            // After the plan an update goes on to fetch: disks are not touched here.
            Outcome::Done if self.updating && stage == Stage::Plan => Outcome::Jump(Stage::Fetch),
            other => other,
        };
        let Some(walk) = &mut self.walk else { return };
        let step = walk.outcome(outcome, clock::since_boot(), crate::worker::random());
        let context = &self.context;
        for (at, said) in &step.say {
            // The stages of the boot are over; only what is wrong is worth a line.
            if matches!(said, Said::Waiting { .. } | Said::Refused { .. }) {
                context.console.say(*at, said.clone());
                tracing::warn!(stage = %at, line = ?said, "waiting");
            }
        }
        if let Some((stage, took)) = step.finished {
            context.report.finished(stage, took);
        }
        if let Some((at, event)) = &step.event {
            let code = event.code.unwrap_or("refused");
            context.spool.event(&context.clock, *at, Severity::Error, code, &event.reason);
        }
        let waiting = step.waiting.as_ref();
        context.report.change(|facts| {
            facts.waiting = waiting
                .map(|trouble| Waiting { reason: trouble.reason.clone(), advice: trouble.advice.clone() });
        });
        match step.next {
            Next::Run(_) => self.due = Instant::now(),
            Next::Pause(_, pause) => self.due = Instant::now() + pause,
            Next::End => {
                self.walk = None;
                self.due = Instant::now() + AFTER_WALK;
                if self.updating {
                    self.updating = false;
                    self.stage_update().await;
                }
            }
        }
    }

    fn is_outcast(&self) -> bool {
        let beats = self.context.heartbeats.as_ref();
        let outcast = beats.is_some_and(|beats| beats.outcast.load(Ordering::Relaxed));
        outcast || stages::wants_renewal(&self.context)
    }

    /// Whether central has another assignment than the one that runs, and it was not tried in vain already.
    fn wants_update(&self) -> bool {
        let accepted =
            self.context.assignment.as_ref().map(|accepted| accepted.etag.clone()).unwrap_or_default();
        let offered = self.context.report.facts().offered_etag;
        let target = if offered.is_empty() { accepted } else { offered };
        let runs = self.running.as_ref().map(|running| running.id.clone()).unwrap_or_default();
        let failed = self.context.report.facts().failed.is_some_and(|failed| failed.id == target)
            || self.refused.as_ref() == Some(&target);
        let empty = self
            .context
            .assignment
            .as_ref()
            .is_some_and(|accepted| accepted.etag == target && accepted.assignment.bundles.is_empty());
        // While it is on trial itself, one generation at a time; one that cannot pass must not keep its successor away.
        let free = !self.health.on_trial() || self.health.is_stuck();
        !target.is_empty() && target != runs && !failed && !empty && free
    }

    /// Writes the fetched generation, and reboots into it.
    async fn stage_update(&mut self) {
        if let Some(number) = self.context.reinstall_ordered() {
            return self.reboot_to_reinstall(number).await;
        }
        if let Err(trouble) = stages::stage_generation(&mut self.context).await {
            self.context.console.note(Stage::Service, format!("not staged: {}", trouble.reason));
            self.due = Instant::now() + crate::engine::backoff(6, crate::worker::random());
            return;
        }
        let id = self.context.assignment.as_ref().map(|a| a.etag.clone()).unwrap_or_default();
        let line = format!("generation {id} is staged, rebooting into it");
        self.context.tell(Stage::Service, Severity::Info, "reboot", &line);
        self.reboot().await;
    }

    /// Marks the order on STATE and reboots: the initramfs asks central, and makes the disk anew.
    async fn reboot_to_reinstall(&mut self, number: u64) {
        let state = self.context.paths.state();
        let Some(order) = reinstall::order(reinstall::read(&state).as_ref(), number) else {
            self.refused = self.context.assignment.as_ref().map(|accepted| accepted.etag.clone());
            let line = format!(
                "reinstall {number}: {} boots did not reach the controller from the initramfs; the node runs on; see its \
                 console, then order it again",
                reinstall::BOOTS
            );
            return self.context.tell(Stage::Service, Severity::Error, "reinstall-failed", &line);
        };
        if let Err(error) = reinstall::write(&state, &order) {
            let line = format!("reinstall {number} waits: STATE cannot be written: {error}");
            self.context.console.note(Stage::Service, line);
            self.due = Instant::now() + crate::engine::backoff(6, crate::worker::random());
            return;
        }
        let line = format!("reinstall {number} was ordered, rebooting");
        self.context.tell(Stage::Service, Severity::Info, "reboot", &line);
        self.reboot().await;
    }

    async fn reboot(&mut self) {
        if let Some(beats) = self.context.heartbeats.take() {
            beats.last().await;
        }
        tracing::info!("rebooting");
        let asked = health::systemctl(&["reboot"]).await;
        self.leaving = asked;
        if !asked {
            self.context.console.note(Stage::Service, "systemctl reboot failed; it is tried again");
        }
        self.due = Instant::now() + Duration::from_secs(60);
    }

    async fn judge(&mut self, notifier: Option<&Notifier>) {
        use crate::health::Verdict;
        if self.leaving {
            return;
        }
        let verdict = self.health.judge(&self.context, self.running.as_ref()).await;
        let line = self.health.line();
        if let Some(notifier) = notifier {
            let _ = notifier.status(&line);
        }
        match verdict {
            Verdict::Commit if self.health.on_trial() => self.commit().await,
            Verdict::GiveUp { reason } => self.give_up(&reason).await,
            Verdict::Persist { reason } => {
                self.context.console.note(Stage::Service, reason);
                self.health.extend();
            }
            _ => {}
        }
    }

    async fn commit(&mut self) {
        let Some(running) = self.running.clone() else { return };
        // What an update fetches is named by no generation yet.
        match stages::commit(&mut self.context, &running, !self.updating).await {
            Ok(()) => {
                self.health.committed();
                let line = format!("generation {} passed its health checks", running.id);
                self.context.spool.event(
                    &self.context.clock,
                    Stage::Service,
                    Severity::Info,
                    "generation-committed",
                    &line,
                );
                self.context.console.note(Stage::Service, line);
                self.context.console.say(Stage::Service, Said::Done);
                self.context.report.finished(Stage::Service, self.health.age());
                self.context.report.change(|facts| facts.state = NodeState::Ready);
                if let Some(running) = &mut self.running {
                    running.on_trial = false;
                    crate::report::write_json(&self.context.paths.in_run(running::FILE_NAME), running);
                }
            }
            Err(trouble) => {
                self.context.console.note(Stage::Service, format!("not committed: {}", trouble.reason))
            }
        }
    }

    async fn give_up(&mut self, reason: &str) {
        let Some(running) = self.running.clone() else { return };
        self.context.tell(
            Stage::Service,
            Severity::Error,
            "generation-failed",
            &format!("generation {}: {reason}; the node returns to the last good one", running.id),
        );
        if let Err(trouble) = stages::give_up(&mut self.context, &running, reason).await {
            self.context.console.note(Stage::Service, format!("not given up: {}", trouble.reason));
            return;
        }
        let failed = FailedGeneration { id: running.id.clone(), reason: clean_text(reason) };
        self.context.report.change(|facts| facts.failed = Some(failed));
        self.reboot().await;
    }
}
