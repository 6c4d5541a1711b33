//! The controller's folder: which file is what.
//!
//! Folders are 0700 and keys 0600, whatever the umask. Files get there whole by [`cairn_bundle::durable`].

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use cairn_bundle::durable::FileError;

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

    /// Uploads whose bytes are not whole yet.
    pub fn incoming(&self) -> PathBuf {
        self.repo().join("incoming")
    }

    /// Removes uploads that a killed controller left unfinished; answers how many. For the holder of the folder alone.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn clear_incoming(&self) -> Result<usize, FileError> {
        let dir = self.incoming();
        let mut removed = 0;
        for left in fs::read_dir(&dir).map_err(FileError::at("list", &dir))?.flatten() {
            fs::remove_file(left.path()).map_err(FileError::at("remove", &left.path()))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Makes the folders of the repository where they are missing.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn ensure_repo(&self) -> Result<(), FileError> {
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
/// [`FileError`].
pub fn make_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::at("make the folder", path))
}

/// Reads a small file of ours as text.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::at("read", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn folders_are_private() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::at(tmp.path().join("c"));
        dir.ensure_repo().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(dir.root()), mode(&dir.staging())), (0o700, 0o700));
        let error = read(&dir.file("missing/key")).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
