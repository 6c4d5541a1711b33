//! loop + dm-verity + erofs, and loop + erofs where the kernel is the host's.

use std::fs::File;
use std::path::{Path, PathBuf};

use cairn_bundle::verity::BLOCK_BYTES;
use cairn_sys::dm::{Control, Target};
use cairn_sys::loops::{self, LoopDevice};
use nix::mount::MsFlags;

use super::{Depth, Layer, LayerError, check};
use crate::error::DiskError;
use crate::mounts;

/// An attached layer. Nothing is undone when it is dropped: a root stands on it.
#[derive(Debug)]
pub struct Attached {
    /// Where it is mounted, read-only.
    pub at: PathBuf,
    /// The name of its device-mapper device.
    pub device: String,
}

/// The table of a verity device over `data` and `tree` (Documentation/admin-guide/device-mapper/verity.rst): version 1,
/// blocks of 4096, no superblock, corruption answered with EIO (the default).
pub(super) fn table(layer: &Layer, data: &Path, tree: &Path) -> Target {
    let salt: String = layer.salt.iter().map(|byte| format!("{byte:02x}")).collect();
    let salt = if salt.is_empty() { "-" } else { &salt };
    Target {
        start: 0,
        sectors: layer.data_blocks * (BLOCK_BYTES as u64 / 512),
        kind: "verity",
        parameters: format!(
            "1 {} {} {BLOCK_BYTES} {BLOCK_BYTES} {} 0 sha256 {} {salt}",
            data.display(),
            tree.display(),
            layer.data_blocks,
            layer.root_hash
        ),
    }
}

fn attach_loop(file: &Path) -> Result<LoopDevice, DiskError> {
    let opened = File::open(file).map_err(DiskError::io("open", file))?;
    // Direct: what is read is cached above verity, checked; a second copy below it would only take memory.
    let options = loops::Options {
        read_only: true,
        block_size: BLOCK_BYTES as u32,
        direct_io: true,
        ..loops::Options::default()
    };
    Ok(loops::attach(&opened, file, &options)?)
}

/// Checks a layer quickly and mounts it read-only at `at` (made if missing), every read checked by the kernel from now on.
/// A layer that is mounted there already is left.
///
/// # Errors
/// [`LayerError::Corrupt`] before anything is attached, or when the kernel cannot read what it needs to mount;
/// [`LayerError::Io`] for all else (are the modules loop, dm-mod, dm-verity and erofs loaded?).
pub fn attach(layer: &Layer, at: &Path) -> Result<Attached, LayerError> {
    let io = |source: DiskError| LayerError::Io { layer: layer.name.clone(), source };
    // One root hash, one device: two generations with the same layer share it.
    let mut device = format!("cairn-{}-{}", layer.name, layer.root_hash);
    device.truncate(cairn_sys::dm::NAME_BYTES);
    if mounts::is_mount_point(at) {
        return Ok(Attached { at: at.to_owned(), device });
    }
    check(layer, Depth::Quick)?;
    let (data, tree) = (attach_loop(&layer.file).map_err(io)?, attach_loop(&layer.tree).map_err(io)?);
    let control = Control::open().map_err(|e| io(e.into()))?;
    // A worker that died between the two steps left it behind. In use, it stays, and the next step says so.
    let _ = control.remove_unused(&device);
    let created =
        control.create(&device, &[table(layer, data.path(), tree.path())]).map_err(|e| io(e.into()))?;
    // From here on the device holds both loop devices.
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    match mounts::attach(&created.path, at, "erofs", flags, "") {
        Ok(()) => Ok(Attached { at: at.to_owned(), device }),
        Err(error) => {
            // The mount's error is the one worth telling.
            let _ = control.remove(&device);
            Err(match &error {
                DiskError::File(file) if is_corruption(&file.source) => {
                    layer.corrupt(format!("it cannot be mounted: {}", file.source))
                }
                _ => io(error),
            })
        }
    }
}

/// Checks every block of a layer and mounts it read-only at `at` (made if missing) without dm-verity, for a container whose
/// host may have no device-mapper: what changes on the disk afterwards is not noticed before the next boot.
/// A layer that is mounted there already is left.
///
/// # Errors
/// As [`attach`].
pub fn attach_plain(layer: &Layer, at: &Path) -> Result<(), LayerError> {
    let io = |source: DiskError| LayerError::Io { layer: layer.name.clone(), source };
    if mounts::is_mount_point(at) {
        return Ok(());
    }
    check(layer, Depth::Full)?;
    let data = attach_loop(&layer.file).map_err(io)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mounts::attach(data.path(), at, "erofs", flags, "").map_err(io)
}

/// What mounting a damaged image answers: EIO from verity, EUCLEAN (117) or EINVAL from erofs.
fn is_corruption(error: &std::io::Error) -> bool {
    const EUCLEAN: i32 = nix::errno::Errno::EUCLEAN as i32;
    const EIO: i32 = nix::errno::Errno::EIO as i32;
    matches!(error.raw_os_error(), Some(EIO | EUCLEAN))
}

impl Attached {
    /// Unmounts it and removes its device.
    ///
    /// # Errors
    /// [`DiskError`] while something uses it.
    pub fn detach(self) -> Result<(), DiskError> {
        mounts::detach(&self.at)?;
        Ok(Control::open()?.remove(&self.device)?)
    }
}
