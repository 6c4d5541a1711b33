//! One emulated machine at a time: two cores are all that tests may count on, and what boots beside another boot runs into its
//! time limits.

use std::fs::{self, File};
use std::path::Path;

use super::{Error, cache_dir, file_error};

/// Whose turn it is, among all processes of this user. Ends when it is dropped, and with the process.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for its turn. Must not be taken a second time by whoever has it.
    ///
    /// # Errors
    /// When there is no cache directory, or it cannot be written to.
    pub fn take() -> Result<Self, Error> {
        let dir = cache_dir()?;
        fs::create_dir_all(&dir).map_err(file_error("create", &dir))?;
        Self::at(&dir.join("machines.lock"))
    }

    fn at(path: &Path) -> Result<Self, Error> {
        let lock = File::create(path).map_err(file_error("create", path))?;
        lock.lock().map_err(file_error("lock", path))?;
        Ok(Self { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::Turn;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (path, taken) = (dir.path().join("lock"), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let turn = Turn::at(&path).unwrap();
                    assert!(!taken.swap(true, Ordering::SeqCst), "two have their turn");
                    std::thread::yield_now();
                    taken.store(false, Ordering::SeqCst);
                    drop(turn);
                });
            }
        });
    }
}
