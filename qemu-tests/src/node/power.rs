//! What a node is when it is on: a QEMU, or a container.

use std::path::Path;
use std::sync::PoisonError;

use super::{Error, Node};
use crate::container::args::{Disk, Machine};
use crate::container::{Process as Container, process as container};
use crate::qemu::process::Process as Qemu;
use crate::qemu::qmp::Qmp;
use crate::spec::Boot;

/// What runs.
#[derive(Debug)]
pub(super) enum Power {
    /// A virtual machine.
    Vm(Qemu),
    /// A container.
    Container(Container),
}

impl Power {
    pub(super) fn running(&mut self) -> bool {
        match self {
            Self::Vm(process) => process.running(),
            Self::Container(process) => process.running(),
        }
    }

    pub(super) fn cpu_seconds(&self) -> f64 {
        match self {
            Self::Vm(process) => process.cpu_seconds(),
            Self::Container(process) => process.cpu_seconds(),
        }
    }

    pub(super) fn off(&mut self) {
        match self {
            Self::Vm(process) => process.power_off(),
            Self::Container(process) => process.power_off(),
        }
    }
}

impl Node {
    /// Whether it is a container.
    #[must_use]
    pub fn is_container(&self) -> bool {
        self.spec.boot == Boot::Container
    }

    /// Starts what it is.
    pub(super) fn start(&self) -> Result<Power, Error> {
        let shared = &self.shared;
        if !self.is_container() {
            let (work, serial) = (shared.dirs.work(), shared.dirs.serial());
            let extra = shared.extra.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut binds: Vec<&Path> = vec![&work, &serial, &shared.image];
            binds.extend(extra.iter().map(|path| &**path));
            let log = shared.dirs.log(&format!("qemu-{}", self.spec.name));
            return Ok(Power::Vm(Qemu::start(&shared.toolbox, &self.machine, &binds, &log)?));
        }
        let disks = self.machine.disks.iter().zip(&self.spec.disks);
        let machine = Machine {
            name: self.spec.name.clone(),
            serial: self.machine.serial.clone(),
            root: shared.root(),
            cmdline: shared.cmdline.clone(),
            cpus: self.machine.cpus,
            memory: self.machine.memory,
            disks: disks
                .map(|(disk, spec)| Disk {
                    path: disk.path.clone(),
                    size: spec.size,
                    serial: disk.serial.clone(),
                })
                .collect(),
        };
        let macs = self.machine.nics.iter().map(|nic| nic.mac.clone());
        let log = shared.dirs.log(&format!("nspawn-{}", self.spec.name));
        let cards = macs.zip(self.outlets.iter().cloned()).collect();
        Ok(Power::Container(Container::start(machine, cards, &self.machine.console, &log)?))
    }

    /// A control connection of a virtual machine.
    ///
    /// # Errors
    /// When it is off, does not answer, or is a container.
    pub fn qmp(&mut self) -> Result<Qmp, Error> {
        match &self.power {
            Some(Power::Vm(process)) => Ok(process.qmp()?),
            Some(Power::Container(_)) => Err(self.no_part("QMP socket: it is a container")),
            None => Err(Error::Off(self.spec.name.clone())),
        }
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When it is off or does not answer.
    pub fn reset(&mut self) -> Result<(), Error> {
        if self.is_container() && self.running() {
            return self.cycle();
        }
        Ok(self.qmp()?.reset()?)
    }

    /// The cgroup that carries a running container's limits for `controller` (`memory`, `cpu`).
    #[must_use]
    pub fn limits(&self, controller: &str) -> Option<std::path::PathBuf> {
        match &self.power {
            Some(Power::Container(process)) => process.limits(controller),
            _ => None,
        }
    }

    /// Runs a program in a running container node, as root and within its limits, and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When the node is off or between two boots, is a virtual machine, or the program fails: with what it said.
    pub fn execute(&mut self, words: &[&str]) -> Result<String, Error> {
        let node = self.spec.name.clone();
        let output = match &self.power {
            Some(Power::Container(process)) => process.execute(words)?.ok_or(Error::Off(node.clone()))?,
            Some(Power::Vm(_)) => return Err(self.no_part("way in: it is a virtual machine")),
            None => return Err(Error::Off(node)),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        let said = said.trim_end().chars().take(container::SAID).collect();
        Err(Error::Program { node, program: words.join(" "), status: output.status, said })
    }

    pub(super) fn no_part(&self, part: &str) -> Error {
        Error::NoPart { node: self.spec.name.clone(), part: part.to_owned() }
    }
}
