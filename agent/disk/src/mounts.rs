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

/// Where the block device `node` is mounted, if it is: the first place that shows all of it.
pub fn mounted_at(node: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let metadata = fs::metadata(node).ok().filter(|metadata| metadata.file_type().is_block_device())?;
    let device = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
    mount_point(&fs::read_to_string("/proc/thread-self/mountinfo").ok()?, device)
}

/// The mount point of a device in a mount table (proc_pid_mountinfo(5)).
fn mount_point(table: &str, (major, minor): (u64, u64)) -> Option<PathBuf> {
    let device = format!("{major}:{minor}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(2) == Some(&device.as_str()) && fields.get(3) == Some(&"/"))
            .then(|| PathBuf::from(unescape(fields.get(4).copied().unwrap_or_default())))
    })
}

/// Undoes the table's octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// Bytes free for us on the file system at `path`.
///
/// # Errors
/// [`DiskError::File`].
pub fn free_bytes(path: &Path) -> Result<u64> {
    let info = nix::sys::statvfs::statvfs(path).map_err(DiskError::nix("read the free space of", path))?;
    Ok(info.blocks_available().saturating_mul(info.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_in_the_mount_table() {
        let table = "22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n\
                     30 22 254:3 /sub /mnt/part rw - ext4 /dev/vda3 rw\n\
                     31 22 254:3 / /run/cairn/my\\040state rw - ext4 /dev/vda3 rw\n";
        assert_eq!(mount_point(table, (254, 3)), Some(PathBuf::from("/run/cairn/my state")));
        assert_eq!(mount_point(table, (254, 1)), Some(PathBuf::from("/")));
        assert_eq!(mount_point(table, (254, 9)), None);
        assert_eq!(mount_point("", (0, 0)), None);
    }
}
