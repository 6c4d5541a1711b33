//! Where a run keeps its files: `target/lab/<rack>/`.

use std::io;
use std::path::{Path, PathBuf};

use crate::namespace::SOCKETS;

/// A folder or file of the run could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    /// What was being done.
    pub action: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// For `map_err`.
pub(crate) fn fail<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error { action, path: path.to_owned(), source }
}

/// The folders of one run.
#[derive(Debug, Clone)]
pub struct Dirs {
    root: PathBuf,
}

impl Dirs {
    /// Makes the folders of `rack` below `out`, empty: what the last run of this rack left is removed.
    ///
    /// # Errors
    /// When a folder cannot be made or emptied.
    pub fn create(out: &Path, rack: &str) -> Result<Self, Error> {
        let root = std::path::absolute(out.join(rack)).map_err(fail("find", out))?;
        let dirs = Self { root };
        for old in [dirs.serial(), dirs.logs(), dirs.work()] {
            match std::fs::remove_dir_all(&old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(fail("empty", &old)(error));
                }
                _ => {}
            }
            std::fs::create_dir_all(&old).map_err(fail("make", &old))?;
        }
        let _ = std::fs::remove_file(dirs.summary());
        Ok(dirs)
    }

    /// `target/lab/<rack>`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Serial consoles.
    #[must_use]
    pub fn serial(&self) -> PathBuf {
        self.root.join("serial")
    }

    /// What the services and QEMU say.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Disks, variable stores, the controller's data: kept when a run fails.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The summary.
    #[must_use]
    pub fn summary(&self) -> PathBuf {
        self.root.join("summary.json")
    }

    /// A node's serial log.
    #[must_use]
    pub fn console(&self, node: &str) -> PathBuf {
        self.serial().join(format!("{node}.log"))
    }

    /// A service's log.
    #[must_use]
    pub fn log(&self, service: &str) -> PathBuf {
        self.logs().join(format!("{service}.log"))
    }
}

/// A socket's path, short enough for the kernel; only inside the lab's namespaces.
#[must_use]
pub fn socket(name: &str) -> PathBuf {
    Path::new(SOCKETS).join(name)
}
