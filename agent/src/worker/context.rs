//! What the stages share: filled in as the walk goes on.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cairn_disk::generation::Stored;
use cairn_net::Network;
use cairn_protocol::heartbeat::Severity;
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::netplan::Netplan;
use cairn_protocol::plan::Timeouts;
use cairn_protocol::seed::Seed;
use cairn_protocol::settings::ImageSettings;
use cairn_protocol::stage::Stage;

use crate::cli::WorkerOptions;
use crate::clock::Clock;
use crate::cmdline::Cmdline;
use crate::console::Console;
use crate::control::Control;
use crate::heartbeat::Beater;
use crate::identity::Identity;
use crate::kmod::load::Modules;
use crate::paths::Paths;
use crate::release::Release;
use crate::report::Report;
use crate::spool::Spool;
use crate::stages::Accepted;
use crate::trust::{self, Trust};
use crate::uplink::Uplink;

/// An installed generation that was chosen to run.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// As it lies on STATE.
    pub stored: Stored,
    /// Whether one of its tries is to be counted before the handover.
    pub count: bool,
}

/// The worker's state. See [`crate::stages`] for who fills in what.
#[derive(Debug)]
pub struct Context {
    /// The command line of this process.
    pub options: WorkerOptions,
    /// Where things lie.
    pub paths: Paths,
    /// The lines on serial and screen.
    pub console: Arc<Console>,
    /// The kernel's command line.
    pub cmdline: Cmdline,
    /// What the lab says in place of hardware, where this node is a container.
    pub container: Option<crate::container::Machine>,
    /// What the image trusts, or why it cannot be read.
    pub trust: Result<Arc<Trust>, String>,
    /// The trusted time.
    pub clock: Arc<Clock>,
    /// What is published.
    pub report: Arc<Report>,
    /// Events for central.
    pub spool: Arc<Spool>,
    /// The pipe to PID 1.
    pub control: Arc<Control>,
    /// Kernel modules; `None` in hosted mode.
    pub modules: Option<Modules>,
    /// The signed seed, where one was found.
    pub seed: Option<Seed>,
    /// Whether disks were looked through for a seed.
    pub seed_looked_for: bool,
    /// The measured speed.
    pub measured: Timeouts,
    /// The plan's word about speed.
    pub planned: Timeouts,
    /// The running network; `None` in hosted mode.
    pub network: Option<Network>,
    /// The network document of the running generation's plan.
    pub network_plan: Option<Netplan>,
    /// Failed tries to reach the controller through the network document in force.
    pub unreached: u32,
    /// Tries to find a controller so far: each begins at another one.
    pub searches: usize,
    /// The line to the controller.
    pub uplink: Option<Arc<Uplink>>,
    /// The node's identity.
    pub identity: Option<Identity>,
    /// When a renewal of the certificate was tried last, since the kernel started.
    pub renewal_tried: Option<Duration>,
    /// The assignment, verified.
    pub assignment: Option<Accepted>,
    /// The manifests that release metadata and assignment agree on, and the metadata that authorises them.
    pub release: Option<Release>,
    /// Whether there were disks when an installation was looked for.
    pub disks_seen: bool,
    /// The system disk, where there is one.
    pub disk: Option<cairn_disk::system::SystemDisk>,
    /// The installed generation that this boot runs.
    pub chosen: Option<Chosen>,
    /// Since when this boot asks central about a reinstall instead of starting what is installed.
    pub asks_since: Option<Duration>,
    /// The heartbeats' task.
    pub heartbeats: Option<Beater>,
}

