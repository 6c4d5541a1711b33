//! The controller's folder: which file is what, and how files get there whole.
//!
//! Folders are 0700 and keys 0600, whatever the umask. A file appears under its name only when its bytes are on disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A file or folder could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}")]
pub struct DirError {
    /// What was being done.
    pub doing: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// Names `path` and what was being done to it in an error.
pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirError {
    let path = path.to_owned();
    move |source| DirError { doing, path, source }
}

/// The controller's folder.
#[derive(Debug, Clone)]
pub struct Dir {
    root: PathBuf,
}

impl Dir {
    /// The folder at `root`; nothing is looked at yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.file("controller.db")
    }

    /// The published repository: `metadata`, `targets`, `indexes`, `chunks.castr`.
    pub fn repo(&self) -> PathBuf {
        self.file("repo")
    }

    /// Uploaded release metadata that is not the visible state yet.
    pub fn staging(&self) -> PathBuf {
        self.repo().join("staging")
    }

    /// Makes the folders of the repository where they are missing.
    ///
    /// # Errors
    /// [`DirError`].
    pub fn ensure_repo(&self) -> Result<(), DirError> {
        let repo = self.repo();
        make_dir(&repo)?;
        for part in ["metadata", "targets", "indexes", "chunks.castr", "staging", "incoming"] {
            make_dir(&repo.join(part))?;
        }
        Ok(())
    }
}

/// Makes the folder `path` (0700) unless it is there.
///
/// # Errors
/// [`DirError`].
pub fn make_dir(path: &Path) -> Result<(), DirError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the folder", path))
}

/// Reads a small file of ours as text.
///
/// # Errors
/// [`DirError`].
pub fn read(path: &Path) -> Result<String, DirError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

/// Writes `bytes` to `path` with `mode`: a temporary file, fsync, rename, fsync of the folder.
///
/// # Errors
/// [`DirError`].
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DirError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let tmp = path.with_file_name(format!(".{name}.{}.tmp", crate::random::hex(8)));
    let result = write_new(&tmp, bytes, mode).and_then(|()| rename(&tmp, path));
    if result.is_err() {
        let _ = fs::remove_file(&tmp);
    }
    result
}

/// Writes `bytes` to the new file `path` and syncs it; the folder is the caller's to sync.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DirError> {
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(mode).open(path).map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
}

/// Renames a synced file and syncs its folder.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), DirError> {
    fs::rename(from, to).map_err(failed("rename a file to", to))?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// Makes renames in `path` durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), DirError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("sync the folder", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_whole_and_private() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::at(tmp.path().join("c"));
        make_dir(dir.root()).unwrap();
        let key = dir.file("key");
        write(&key, b"one", 0o600).unwrap();
        write(&key, b"two", 0o600).unwrap();
        assert_eq!(read(&key).unwrap(), "two");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&key), mode(dir.root())), (0o600, 0o700));
        assert_eq!(fs::read_dir(dir.root()).unwrap().count(), 1, "no temporary file is left");
        let error = write(&dir.file("missing/key"), b"", 0o600).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
