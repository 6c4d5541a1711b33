//! A running QEMU and what it costs.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cairn_image::toolbox::Toolbox;

use super::args::{self, Machine};
use super::qmp::{self, Qmp};
use crate::namespace::SOCKETS;

/// Kernel clock ticks per second as procfs counts them (USER_HZ): 100 on every architecture that Debian has.
const TICKS: f64 = 100.0;
/// QEMU makes its control socket within milliseconds; a loaded machine may take seconds.
const START: Duration = Duration::from_secs(60);

/// Why a node did not power on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU could not be started.
    #[error("cannot start QEMU for {node}")]
    Start {
        /// Which node.
        node: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QEMU ended at once.
    #[error("QEMU of {node} ended at once ({status}); see {}", log.display())]
    Ended {
        /// Which node.
        node: String,
        /// How.
        status: ExitStatus,
        /// What it said.
        log: PathBuf,
    },
    /// Its control socket did not appear.
    #[error("QEMU of {node} does not answer; see {}", log.display())]
    Silent {
        /// Which node.
        node: String,
        /// What it said.
        log: PathBuf,
        /// Why.
        #[source]
        source: qmp::Error,
    },
}

/// A running QEMU. Dropping it cuts the power.
#[derive(Debug)]
pub struct Process {
    child: Child,
    qmp: PathBuf,
}

impl Process {
    /// Starts QEMU in the toolbox; `binds` are the host folders it reads and writes, `log` takes what it says.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(toolbox: &Toolbox, machine: &Machine, binds: &[&Path], log: &Path) -> Result<Self, Error> {
        let node = &machine.name;
        let start = |source| Error::Start { node: node.clone(), source };
        let file = File::options().create(true).append(true).open(log).map_err(start)?;
        let mut enter = toolbox.enter().bind(SOCKETS);
        for bind in binds {
            enter = enter.bind(bind);
        }
        let _ = std::fs::remove_file(&machine.qmp);
        let mut command = enter.command("qemu-system-x86_64");
        command.args(args::build(machine)).stdin(Stdio::null());
        command.stdout(file.try_clone().map_err(start)?).stderr(file);
        // A Ctrl-C at the terminal is for the lab, which then ends its nodes in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = Self { child: command.spawn().map_err(start)?, qmp: machine.qmp.clone() };
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = process.child.try_wait().map_err(start)? {
                return Err(Error::Ended { node: node.clone(), status, log: log.to_owned() });
            }
            match Qmp::connect(&machine.qmp) {
                Ok(_) => return Ok(process),
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(source) => return Err(Error::Silent { node: node.clone(), log: log.to_owned(), source }),
            }
        }
    }

    /// A fresh control connection. QEMU serves one at a time.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn qmp(&self) -> Result<Qmp, qmp::Error> {
        Qmp::connect(&self.qmp)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Processor seconds used so far, all threads; zero once it is gone.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        cpu_ticks(&stat).map_or(0.0, |ticks| ticks as f64 / TICKS)
    }

    /// Cuts the power: what the guest had not written to its disk is lost with its memory.
    pub fn power_off(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// User and system ticks from `/proc/<pid>/stat` (proc(5), fields 14 and 15). The name in field 2 may hold anything.
#[must_use]
pub fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ticks_past_any_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (x) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }
}
