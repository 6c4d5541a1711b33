//! A running container: systemd-nspawn, watched by a thread that starts it again when the node reboots.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::args::{self, Machine};
use super::groups::{self, Groups};
use super::link::{self, Network};
use crate::switch::wire::{self, Outlet};

/// nspawn's exit status when its payload rebooted and there is no unit for it to start again (systemd, nspawn.c).
const REBOOTED: i32 = 133;
/// nspawn has its payload running within a second; a loaded machine takes longer.
const START: Duration = Duration::from_secs(60);
/// A killed payload is gone within milliseconds.
const STOP: Duration = Duration::from_secs(20);
/// How often a running container is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The most characters of a failed program's words that go into an error.
pub const SAID: usize = 4000;

/// Where programs in a node are looked for.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Goes into cgroups, `$1` of them, then becomes the rest of its words.
const ENTER: &str = "count=$1; shift
while [ $count -gt 0 ]; do echo 0 >\"$1/cgroup.procs\" || exit 111; shift; count=$((count - 1)); done
exec \"$@\"";

/// Why a container did not power on, or a program in it did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its cgroups.
    #[error("{node}: {source}")]
    Groups {
        /// Which node.
        node: String,
        /// Why.
        source: groups::Error,
    },
    /// Its network.
    #[error("{node}: {source}")]
    Link {
        /// Which node.
        node: String,
        /// Why.
        source: link::Error,
    },
    /// The switch.
    #[error(transparent)]
    Switch(#[from] wire::Error),
    /// A program could not be started, or a log not be opened.
    #[error(
        "cannot start {what} for {node}; container nodes need systemd-container and util-linux (`make setup`)"
    )]
    Start {
        /// What.
        what: &'static str,
        /// Which node.
        node: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// nspawn ended before its payload ran.
    #[error("systemd-nspawn of {node} ended at once ({status}); see {}", log.display())]
    Ended {
        /// Which node.
        node: String,
        /// How.
        status: ExitStatus,
        /// What it said.
        log: PathBuf,
    },
    /// No payload came.
    #[error("systemd-nspawn of {node} starts nothing; see {}", log.display())]
    Silent {
        /// Which node.
        node: String,
        /// What it said.
        log: PathBuf,
    },
}

/// Everything that one start takes.
#[derive(Debug)]
struct Setup {
    machine: Machine,
    macs: Vec<String>,
    outlets: Vec<Outlet>,
    groups: Groups,
    console: PathBuf,
    log: PathBuf,
}

#[derive(Debug, Default)]
struct State {
    /// The running nspawn.
    child: Option<Child>,
    /// Its network namespace, kept as long as the tap devices in it.
    network: Option<Network>,
    /// The power was cut: nothing is started any more.
    off: bool,
    /// Processor seconds of earlier boots.
    spent: f64,
}

