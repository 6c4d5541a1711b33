//! Copying what a layer's `/var` has and the disk lacks, once, never over anything.
//!
//! Missing pieces are copied into a staging directory of the same file system, all of it is synced, then each is renamed
//! into place: a power cut at any moment leaves in place only what is whole, and the next boot goes on.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cairn_bundle::durable;
use nix::sys::stat::Mode;

use crate::error::{DiskError, Result};

/// Levels of directories that are followed; what is deeper is no `/var` of a layer.
const MAX_DEPTH: usize = 64;

/// Copies into `target` what `source` has and `target` lacks, by way of `staging` (made, and removed again), which lies on
/// `target`'s file system. Owners, modes, times, symbolic links and extended attributes are kept; sockets and devices
/// are left out. Answers the top-most paths that were added, relative to `target`.
///
/// # Errors
/// [`DiskError::File`]; calling again goes on.
pub fn copy_missing(source: &Path, target: &Path, staging: &Path) -> Result<Vec<PathBuf>> {
    remove_tree(staging)?;
    if !target.exists() {
        // The target itself is what is missing.
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(DiskError::io("make the directory", parent))?;
        copy(source, staging, 0)?;
        sync_file_system(staging)?;
        fs::rename(staging, target).map_err(DiskError::io("rename", staging))?;
        durable::sync_parent(target)?;
        return Ok(vec![PathBuf::new()]);
    }
    let mut missing = Vec::new();
    find_missing(source, target, Path::new(""), 0, &mut missing)?;
    if missing.is_empty() {
        return Ok(missing);
    }
    fs::create_dir(staging).map_err(DiskError::io("make the directory", staging))?;
    let staged = |n: usize| staging.join(n.to_string());
    for (n, path) in missing.iter().enumerate() {
        copy(&source.join(path), &staged(n), path.components().count())?;
    }
    sync_file_system(staging)?;
    for (n, path) in missing.iter().enumerate() {
        // What turned up in between stays: this is the only writer before systemd starts.
        let to = target.join(path);
        if fs::symlink_metadata(&to).is_err() && fs::symlink_metadata(staged(n)).is_ok() {
            fs::rename(staged(n), &to).map_err(DiskError::io("rename into place", &to))?;
        }
    }
    sync_file_system(target)?;
    remove_tree(staging)?;
    Ok(missing)
}

fn remove_tree(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.map_err(DiskError::io("remove", path))
}

pub(super) fn sync_file_system(path: &Path) -> Result<()> {
    let dir = File::open(path).map_err(DiskError::io("open", path))?;
    nix::unistd::syncfs(&dir).map_err(DiskError::nix("sync the file system of", path))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || {
        fs::read_dir(dir)?.map(|entry| Ok(PathBuf::from(entry?.file_name()))).collect::<io::Result<Vec<_>>>()
    };
    let mut names = list().map_err(DiskError::io("list", dir))?;
    names.sort();
    Ok(names)
}

fn too_deep(path: &Path) -> DiskError {
    let why = format!("its directories are more than {MAX_DEPTH} deep");
    DiskError::Unexpected { path: path.to_owned(), why }
}

