//! One server of a rack: power, disks, sticks.
//!
//! - [`console`]: what it says, and waiting for it.
//! - [`power`]: the two kinds of machine that it can be.

mod console;
mod power;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::container::process as container;
use crate::dirs::{self, Dirs, fail, socket};
use crate::qemu::args::{self, Accel, Direct, DiskArgs, Machine, NicArgs};
use crate::qemu::process;
use crate::qemu::qmp;
use crate::spec::{Boot, Node as NodeSpec, RackSpec, disk_serial, mac};
use crate::stick;
use crate::switch::wire::Outlet;
use crate::switch::{Port, PortConfig, Switch, Vlan, wire};
use crate::tail::{Tail, Timeout};
use crate::units::Bytes;
use cairn_image::toolbox::Toolbox;
use power::Power;

/// Why something could not be done to a node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files.
    #[error(transparent)]
    Dirs(#[from] dirs::Error),
    /// QEMU.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// A container.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// A program in a container failed.
    #[error("{node}: {program} failed ({status}): {said}")]
    Program {
        /// Which node.
        node: String,
        /// Program and arguments.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
    /// Its control socket.
    #[error(transparent)]
    Qmp(#[from] qmp::Error),
    /// The switch.
    #[error(transparent)]
    Switch(#[from] wire::Error),
    /// Its USB stick.
    #[error(transparent)]
    Stick(#[from] stick::Error),
    /// It is off.
    #[error("{0} is powered off")]
    Off(String),
    /// It is on, and what was asked needs it off.
    #[error("{0} is powered on; power it off first")]
    On(String),
    /// No such part.
    #[error("{node} has no {part}")]
    NoPart {
        /// Which node.
        node: String,
        /// Which part.
        part: String,
    },
    /// The console did not say it.
    #[error("{node}: {source}")]
    Timeout {
        /// Which node.
        node: String,
        /// What was waited for.
        source: Timeout,
    },
}

/// What all nodes share.
#[derive(Debug)]
pub struct Shared {
    /// Where QEMU comes from.
    pub toolbox: Toolbox,
    /// What executes guests.
    pub accel: Accel,
    /// The run's folders.
    pub dirs: Dirs,
    /// Boot files.
    pub image: PathBuf,
    /// Kernel command line of the boot ways where the lab writes it.
    pub cmdline: String,
    /// Further folders that QEMU may read.
    pub extra: Mutex<Vec<PathBuf>>,
}

impl Shared {
    /// The unpacked initramfs, which container nodes start in.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dirs.work().join("initramfs")
    }
}

/// A server.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    machine: Machine,
    shared: Arc<Shared>,
    ports: Vec<Port>,
    /// Where a container's cards are plugged in at each boot.
    outlets: Vec<Outlet>,
    power: Option<Power>,
    tail: Tail,
    powered: Option<Instant>,
    spent: f64,
}

/// Kernel command line words that every boot way of the lab needs: the console that the lab reads, and no check of the timer,
/// whose interrupt TCG sometimes delivers too late, which the kernel takes for a broken board.
pub const CMDLINE: &str = "console=tty0 console=ttyS0,115200 no_timer_check panic=10";

impl Node {
    /// Puts the node in the rack: empty disks, variable store, switch ports. It stays off.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn install(
        rack: &RackSpec,
        index: usize,
        switch: &Switch,
        shared: &Arc<Shared>,
    ) -> Result<Self, Error> {
        let spec = rack
            .nodes
            .get(index)
            .cloned()
            .ok_or_else(|| Error::NoPart { node: rack.name.clone(), part: format!("node {index}") })?;
        let work = shared.dirs.work();
        let in_container = spec.boot == Boot::Container;
        let (mut nics, mut ports, mut outlets) = (Vec::new(), Vec::new(), Vec::new());
        for (at, nic) in spec.nics.iter().enumerate() {
            // Socket paths end at 107 bytes; positions are shorter than names.
            let (local, remote) = (socket(&format!("q{index}-{at}")), socket(&format!("s{index}-{at}")));
            let vlan = Vlan::Access(nic.vlan.unwrap_or(crate::switch::fabric::DEFAULT_VLAN));
            let config = PortConfig { vlan, ..PortConfig::default() };
            if in_container {
                let outlet = switch.add_outlet(config);
                ports.push(outlet.port());
                outlets.push(outlet);
            } else {
                ports.push(switch.add_socket(&remote, &local, config)?);
            }
            nics.push(NicArgs { model: nic.model, mac: mac(rack, index, at), local, remote });
        }
        let mut disks = Vec::new();
        for (at, disk) in spec.disks.iter().enumerate() {
            let kind = if in_container { "" } else { ".img" };
            let path = work.join(format!("{}-disk{at}{kind}", spec.name));
            empty_disk(&path, disk.size, in_container)?;
            disks.push(DiskArgs { path, format: "raw", bus: disk.bus, serial: disk_serial(&spec, at) });
        }
        let nvram = work.join(format!("{}-vars.fd", spec.name));
        if spec.boot.is_uefi() {
            let empty = shared.toolbox.root().join(args::OVMF_VARS.trim_start_matches('/'));
            std::fs::copy(&empty, &nvram).map_err(fail("copy", &empty))?;
        }
        let path = work.join(format!("{}-stick.img", spec.name));
        let mut stick = None;
        if spec.boot == Boot::Usb {
            stick::bootable(&shared.image.join("cairn-usb.img"), &path)?;
            stick = Some(path);
        }
        let direct = (spec.boot == Boot::Direct).then(|| Direct {
            kernel: shared.image.join("vmlinuz"),
            initrd: shared.image.join("initramfs.img"),
            cmdline: format!("{} cairn.boot=direct", shared.cmdline),
        });
        let console = shared.dirs.console(&spec.name);
        let machine = Machine {
            name: spec.name.clone(),
            serial: spec.serial(),
            uuid: uuid(&spec.serial()),
            boot: spec.boot,
            accel: shared.accel,
            cpus: spec.cpus,
            memory: spec.memory,
            screen: spec.screen,
            watchdog: spec.watchdog,
            clock: spec.clock.clone(),
            extra_cmdline: "no_timer_check".to_owned(),
            direct,
            nics,
            disks,
            stick,
            nvram,
            qmp: socket(&format!("m{index}")),
            console: console.clone(),
        };
        let tail = Tail::follow(&console);
        let seed = spec.seed.clone();
        let shared = Arc::clone(shared);
        let mut node =
            Self { spec, machine, shared, ports, outlets, power: None, tail, powered: None, spent: 0.0 };
        if let Some(seed) = seed {
            node.put_seed(&seed)?;
        }
        Ok(node)
    }

    /// Puts a signed seed on the node's USB stick; a node that has none gets one that carries nothing else. The node must be off.
    ///
    /// # Errors
    /// When it is on, or the stick cannot be written.
    pub fn put_seed(&mut self, seed: &Path) -> Result<(), Error> {
        if self.running() {
            return Err(Error::On(self.spec.name.clone()));
        }
        let stick = match self.machine.stick.clone() {
            Some(stick) => stick,
            None => {
                let path = self.shared.dirs.work().join(format!("{}-stick.img", self.spec.name));
                stick::empty(&self.shared.toolbox, &path)?;
                self.machine.stick = Some(path.clone());
                path
            }
        };
        Ok(stick::put_seed(&self.shared.toolbox, &stick, self.spec.boot == Boot::Usb, seed)?)
    }

    /// Its description.
    #[must_use]
    pub fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// What QEMU is told at the next power-on; to change boot way, memory or clock between two.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The switch port of a card.
    #[must_use]
    pub fn port(&self, nic: usize) -> Option<Port> {
        self.ports.get(nic).copied()
    }

    /// Powers it on. Nothing happens when it is on.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn power_on(&mut self) -> Result<(), Error> {
        if self.running() {
            return Ok(());
        }
        // A machine that switched itself off is cleared away first.
        self.power_off();
        self.powered = Some(Instant::now());
        self.power = Some(self.start()?);
        Ok(())
    }

    /// Cuts the power.
    pub fn power_off(&mut self) {
        if let Some(mut power) = self.power.take() {
            self.spent += power.cpu_seconds();
            power.off();
        }
    }

    /// Cuts the power and turns it on again.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn cycle(&mut self) -> Result<(), Error> {
        self.power_off();
        self.power_on()
    }

    /// Whether it is on. A guest that shut itself down is off.
    pub fn running(&mut self) -> bool {
        self.power.as_mut().is_some_and(Power::running)
    }

    /// When it was powered on last.
    #[must_use]
    pub fn powered(&self) -> Option<Instant> {
        self.powered
    }

    /// Processor seconds that its QEMU, or all of its container, used, over all power cycles.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.spent + self.power.as_ref().map_or(0.0, Power::cpu_seconds)
    }

    /// The file behind a disk, or the folder that stands for it.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn disk(&self, index: usize) -> Result<&Path, Error> {
        let disk = self.machine.disks.get(index).map(|disk| disk.path.as_path());
        disk.ok_or_else(|| self.no_part(&format!("disk {index}")))
    }

    /// Takes a disk out and puts an empty one in, of the same size and serial number. The node must be off.
    ///
    /// # Errors
    /// When it is on, there is no such disk, or it cannot be emptied.
    pub fn replace_disk(&mut self, index: usize) -> Result<(), Error> {
        if self.running() {
            return Err(Error::On(self.spec.name.clone()));
        }
        let path = self.disk(index)?.to_owned();
        let size = self.spec.disks.get(index).map_or(Bytes(0), |disk| disk.size);
        Ok(empty_disk(&path, size, self.is_container())?)
    }

    /// Flips the bits of one byte of a virtual machine's disk. The node must be off.
    ///
    /// # Errors
    /// When it is on, or there is no such disk or place.
    pub fn corrupt_disk(&mut self, index: usize, offset: u64) -> Result<(), Error> {
        if self.running() {
            return Err(Error::On(self.spec.name.clone()));
        }
        let path = self.disk(index)?.to_owned();
        Ok(flip_byte(&path, offset)?)
    }
}