/// A container that is on. Dropping it cuts the power.
#[derive(Debug)]
pub struct Process {
    setup: Arc<Setup>,
    state: Arc<Mutex<State>>,
    keeper: Option<JoinHandle<()>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts the container with a card of each MAC address at the outlet of the same position. Its console is appended to
    /// `console`, what nspawn says to `log`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(
        machine: Machine,
        cards: Vec<(String, Outlet)>,
        console: &Path,
        log: &Path,
    ) -> Result<Self, Error> {
        let groups = Groups::of(&machine.name);
        let (macs, outlets) = cards.into_iter().unzip();
        let setup =
            Setup { machine, macs, outlets, groups, console: console.to_owned(), log: log.to_owned() };
        let (setup, state) = (Arc::new(setup), Arc::new(Mutex::new(State::default())));
        let mut process = Self { setup, state, keeper: None };
        process.setup.boot(&mut lock(&process.state))?;
        process.wait_payload()?;
        let (setup, state) = (Arc::clone(&process.setup), Arc::clone(&process.state));
        let keeper =
            std::thread::Builder::new().name("container".to_owned()).spawn(move || keep(&setup, &state));
        process.keeper = Some(keeper.map_err(|source| process.setup.start_error("a thread", source))?);
        Ok(process)
    }

    fn wait_payload(&self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        let (node, log) = (&self.setup.machine.name, &self.setup.log);
        while self.payload().is_none() {
            let ended = lock(&self.state).child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(Error::Ended { node: node.clone(), status, log: log.clone() });
            }
            if Instant::now() > deadline {
                return Err(Error::Silent { node: node.clone(), log: log.clone() });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The node's PID 1, as this process-id namespace numbers it; none between two boots.
    #[must_use]
    pub fn payload(&self) -> Option<i32> {
        lock(&self.state).child.as_ref().and_then(payload)
    }

    /// Whether it is on. A node that switched itself off is not.
    #[must_use]
    pub fn running(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished())
    }

    /// Processor seconds used so far, over all boots since power-on.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        lock(&self.state).spent + self.setup.groups.cpu_seconds()
    }

    /// The cgroup that carries the node's limits for `controller` (`memory`, `cpu`), where the host has it.
    #[must_use]
    pub fn limits(&self, controller: &str) -> Option<PathBuf> {
        self.setup.groups.limits(controller)
    }

    /// Runs a program in the node, as root and within its limits, and waits for it; none between two boots.
    ///
    /// # Errors
    /// When it cannot be started. How it ended is in the answer.
    pub fn execute(&self, words: &[&str]) -> Result<Option<Output>, Error> {
        let Some(payload) = self.payload() else { return Ok(None) };
        let mut command = self.setup.entering();
        // What the node itself may not do to the host, no program put into it may either.
        let denied =
            args::DENIED.map(|name| format!("-{}", name.trim_start_matches("CAP_").to_lowercase())).join(",");
        command.args(["setpriv", "--inh-caps", &denied, "--bounding-set", &denied]);
        command.arg("nsenter").args(["--target", &payload.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        if has_time_namespaces() {
            command.arg("--time");
        }
        command.args(["--root", "--wd", "--", "env", "-i"]).arg(PATH).arg("HOME=/root").args(words);
        let output = command.stdin(Stdio::null()).output();
        output.map(Some).map_err(|source| self.setup.start_error("nsenter", source))
    }

    /// Cuts the power: everything in the node is killed at once. What it wrote and the host has cached survives.
    pub fn power_off(&mut self) {
        let deadline = Instant::now() + STOP;
        while self.running() {
            let mut state = lock(&self.state);
            state.off = true;
            if let Some(child) = &mut state.child {
                match payload(child) {
                    // The kernel kills the rest of its namespace; nspawn then ends by itself.
                    Some(payload) => drop(kill(Pid::from_raw(payload), Signal::SIGKILL)),
                    None if Instant::now() < deadline => {}
                    None => drop(child.kill()),
                }
            }
            drop(state);
            std::thread::sleep(LOOK);
        }
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        // A start that failed has no keeper.
        let mut state = lock(&self.state);
        if let Some(mut child) = state.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.setup.clear(&mut state);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// Starts the node again after each reboot, until it is off.
fn keep(setup: &Setup, state: &Mutex<State>) {
    loop {
        std::thread::sleep(LOOK);
        let mut state = lock(state);
        let Some(ended) = state.child.as_mut().map(Child::try_wait) else { return };
        let status = match ended {
            Ok(None) => continue,
            Ok(Some(status)) => Some(status),
            Err(_) => None,
        };
        state.child = None;
        setup.clear(&mut state);
        if state.off || status.and_then(|status| status.code()) != Some(REBOOTED) {
            return;
        }
        if let Err(error) = setup.boot(&mut state) {
            setup.note(&error);
            return;
        }
    }
}

/// The child of nspawn that is process 1 of a namespace below ours.
fn payload(nspawn: &Child) -> Option<i32> {
    let pid = nspawn.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().filter_map(|word| word.parse().ok()).find(|child| is_first(*child))
}

fn is_first(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let ids: Vec<&str> = ids.unwrap_or_default().split_whitespace().collect();
    ids.len() > 1 && ids.last() == Some(&"1")
}

fn has_time_namespaces() -> bool {
    Path::new("/proc/self/ns/time").exists()
}

/// The words that start a program with boot clocks that begin now.
fn fresh_clocks() -> Vec<String> {
    if !has_time_namespaces() {
        return Vec::new();
    }
    let now = |clock| clock_gettime(clock).map_or(0, |time| time.tv_sec());
    let (boot, monotonic) = (now(ClockId::CLOCK_BOOTTIME), now(ClockId::CLOCK_MONOTONIC));
    [
        "unshare".to_owned(),
        "--time".to_owned(),
        format!("--boottime=-{boot}"),
        format!("--monotonic=-{monotonic}"),
    ]
    .to_vec()
}

impl Setup {
    fn start_error(&self, what: &'static str, source: io::Error) -> Error {
        Error::Start { what, node: self.machine.name.clone(), source }
    }

    /// A command that goes into the node's cgroups and becomes the words that follow.
    fn entering(&self) -> Command {
        let payloads = self.groups.payloads();
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "sh", &payloads.len().to_string()]).args(payloads);
        command
    }

    /// One boot: fresh cgroups, a fresh network namespace plugged into the switch, and nspawn.
    fn boot(&self, state: &mut State) -> Result<(), Error> {
        let node = || self.machine.name.clone();
        let groups = |source| Error::Groups { node: node(), source };
        self.groups.make(self.machine.memory, self.machine.cpus).map_err(groups)?;
        let (network, devices) =
            link::make(&self.macs).map_err(|source| Error::Link { node: node(), source })?;
        for (outlet, device) in self.outlets.iter().zip(devices) {
            outlet.plug(device)?;
        }
        let open = |path: &Path| File::options().create(true).append(true).open(path);
        let console = open(&self.console).map_err(|source| self.start_error("the console", source))?;
        let log = open(&self.log).map_err(|source| self.start_error("the log", source))?;
        let mut command = self.entering();
        command.args(fresh_clocks()).arg("systemd-nspawn").args(args::build(&self.machine, &network.path()));
        command.envs(args::environment(self.groups.unified()));
        command.stdin(Stdio::null()).stdout(console).stderr(log);
        // A Ctrl-C at the terminal is for the lab, which then ends its nodes in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|source| self.start_error("systemd-nspawn", source))?;
        (state.child, state.network) = (Some(child), Some(network));
        Ok(())
    }

    /// What a boot leaves: tap devices, then the namespace that they are in, and cgroups.
    fn clear(&self, state: &mut State) {
        self.outlets.iter().for_each(Outlet::unplug);
        state.network = None;
        state.spent += self.groups.cpu_seconds();
        if let Err(error) = self.groups.remove() {
            self.note(&error);
        }
    }

    /// Something that nobody waits for goes to the log.
    fn note(&self, error: &dyn std::error::Error) {
        use std::io::Write as _;
        if let Ok(mut log) = File::options().create(true).append(true).open(&self.log) {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let _ = writeln!(log, "cairn-lab: {error}{cause}");
        }
    }
}
