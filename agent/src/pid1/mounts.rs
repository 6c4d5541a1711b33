//! The mounts of the initramfs. Each is tried on its own: a node without efivars still boots.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

/// One mount.
struct Mount {
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    data: &'static str,
    /// Mounted only where this exists.
    needs: Option<&'static str>,
}

const NO_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

const MOUNTS: [Mount; 6] = [
    Mount { target: "/proc", kind: "proc", flags: NO_EXEC, data: "", needs: None },
    Mount { target: "/sys", kind: "sysfs", flags: NO_EXEC, data: "", needs: None },
    Mount { target: "/dev", kind: "devtmpfs", flags: MsFlags::MS_NOSUID, data: "mode=0755", needs: None },
    Mount {
        target: "/dev/pts",
        kind: "devpts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: "mode=0620,gid=5",
        needs: None,
    },
    // Executable: the agent's own binary is handed over through /run/cairn/agent.
    Mount {
        target: "/run",
        kind: "tmpfs",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        data: "mode=0755,size=25%",
        needs: None,
    },
    Mount {
        target: "/sys/firmware/efi/efivars",
        kind: "efivarfs",
        flags: NO_EXEC,
        data: "",
        needs: Some("/sys/firmware/efi/efivars"),
    },
];

/// Mounts what is not mounted yet and returns one line for each that could not be.
pub fn mount_all() -> Vec<String> {
    let mut troubles = Vec::new();
    for m in &MOUNTS {
        if m.needs.is_some_and(|path| !Path::new(path).exists()) || is_mounted(m.target) {
            continue;
        }
        if m.needs.is_none() {
            let _ = fs::create_dir_all(m.target);
        }
        if let Err(error) = mount(Some(m.kind), m.target, Some(m.kind), m.flags, Some(m.data)) {
            troubles.push(format!("{} could not be mounted on {}: {error}", m.kind, m.target));
        }
    }
    for dir in ["/run/cairn", "/run/cairn/crashes", "/tmp"] {
        if let Err(error) = fs::create_dir_all(dir) {
            troubles.push(format!("{dir} could not be made: {error}"));
        }
    }
    troubles
}

/// Whether something is mounted on `target`, from the kernel's own table; false before /proc is there.
fn is_mounted(target: &str) -> bool {
    fs::read_to_string("/proc/self/mounts")
        .is_ok_and(|table| targets(&table).any(|mounted| mounted == target))
}

/// The mount points of a table like `/proc/self/mounts`, in order.
pub fn targets(table: &str) -> impl DoubleEndedIterator<Item = &str> {
    table.lines().filter_map(|line| line.split(' ').nth(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_the_kernels_table() {
        let table = "none / rootfs rw 0 0\nproc /proc proc rw,nosuid 0 0\n\nodd\n/dev/vda2 /run/cairn/state ext4 rw 0 0\n";
        assert_eq!(targets(table).collect::<Vec<_>>(), ["/", "/proc", "/run/cairn/state"]);
    }
}
