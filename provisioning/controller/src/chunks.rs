//! Which chunks of the repository are there and whole.
//!
//! A file of the right name proves nothing: a full disk or a bad one leaves empty and damaged files. So a chunk counts
//! as there once it was unpacked and hashed to its name since it was last written. That is remembered with length,
//! time and inode of its file; memory is asked first, so a release of a thousand chunks is read once, not at every
//! upload. Rot below an unchanged file is seen after the next start, and by every node that fetches it.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cairn_bundle::durable::{self, FileError};
use cairn_bundle::{chunk, store};
use cairn_protocol::ids::Sha256Digest;

use crate::releases::check_chunk;

/// The chunks of a repository.
#[derive(Debug)]
pub struct Chunks {
    dir: PathBuf,
    whole: Mutex<HashMap<Sha256Digest, Stamp>>,
}

/// A file as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    inode: u64,
    seconds: i64,
    nanos: i64,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self { length: meta.len(), inode: meta.ino(), seconds: meta.mtime(), nanos: meta.mtime_nsec() }
    }
}

impl Chunks {
    /// The chunks in `repo/chunks.castr`; nothing is read yet.
    pub fn of(repo: &Path) -> Self {
        Self { dir: repo.join("chunks.castr"), whole: Mutex::default() }
    }

    /// Whether the chunk is there and whole; it is read when that is not known. Blocks.
    pub fn holds(&self, id: &Sha256Digest) -> bool {
        let path = self.dir.join(store::chunk_path(id));
        let Ok(meta) = std::fs::metadata(&path) else { return false };
        let stamp = Stamp::of(&meta);
        if self.whole.lock().unwrap_or_else(PoisonError::into_inner).get(id) == Some(&stamp) {
            return true;
        }
        let limit = chunk::compressed_limit(chunk::HARD_MAX_BYTES).into();
        let whole = match durable::read(&path, limit) {
            Ok(Some(frame)) => check_chunk(*id, &frame).is_ok(),
            Ok(None) | Err(_) => false,
        };
        if whole {
            self.remember(id, stamp);
        } else {
            tracing::warn!(path = %path.display(), "a chunk is damaged; it counts as missing");
        }
        whole
    }

    /// Notes that the chunk was just written, and checked before.
    ///
    /// # Errors
    /// [`FileError`] when it is not there.
    pub fn written(&self, id: &Sha256Digest) -> Result<(), FileError> {
        let path = self.dir.join(store::chunk_path(id));
        let meta = std::fs::metadata(&path).map_err(FileError::at("look at", &path))?;
        self.remember(id, Stamp::of(&meta));
        Ok(())
    }

    fn remember(&self, id: &Sha256Digest, stamp: Stamp) {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_there_when_it_is_whole_and_until_its_file_changes() {
        let tmp = tempfile::tempdir().unwrap();
        let chunks = Chunks::of(tmp.path());
        let id = Sha256Digest::of(b"plain");
        let path = tmp.path().join("chunks.castr").join(store::chunk_path(&id));
        assert!(!chunks.holds(&id));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let frame = zstd::bulk::compress(b"plain", 1).unwrap();
        let other = zstd::bulk::compress(b"other", 1).unwrap();
        for bad in [&b""[..], b"junk", &frame[..frame.len() - 1], &other] {
            std::fs::write(&path, bad).unwrap();
            assert!(!chunks.holds(&id), "{bad:?}");
        }
        std::fs::write(&path, &frame).unwrap();
        assert!(chunks.holds(&id) && chunks.holds(&id));
        std::fs::write(&path, b"").unwrap();
        assert!(!chunks.holds(&id));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(!chunks.holds(&id));
    }
}
