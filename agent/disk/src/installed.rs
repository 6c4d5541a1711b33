//! Disks that carry an installation already.

use std::path::Path;

use nix::mount::MsFlags;

use crate::discover::Found;
use crate::error::{DiskError, Result};
use crate::layout::Part;
use crate::mounts::{PLAIN, attach, detach, mounted_at};
use crate::record::{self, InstallRecord};
use crate::{parts, system};

/// The finished installation among `found`; `None` when there is none.
///
/// # Errors
/// [`DiskError::Unexpected`] when there are two: which is this node's is a person's to say.
pub fn find(found: &[Found]) -> Result<Option<&Found>> {
    let mut finished = found.iter().filter(|found| found.finished);
    match (finished.next(), finished.next()) {
        (Some(one), Some(other)) => Err(DiskError::Unexpected {
            path: one.node.clone(),
            why: format!(
                "disk {} carries a finished installation too; take one of the two out",
                other.disk.name
            ),
        }),
        (first, _) => Ok(first),
    }
}

/// The record on a disk's STATE: where that is mounted, or mounted below `scratch` for a moment, read-only and the journal
/// not replayed, so that nothing on the disk changes.
///
/// # Errors
/// [`DiskError`] when it cannot be mounted or has no record.
pub fn peek(found: &Found, scratch: &Path) -> Result<InstallRecord> {
    let layout = system::layout_of(found)?;
    let part = parts::open(&found.node, Part::State, layout.span(Part::State), true)?;
    let missing = || DiskError::Unexpected {
        path: part.path().to_owned(),
        why: format!("it has no {}", record::FILE_NAME),
    };
    if let Some(at) = mounted_at(part.path()) {
        return record::read(&at)?.ok_or_else(missing);
    }
    let at = scratch.join(format!("peek-{}", found.disk.name));
    attach(part.path(), &at, "ext4", PLAIN | MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC, "noload")?;
    let record = record::read(&at);
    detach(&at)?;
    // The directory is scratch; leaving it is no harm.
    let _ = std::fs::remove_dir(&at);
    record?.ok_or_else(missing)
}