fn find_missing(
    source: &Path,
    target: &Path,
    at: &Path,
    depth: usize,
    missing: &mut Vec<PathBuf>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(too_deep(&source.join(at)));
    }
    for name in entries(&source.join(at))? {
        let path = at.join(name);
        let from = source.join(&path);
        let own = fs::symlink_metadata(&from).map_err(DiskError::io("read", &from))?;
        match fs::symlink_metadata(target.join(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(path),
            Err(error) => return Err(DiskError::io("read", target.join(&path))(error)),
            // A directory on both sides may lack something inside. Anything else that is there stays as it is.
            Ok(there) if own.is_dir() && there.is_dir() => {
                find_missing(source, target, &path, depth + 1, missing)?
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Copies one file, link or directory with all below it.
fn copy(from: &Path, to: &Path, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(too_deep(from));
    }
    let metadata = fs::symlink_metadata(from).map_err(DiskError::io("read", from))?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(DiskError::io("read", from))?;
        std::os::unix::fs::symlink(target, to).map_err(DiskError::io("make the link", to))?;
    } else if kind.is_dir() {
        fs::create_dir(to).map_err(DiskError::io("make the directory", to))?;
        for name in entries(from)? {
            copy(&from.join(&name), &to.join(&name), depth + 1)?;
        }
    } else if kind.is_file() {
        let mut source = File::open(from).map_err(DiskError::io("open", from))?;
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(to).map_err(DiskError::io("create", to))?;
        io::copy(&mut source, &mut file).map_err(DiskError::io("copy to", to))?;
    } else if kind.is_fifo() {
        nix::unistd::mkfifo(to, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(DiskError::nix("make the pipe", to))?;
    } else {
        // Sockets and devices belong to a running system.
        return Ok(());
    }
    dress(from, to, &metadata)
}

/// Owner first: changing it takes set-uid bits and capabilities away.
fn dress(from: &Path, to: &Path, metadata: &fs::Metadata) -> Result<()> {
    std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(DiskError::io("own", to))?;
    for (name, value) in cairn_sys::xattr::list(from)? {
        cairn_sys::xattr::set(to, &name, &value)?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    fs::set_permissions(to, Permissions::from_mode(metadata.mode() & 0o7777))
        .map_err(DiskError::io("set the mode of", to))?;
    if metadata.is_file() || metadata.is_dir() {
        let modified = metadata.modified().map_err(DiskError::io("read", from))?;
        let times = FileTimes::new().set_modified(modified).set_accessed(modified);
        File::open(to)
            .and_then(|file| file.set_times(times))
            .map_err(DiskError::io("set the time of", to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Room(tempfile::TempDir);

    impl Room {
        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn copy(&self) -> Vec<String> {
            let added = copy_missing(&self.path("from"), &self.path("to"), &self.path("staging")).unwrap();
            assert!(!self.path("staging").exists());
            added.iter().map(|path| path.display().to_string()).collect()
        }
    }

    fn room() -> Room {
        let room = Room(tempfile::tempdir().unwrap());
        for dir in ["from/lib/a", "from/empty"] {
            fs::create_dir_all(room.path(dir)).unwrap();
        }
        fs::write(room.path("from/lib/a/file"), b"layer").unwrap();
        fs::set_permissions(room.path("from/lib/a/file"), Permissions::from_mode(0o4750)).unwrap();
        fs::set_permissions(room.path("from/empty"), Permissions::from_mode(0o1777)).unwrap();
        symlink("../../usr/lib/x", room.path("from/lib/link")).unwrap();
        room
    }

    #[test]
    fn everything_comes_along_the_first_time_and_nothing_the_second() {
        let room = room();
        assert_eq!(room.copy(), [""]);
        assert_eq!(fs::read(room.path("to/lib/a/file")).unwrap(), b"layer");
        let mode = |path: &str| fs::metadata(room.path(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("to/lib/a/file"), mode("to/empty")), (0o4750, 0o1777));
        assert_eq!(fs::read_link(room.path("to/lib/link")).unwrap(), Path::new("../../usr/lib/x"));
        let time = |path: &str| fs::metadata(room.path(path)).unwrap().modified().unwrap();
        assert_eq!(time("to/lib/a/file"), time("from/lib/a/file"));
        assert!(room.copy().is_empty());
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let room = room();
        fs::create_dir_all(room.path("to/lib/a")).unwrap();
        fs::write(room.path("to/lib/a/file"), b"own").unwrap();
        // A file where the layer has a directory, and a link that leads elsewhere.
        fs::write(room.path("to/empty"), b"own").unwrap();
        fs::write(room.path("from/lib/new"), b"layer").unwrap();
        symlink("nowhere", room.path("to/lib/link")).unwrap();
        assert_eq!(room.copy(), ["lib/new"]);
        assert_eq!(fs::read(room.path("to/lib/a/file")).unwrap(), b"own");
        assert_eq!(fs::read(room.path("to/empty")).unwrap(), b"own");
        assert_eq!(fs::read_link(room.path("to/lib/link")).unwrap(), Path::new("nowhere"));
    }

    #[test]
    fn a_cut_copy_is_started_over() {
        let room = room();
        fs::create_dir_all(room.path("staging/0/half")).unwrap();
        fs::create_dir(room.path("to")).unwrap();
        assert_eq!(room.copy(), ["empty", "lib"]);
        assert_eq!(fs::read(room.path("to/lib/a/file")).unwrap(), b"layer");
    }

    #[test]
    fn attributes_come_along() {
        let room = room();
        let file = room.path("from/lib/a/file");
        if cairn_sys::xattr::set(&file, c"user.cairn", b"1").is_err() {
            eprintln!("not run: this file system has no user attributes");
            return;
        }
        room.copy();
        let copied = cairn_sys::xattr::list(&room.path("to/lib/a/file")).unwrap();
        assert!(copied.contains(&(c"user.cairn".to_owned(), b"1".to_vec())));
    }
}
