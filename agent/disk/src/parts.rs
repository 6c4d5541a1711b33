//! A partition as a block device: the kernel's own node, or a loop device over the part of a file.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_sys::loops::{self, LoopDevice};

use crate::error::{DiskError, Result};
use crate::layout::{Part, Span};

/// How long a partition's node is waited for before a loop device takes its place. The kernel makes it while it reads the
/// table, within milliseconds.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile.
const NODE_POLL: Duration = Duration::from_millis(20);

/// A partition that can be mounted. Keep it until it is: the loop device lives as long as its last user.
#[derive(Debug)]
pub struct PartNode {
    path: PathBuf,
    _device: Option<LoopDevice>,
}

impl PartNode {
    /// The block device's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// `/dev/sda` and 3: `/dev/sda3`; `/dev/nvme0n1` and 3: `/dev/nvme0n1p3`.
fn node_path(disk: &Path, part: Part) -> PathBuf {
    let mut path = disk.as_os_str().to_owned();
    if path.as_encoded_bytes().last().is_some_and(u8::is_ascii_digit) {
        path.push("p");
    }
    path.push((part as u32).to_string());
    path.into()
}

/// Whether the kernel makes partitions of this disk: not of a plain file, and of a loop device only when it was asked to.
fn has_kernel_partitions(disk: &Path) -> bool {
    let is_block = fs::metadata(disk).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let is_loop = disk.file_name().is_some_and(|name| name.to_string_lossy().starts_with("loop"));
    is_block && !is_loop
}

/// Partition `part` of `disk`, which lies at `span`: the kernel's node where it shows one of that size, else a loop device
/// over that part of the disk. The kernel shows none of a plain file, nor of a disk whose first table is damaged.
///
/// # Errors
/// A loop device's [`DiskError::Sys`].
pub fn open(disk: &Path, part: Part, span: Span, read_only: bool) -> Result<PartNode> {
    let path = node_path(disk, part);
    let start = Instant::now();
    while has_kernel_partitions(disk) && start.elapsed() < NODE_TIMEOUT {
        let size = File::open(&path).ok().and_then(|file| cairn_sys::block::size(&file, &path).ok());
        if size == Some(span.length) {
            return Ok(PartNode { path, _device: None });
        }
        std::thread::sleep(NODE_POLL);
    }
    let file =
        OpenOptions::new().read(true).write(!read_only).open(disk).map_err(DiskError::io("open", disk))?;
    let options =
        loops::Options { read_only, offset: span.start, length: span.length, ..loops::Options::default() };
    let device = loops::attach(&file, disk, &options)?;
    Ok(PartNode { path: device.path().to_owned(), _device: Some(device) })
}

/// Opens a whole disk for writing. A block device is claimed: the kernel refuses while any part of it is mounted.
///
/// # Errors
/// [`DiskError::File`]; `EBUSY` when it is in use.
pub fn open_disk(disk: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if fs::metadata(disk).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        options.custom_flags(nix::fcntl::OFlag::O_EXCL.bits());
    }
    options.open(disk).map_err(DiskError::io("open for writing", disk))
}

/// Makes the kernel read a new partition table, where it reads tables of this disk at all.
///
/// # Errors
/// [`DiskError::Sys`], `EBUSY` when a partition is in use.
pub fn reread(disk: &Path, file: &File) -> Result<()> {
    if has_kernel_partitions(disk) {
        cairn_sys::block::reread_partitions(file, disk)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_as_the_kernel_names_them() {
        for (disk, node) in [
            ("/dev/sda", "/dev/sda3"),
            ("/dev/nvme0n1", "/dev/nvme0n1p3"),
            ("/dev/mmcblk0", "/dev/mmcblk0p3"),
        ] {
            assert_eq!(node_path(Path::new(disk), Part::State), Path::new(node));
        }
    }
}
