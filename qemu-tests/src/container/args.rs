//! systemd-nspawn's command line from a node's description. Pure; compared with a golden file.

use std::path::{Path, PathBuf};

use crate::units::Bytes;

/// Where the agent looks for the folders that stand for disks.
const DISKS: &str = "/run/cairn/disks";

/// Capabilities that a node does not have: kernel and clock are the host's, and not the node's to change.
pub const DENIED: [&str; 2] = ["CAP_SYS_MODULE", "CAP_SYS_TIME"];

/// A folder that stands for a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The folder.
    pub path: PathBuf,
    /// The size that the node is told; nothing holds it to it.
    pub size: Bytes,
    /// Serial number.
    pub serial: String,
}

/// Everything that one systemd-nspawn is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Node name.
    pub name: String,
    /// What stands for the chassis serial number.
    pub serial: String,
    /// The unpacked initramfs; never written to.
    pub root: PathBuf,
    /// Kernel command line words for the agent.
    pub cmdline: String,
    /// Processors.
    pub cpus: u8,
    /// Memory.
    pub memory: Bytes,
    /// Disks.
    pub disks: Vec<Disk>,
}

/// What nspawn reads of its environment: see `docs/ENVIRONMENT.md` of systemd.
///
/// - The host's controllers of cgroup version 1 where it has any, else version 2.
/// - `/proc/sys/net` and `/sys` belong to the node's network namespace and may be written to there.
/// - No lock on the folder of the initramfs, which all nodes share; no seccomp filter, which breaks runc's key rings.
#[must_use]
pub fn environment(unified: bool) -> [(&'static str, &'static str); 4] {
    [
        ("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", if unified { "1" } else { "0" }),
        ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network"),
        ("SYSTEMD_NSPAWN_LOCK", "0"),
        ("SYSTEMD_SECCOMP", "0"),
    ]
}

/// The command line, without the program's name. `network` is a path of the node's network namespace.
#[must_use]
pub fn build(machine: &Machine, network: &Path) -> Vec<String> {
    let mut args: Vec<String> = [
        "--quiet",
        // No unit, no registration: the lab keeps the node itself, in cgroups of its own.
        "--keep-unit",
        "--register=no",
        "--settings=no",
        // What the initramfs writes to its root is gone at the next boot, as it is in memory.
        "--volatile=overlay",
        // A terminal for /dev/console, whose output goes to standard output.
        "--console=read-only",
        // The kubelet reads the kernel's log.
        "--bind=/dev/kmsg",
        "--capability=all",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
    ]
    .map(str::to_owned)
    .to_vec();
    args.push(format!("--drop-capability={}", DENIED.join(",")));
    args.push(format!("--directory={}", machine.root.display()));
    args.push(format!("--machine={}", machine.name));
    args.push(format!("--hostname={}", machine.name));
    args.push(format!("--network-namespace-path={}", network.display()));
    for (at, disk) in machine.disks.iter().enumerate() {
        // nspawn reads `\:` as a colon.
        let from = disk.path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        args.push(format!("--bind={from}:{DISKS}/disk{at}"));
    }
    args.push("/init".to_owned());
    args.extend(machine.cmdline.split_whitespace().map(str::to_owned));
    args.extend(["cairn.boot=container", "cairn.watchdog=off"].map(str::to_owned));
    args.push(format!("cairn.serial={}", machine.serial));
    args.push(format!("cairn.memory={}", machine.memory.0));
    args.push(format!("cairn.cpus={}", machine.cpus));
    let disks = machine.disks.iter().enumerate();
    args.extend(disks.map(|(at, disk)| format!("cairn.disk=disk{at},{},{}", disk.size.0, disk.serial)));
    args
}