/// An empty disk in place of what is there: a sparse file, or a folder.
fn empty_disk(path: &Path, size: Bytes, folder: bool) -> Result<(), dirs::Error> {
    if folder {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(fail("empty", path)(error));
            }
            _ => {}
        }
        return std::fs::create_dir(path).map_err(fail("make", path));
    }
    let file = File::create(path).map_err(fail("make", path))?;
    file.set_len(size.0).map_err(fail("size", path))
}

/// Flips all bits of one byte of a file in place.
///
/// # Errors
/// When the file cannot be changed there.
pub fn flip_byte(path: &Path, offset: u64) -> Result<(), dirs::Error> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail("open", path))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).map_err(fail("read", path))?;
    file.write_all_at(&[!byte[0]], offset).map_err(fail("write", path))?;
    file.sync_all().map_err(fail("flush", path))
}

/// A UUID from a serial number: the same machine has the same one in every run (FNV-1a, marked as RFC 9562 version 8).
fn uuid(serial: &str) -> String {
    let hash = |seed: u64| {
        serial.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    };
    let (a, b) = (hash(0xcbf2_9ce4_8422_2325), hash(0x9e37_79b9_7f4a_7c15));
    format!(
        "{:08x}-{:04x}-8{:03x}-a{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 48 & 0xfff,
        b & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_stable_and_differ() {
        assert_eq!(uuid("LAB-A"), uuid("LAB-A"));
        assert_ne!(uuid("LAB-A"), uuid("LAB-B"));
        assert_eq!(uuid("LAB-A").len(), 36);
        assert_eq!(&uuid("LAB-A")[14..15], "8");
    }

    #[test]
    fn a_flipped_byte_differs_and_flips_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        flip_byte(&path, 1).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [1, 0xfd, 3]);
        flip_byte(&path, 1).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [1, 2, 3]);
        assert!(flip_byte(&path, 3).is_err());
    }
}
