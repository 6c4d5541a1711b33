//! switch_root: the last thing that the initramfs does.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use super::NewRoot;
use crate::error::{DiskError, Result};
use crate::mounts::shift;

/// Mounts that go along, with all that is mounted below them.
const CARRIED: &[&str] = &["dev", "proc", "sys", "run"];

/// `RAMFS_MAGIC` of include/uapi/linux/magic.h: what an initramfs lies on where there is no tmpfs.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Becomes `init` (an absolute path inside the new root) with `arguments`: moves /dev, /proc, /sys and /run into `root`,
/// frees the initramfs' memory, makes `root` the root and executes. For PID 1 of an initramfs alone, with every other
/// process gone or ready to lose its root. `last` is done inside the new root, before it executes.
///
/// # Errors
/// [`DiskError`]. Up to the moment of the move nothing has changed; after it there is no way back but a reboot.
pub fn switch(
    root: &NewRoot,
    init: &Path,
    arguments: &[&str],
    last: impl FnOnce() -> std::io::Result<()>,
) -> Result<Infallible> {
    let path = &root.path;
    let inside = path.join(init.strip_prefix("/").unwrap_or(init));
    // A link may be absolute and lead astray from here; that it is there is enough to know.
    fs::symlink_metadata(&inside).map_err(DiskError::io("find the init", &inside))?;
    let old = fs::metadata("/").map_err(DiskError::io("read", "/"))?.dev();
    for name in CARRIED {
        shift(&Path::new("/").join(name), &path.join(name))?;
    }
    std::env::set_current_dir(path).map_err(DiskError::io("enter", path))?;
    if is_memory(Path::new("/")) {
        // What stays behind would be memory that nobody can reach or free. Failing to free it is no reason to stop.
        empty(Path::new("/"), old);
    }
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(DiskError::nix("move to /", path))?;
    nix::unistd::chroot(".").map_err(DiskError::nix("make the root of", path))?;
    std::env::set_current_dir("/").map_err(DiskError::io("enter", "/"))?;
    last().map_err(DiskError::io("prepare", path))?;
    Err(DiskError::io("run", init)(Command::new(init).args(arguments).exec()))
}

fn is_memory(path: &Path) -> bool {
    statfs(path).is_ok_and(|info| [TMPFS_MAGIC, FsType(RAMFS_MAGIC)].contains(&info.filesystem_type()))
}

/// Removes everything in `dir` that lies on device `device`; other file systems are mounts, and stay.
fn empty(dir: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.dev() != device => {}
            Ok(metadata) if metadata.is_dir() => {
                empty(&path, device);
                let _ = fs::remove_dir(&path);
            }
            _ => {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptying_stays_on_its_device() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/c"), b"").unwrap();
        let device = fs::metadata(dir.path()).unwrap().dev();
        empty(dir.path(), device + 1);
        assert!(dir.path().join("a/b/c").exists());
        empty(dir.path(), device);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
