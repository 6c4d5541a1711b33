//! The two ways out of the initramfs: reboot, and the switch to the installed root.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cairn_protocol::stage::Stage;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, chdir, chroot, sync};

use super::mounts::targets;
use crate::console::Console;

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
        if umount2(target, MntFlags::empty()).is_err() {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let _ = mount(None::<&str>, target, None::<&str>, flags, None::<&str>);
        }
    }
}

/// Why the root was not switched.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub(super) struct SwitchError {
    doing: String,
    source: std::io::Error,
    /// Whether mounts were moved already.
    pub(super) half_done: bool,
}

/// Makes `root` the root and becomes `init`. Returns only when something failed.
pub(super) fn switch_root(root: &str, init: &str) -> SwitchError {
    match try_switch(root, init) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_switch(root: &str, init: &str) -> Result<std::convert::Infallible, SwitchError> {
    let root = Path::new(root);
    let early = |doing: &str| {
        let doing = doing.to_owned();
        move |source: std::io::Error| SwitchError { doing, source, half_done: false }
    };
    let late = |doing: String| move |source: std::io::Error| SwitchError { doing, source, half_done: true };
    let old = fs::metadata("/").map_err(early("look at /"))?;
    let new = fs::metadata(root).map_err(early("look at the new root"))?;
    if old.dev() == new.dev() {
        let source = std::io::Error::other(format!("{} is not a mount", root.display()));
        return Err(early("look at the new root")(source));
    }
    fs::metadata(root.join(init.trim_start_matches('/'))).map_err(early("find init in the new root"))?;
    // Inner mounts of /run (STATE, DATA, ESP) and /sys (efivarfs) move along with the outer ones.
    for dir in ["dev", "proc", "sys", "run"] {
        let (from, to) = (Path::new("/").join(dir), root.join(dir));
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|e| late(format!("move /{dir} to the new root"))(e.into()))?;
    }
    chdir(root).map_err(|e| late("enter the new root".to_owned())(e.into()))?;
    free_initramfs(old.dev());
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|e| late("move the new root to /".to_owned())(e.into()))?;
    chroot(".").map_err(|e| late("chroot".to_owned())(e.into()))?;
    chdir("/").map_err(|e| late("chdir".to_owned())(e.into()))?;
    // systemd reads an inherited environment; it gets none of ours.
    let error = Command::new(init).arg0(init).env_clear().exec();
    Err(late(format!("start {init}"))(error))
}

/// Deletes the initramfs' files to give their memory back: only what lies on the root's own device, and only where
/// that is a RAM file system, so that no disk is ever emptied.
fn free_initramfs(device: u64) {
    let kind = nix::sys::statfs::statfs("/").map(|stat| stat.filesystem_type());
    let ram = [nix::sys::statfs::TMPFS_MAGIC, nix::sys::statfs::FsType(0x8584_58f6_u32 as _)];
    if kind.is_ok_and(|kind| ram.contains(&kind)) {
        delete_below(Path::new("/"), device, 0);
    }
}

fn delete_below(dir: &Path, device: u64, depth: u32) {
    // Deeper than any initramfs; a bound on recursion in PID 1.
    if depth > 32 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(data) = path.symlink_metadata() else { continue };
        if data.dev() != device || path.file_name() == Some(OsStr::new("..")) {
            continue;
        }
        if data.is_dir() {
            delete_below(&path, device, depth + 1);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}
