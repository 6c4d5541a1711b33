//! Reboot and power off, in an orderly way.

use std::fs;
use std::time::Duration;

use cairn_protocol::stage::Stage;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, sync};

use super::mounts::targets;
use crate::console::Console;
use crate::container;

/// How long the remaining processes have after SIGTERM. mke2fs and e2fsck stop cleanly within a second.
const GRACE: Duration = Duration::from_secs(3);

/// Ends all processes, writes everything out, unmounts, and reboots. Returns only when the kernel refuses.
pub(super) fn reboot(next: cairn_sys::power::Next, console: &Console, stage: Stage) {
    let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
    let rounds = 30;
    for _ in 0..rounds {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status.pid().is_some()) {}
        if waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(nix::errno::Errno::ECHILD) {
            break;
        }
        std::thread::sleep(GRACE / rounds);
    }
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    sync();
    unmount_disks();
    sync();
    let Err(error) = cairn_sys::power::now(next);
    console.note(stage, error.to_string());
}

/// Unmounts what lies below /run/cairn, innermost first; what is busy is made read-only so that its journal is closed.
fn unmount_disks() {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in targets(&table).rev().filter(|target| target.starts_with("/run/cairn/")) {
        // In a container these are bind mounts of the host's file systems, which stay as they are.
        if umount2(target, MntFlags::empty()).is_err() && !container::is_one() {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let _ = mount(None::<&str>, target, None::<&str>, flags, None::<&str>);
        }
    }
}
