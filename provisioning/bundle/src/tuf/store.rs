//! Where trusted metadata is kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::durable::{self, FileError};

/// Keeps trusted metadata under names such as `root.json`, `root_history/3.root.json`, `os.json`: plain file names, with
/// at most one `/`.
pub trait MetadataStore {
    /// A file of at most `limit` bytes. `None` when it is not there, or longer: longer is not what was stored.
    ///
    /// # Errors
    /// [`FileError`] when the disk cannot be read.
    fn load(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError>;
    /// Replaces a file so that a power cut leaves the old or the new one.
    ///
    /// # Errors
    /// [`FileError`].
    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError>;
    /// Removes a file that may be missing.
    ///
    /// # Errors
    /// [`FileError`].
    fn remove(&mut self, name: &str) -> Result<(), FileError>;
}

/// A directory.
#[derive(Debug, Clone)]
pub struct DirStore(PathBuf);

impl DirStore {
    /// Opens, or makes, the directory.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        std::fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
        Ok(Self(dir.to_owned()))
    }
}

impl MetadataStore for DirStore {
    fn load(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        match durable::read(&self.0.join(name), limit) {
            Err(error) if error.source.kind() == std::io::ErrorKind::FileTooLarge => Ok(None),
            other => other,
        }
    }

    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.0.join(name);
        if let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) {
            std::fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
            durable::sync_parent(dir)?;
        }
        durable::write(&path, bytes)
    }

    fn remove(&mut self, name: &str) -> Result<(), FileError> {
        durable::remove(&self.0.join(name))
    }
}

/// Memory: for tests, benches and programs that keep nothing.
#[derive(Clone, Default)]
pub struct MemoryStore(pub BTreeMap<String, Vec<u8>>);

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl MetadataStore for MemoryStore {
    fn load(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.0.get(name).filter(|bytes| bytes.len() as u64 <= limit).cloned())
    }

    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.0.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), FileError> {
        self.0.remove(name);
        Ok(())
    }
}
