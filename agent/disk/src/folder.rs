//! A folder that stands for a system disk, where a node is a container: STATE and DATA are folders in it; it has no
//! partitions, no ESP and no boot loader.
//!
//! What decides (the plan's selector, foreign data, a finished or begun installation) is the same as on a disk.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cairn_bundle::durable;
use cairn_protocol::inventory::{Disk, DiskContent};
use cairn_protocol::limits::clean_text;
use nix::mount::{MsFlags, mount};

use crate::discover::Found;
use crate::error::{DiskError, Result};
use crate::mounts::{Mounts, PLAIN, bind, is_mount_point};
use crate::record;

/// STATE's folder.
const STATE: &str = "state";
/// DATA's folder.
const DATA: &str = "data";

/// The disk that the folder `path` stands for, described by `disk`, and what is in it.
pub fn found(path: &Path, disk: Disk) -> Found {
    let (content, finished) = look(path);
    let disk = Disk { content, ..disk };
    Found { disk, node: path.to_owned(), boot_medium: false, layout: None, finished }
}

/// Whether a disk's node is a folder.
pub(crate) fn is_one(node: &Path) -> bool {
    node.is_dir()
}

fn look(path: &Path) -> (DiskContent, bool) {
    let Ok(entries) = fs::read_dir(path) else { return (DiskContent::Unknown, false) };
    let mut begun = false;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name != STATE && name != DATA {
            let what = clean_text(&format!("a file {}", name.to_string_lossy()));
            return (DiskContent::Foreign { what }, false);
        }
        begun = true;
    }
    match record::read(&path.join(STATE)) {
        Ok(Some(record)) => {
            (DiskContent::Cairn { site: record.site.to_string(), node: record.node.to_string() }, true)
        }
        Ok(None) if begun => (DiskContent::Cairn { site: String::new(), node: String::new() }, false),
        Ok(None) => (DiskContent::Empty, false),
        Err(error) => {
            let what = clean_text(&format!("a Cairn installation that cannot be read ({error})"));
            (DiskContent::Foreign { what }, false)
        }
    }
}

/// Empties the folder and makes STATE and DATA in it. The record goes first: a folder without one is not finished.
pub(crate) fn make(path: &Path) -> Result<()> {
    let record = path.join(STATE).join(record::FILE_NAME);
    if record.exists() {
        durable::remove(&record)?;
    }
    for entry in fs::read_dir(path).map_err(DiskError::io("list", path))?.flatten() {
        let old = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&old) } else { fs::remove_file(&old) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(DiskError::io("remove", &old)(error));
            }
            _ => {}
        }
    }
    for name in [STATE, DATA] {
        let dir = path.join(name);
        fs::create_dir(&dir).map_err(DiskError::io("make the directory", &dir))?;
    }
    Ok(())
}

/// Shows STATE and DATA where a disk's would be mounted, with the same options. What is mounted already stays.
pub(crate) fn mount_both(path: &Path, mounts: &Mounts) -> Result<()> {
    for (name, at, flags, mode) in
        [(STATE, &mounts.state, PLAIN | MsFlags::MS_NOEXEC, 0o700), (DATA, &mounts.data, PLAIN, 0o755)]
    {
        if is_mount_point(at) {
            continue;
        }
        fs::create_dir_all(at).map_err(DiskError::io("make the mount point", at))?;
        bind(&path.join(name), at)?;
        // The bind mount alone: without MS_BIND it would be the host's file system that changes.
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags;
        mount(None::<&str>, at, None::<&str>, flags, None::<&str>).map_err(DiskError::nix("mount", at))?;
        fs::set_permissions(at, Permissions::from_mode(mode)).map_err(DiskError::io("protect", at))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::Name;
    use cairn_protocol::plan::Disks;

    use super::*;
    use crate::record::InstallRecord;

    fn content(path: &Path) -> (DiskContent, bool) {
        let found = found(path, Disk::default());
        (found.disk.content, found.finished)
    }

    #[test]
    fn a_folder_is_empty_begun_finished_or_foreign() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let cairn = |site: &str, node: &str| DiskContent::Cairn { site: site.into(), node: node.into() };
        assert_eq!(content(&path.join("none")), (DiskContent::Unknown, false));
        assert_eq!(content(path), (DiskContent::Empty, false));
        make(path).unwrap();
        assert_eq!(content(path), (cairn("", ""), false));
        let name = |text: &str| Name::new(text).unwrap();
        let plan = Disks { system: cairn_protocol::plan::SystemDisk::default() };
        let record = InstallRecord { version: 1, site: name("s"), node: name("n"), reinstall: 0, plan };
        record::write(&path.join(STATE), &record).unwrap();
        fs::write(path.join(DATA).join("layer"), b"x").unwrap();
        assert_eq!(content(path), (cairn("s", "n"), true));
        fs::write(path.join("theirs"), b"x").unwrap();
        assert!(matches!(content(path), (DiskContent::Foreign { what }, false) if what.contains("theirs")));
        make(path).unwrap();
        assert_eq!(content(path), (cairn("", ""), false));
        assert!(!path.join(DATA).join("layer").exists() && !path.join("theirs").exists());
        fs::write(path.join(STATE).join(record::FILE_NAME), b"{").unwrap();
        assert!(matches!(content(path), (DiskContent::Foreign { .. }, false)));
    }
}