impl Context {
    /// A fresh context; nothing is done yet.
    pub fn new(options: WorkerOptions, control: Arc<Control>) -> Self {
        let paths = Paths::new(&options.root);
        let hosted = options.hosted;
        let cmdline =
            if hosted { String::new() } else { fs::read_to_string("/proc/cmdline").unwrap_or_default() };
        let container =
            (!hosted && crate::container::is_one()).then(|| crate::container::Machine::parse(&cmdline));
        let trust = trust::read(&paths.trust()).map(Arc::new).map_err(|e| e.to_string());
        let floor = trust
            .as_ref()
            .map_or(0, |trust| trust.settings.build_time)
            .max(crate::stages::last_time(&paths.run()));
        let clock = options.clock.map_or_else(|| Clock::new(floor), |time| Clock::on_machine(floor, time));
        let console = if hosted { Console::stdout() } else { Console::of_node() };
        Self {
            console: Arc::new(console),
            cmdline: Cmdline::parse(&cmdline),
            trust,
            clock: Arc::new(clock),
            report: Arc::new(Report::new(paths.clone())),
            spool: Arc::new(Spool::open(&paths)),
            control,
            // A container's kernel is the host's to load modules into.
            modules: (!hosted && container.is_none()).then(Modules::of_running_kernel),
            container,
            seed: None,
            seed_looked_for: false,
            measured: super::measure_speed(),
            planned: Timeouts::Auto,
            network: None,
            network_plan: None,
            unreached: 0,
            searches: 0,
            uplink: None,
            identity: None,
            renewal_tried: None,
            assignment: None,
            release: None,
            disks_seen: false,
            disk: None,
            chosen: None,
            asks_since: None,
            heartbeats: None,
            paths,
            options,
        }
    }

    /// The speed by which time limits are judged.
    pub fn speed(&self) -> Timeouts {
        if self.planned == Timeouts::Auto { self.measured } else { self.planned }
    }

    /// The image's settings, where they could be read.
    pub fn settings(&self) -> Option<&ImageSettings> {
        self.trust.as_ref().ok().map(|trust| &trust.settings)
    }

    /// The pin, where it could be read.
    pub fn pin(&self) -> Option<Sha256Digest> {
        self.trust.as_ref().ok().map(|trust| trust.pin)
    }

    /// Makes events of the crashes that PID 1 kept.
    pub fn take_over_crashes(&self) {
        for (file, crash) in crate::pid1::crash::kept(&self.paths.crashes()) {
            self.spool.event(&self.clock, crash.stage, Severity::Error, "worker-crash", &crash.line);
            let _ = fs::remove_file(file);
        }
    }

    /// The walk is over: what is still to be sent is sent within a bounded time.
    pub async fn finish(&mut self) {
        if let Some(heartbeats) = self.heartbeats.take() {
            heartbeats.last().await;
        }
    }

    /// A line for the console and an event for central.
    pub fn tell(&self, stage: Stage, severity: Severity, code: &str, line: &str) {
        self.console.note(stage, format!("[{code}] {line}"));
        self.spool.event(&self.clock, stage, severity, code, line);
    }

    /// In the booted root: finds the system disk that STATE lies on, for changes of its loaders.
    pub async fn find_disk(&mut self) {
        let (run, container) = (self.paths.run(), self.container.clone());
        let found =
            tokio::task::spawn_blocking(move || crate::stages::machine_disks(container.as_ref(), &run))
                .await
                .unwrap_or_default();
        let disks = found.iter().map(|found| found.disk.clone()).collect();
        self.report.change_status(|status| status.inventory.disks = disks);
        let ours = cairn_disk::installed::find(&found).ok().flatten();
        self.disk = ours.and_then(|found| cairn_disk::system::open(found).ok());
    }

    /// The reinstall that the signed assignment orders and the mounted disk has not seen.
    pub fn reinstall_ordered(&self) -> Option<u64> {
        let ordered = self.assignment.as_ref()?.assignment.reinstall;
        let record = cairn_disk::record::read(&self.paths.state()).ok()??;
        (record.reinstall < ordered).then_some(ordered)
    }

    /// Whether STATE is mounted.
    pub fn has_state(&self) -> bool {
        self.paths.state().join("identity").is_dir()
    }
}
