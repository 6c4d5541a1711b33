//! Files that survive a power cut: written beside their place, synced, renamed into it, and the directory synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}")]
pub struct FileError {
    /// What was being done, as a verb: `write`, `rename`, `read`.
    pub doing: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: wraps an error of `doing` something to `path`.
    pub fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { doing, path, source }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Replaces `path` with `bytes`: readers see the old file or the new one, also after a power cut.
///
/// # Errors
/// [`FileError`]; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_mode(path, bytes, 0o644)
}

/// [`write()`] with the permissions `mode` from the first byte on: a secret is never readable by others.
///
/// # Errors
/// [`FileError`].
pub fn write_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let tmp = temporary(path);
    let result = write_synced(&tmp, bytes, mode).and_then(|()| rename(&tmp, path));
    if result.is_err() {
        let _ = std::fs::remove_file(&tmp);
    }
    result
}

/// Writes `bytes` to `path` itself and syncs it; the directory is the caller's to sync. For a file whose name means
/// nothing yet.
///
/// # Errors
/// [`FileError`].
pub fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut file = create(path, mode)?;
    file.write_all(bytes).map_err(FileError::at("write", path))?;
    file.sync_all().map_err(FileError::at("sync", path))
}

/// Renames a synced file into place and syncs the directory.
///
/// # Errors
/// [`FileError`].
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(FileError::at("rename", from))?;
    sync_parent(to)
}

/// Syncs the directory that holds `path`, so that a rename or removal in it lasts.
///
/// # Errors
/// [`FileError`].
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(FileError::at("sync", parent))
}

/// Removes a file; a missing one is fine.
///
/// # Errors
/// [`FileError`].
pub fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::at("remove", path)(error)),
    }
}

/// Reads a file of at most `limit` bytes; `None` when there is none.
///
/// # Errors
/// [`FileError`]; a longer file is `FileTooLarge`, and is not read.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::at("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(FileError::at("read", path))?;
    if bytes.len() as u64 > limit {
        let error =
            io::Error::new(io::ErrorKind::FileTooLarge, format!("more than the {limit} bytes allowed"));
        return Err(FileError::at("read", path)(error));
    }
    Ok(Some(bytes))
}

/// A name under which `path` is written: hidden, in the same directory, another one at each call, so that two threads
/// may write the same file.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{call}.tmp", std::process::id()))
}

pub(crate) fn create(path: &Path, mode: u32) -> Result<File, FileError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(FileError::at("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for bytes in [&b"one"[..], b"two and more"] {
            write(&path, bytes).unwrap();
            assert_eq!(read(&path, 100).unwrap().unwrap(), bytes);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn many_may_write_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| write(path, &[n; 5000]).unwrap()));
            }
        });
        let bytes = read(&path, 5000).unwrap().unwrap();
        assert!(bytes.len() == 5000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_over_the_limit_is_not_returned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write(&path, &[0; 11]).unwrap();
        assert!(read(&path, 10).unwrap_err().to_string().contains("10 bytes"));
        assert_eq!(read(&path, 11).unwrap().unwrap().len(), 11);
        assert!(read(&dir.path().join("none"), 1).unwrap().is_none());
    }

    #[test]
    fn a_secret_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_mode(&path, b"k", 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
