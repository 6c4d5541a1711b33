//! Mounting and unmounting, with the options that each kind of file system gets here.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{DiskError, Result};

/// Where the partitions of the system disk are mounted.
#[derive(Debug, Clone)]
pub struct Mounts {
    /// STATE.
    pub state: PathBuf,
    /// DATA.
    pub data: PathBuf,
    /// The ESP.
    pub esp: PathBuf,
}

impl Mounts {
    /// `state`, `data` and `esp` below `run`, such as `/run/cairn`.
    pub fn below(run: &Path) -> Self {
        Self { state: run.join("state"), data: run.join("data"), esp: run.join("esp") }
    }
}

/// No devices, no set-uid programs: nothing of ours puts any there.
pub(crate) const PLAIN: MsFlags = MsFlags::MS_NODEV.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NOATIME);

/// Mounts `source` at `target` (made if missing).
pub(crate) fn attach(source: &Path, target: &Path, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    fs::create_dir_all(target).map_err(DiskError::io("make the mount point", target))?;
    mount(Some(source), target, Some(kind), flags, Some(options)).map_err(DiskError::nix("mount", target))
}

/// Shows `source` at `target` as well.
pub(crate) fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(DiskError::nix("bind", target))
}

/// Moves a mount.
pub(crate) fn shift(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(DiskError::nix("move the mount to", target))
}

/// Unmounts `target`; what is not mounted is fine.
///
/// # Errors
/// [`DiskError::File`], `EBUSY` while it is in use.
pub fn detach(target: &Path) -> Result<()> {
    match umount2(target, MntFlags::empty()) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(DiskError::nix("unmount", target)(error)),
    }
}

/// Whether something is mounted at exactly `target`.
pub fn is_mount_point(target: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(own), Some(Ok(parent))) = (fs::symlink_metadata(target), target.parent().map(fs::metadata))
    else {
        return false;
    };
    own.dev() != parent.dev() || own.ino() == parent.ino()
}

/// Bytes free for us on the file system at `path`.
///
/// # Errors
/// [`DiskError::File`].
pub fn free_bytes(path: &Path) -> Result<u64> {
    let info = nix::sys::statvfs::statvfs(path).map_err(DiskError::nix("read the free space of", path))?;
    Ok(info.blocks_available().saturating_mul(info.fragment_size()))
}
