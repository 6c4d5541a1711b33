//! The whole component's digest or verity tree, computed by a thread that follows the contiguous part of the file.
//!
//! It reads what was just written, from the page cache, so chunks may come in any order.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use super::AssembleError;
use crate::Sha256Digest;
use crate::durable::FileError;
use crate::verity::{BLOCK_BYTES, TreeBuilder, VerityError};

/// Read at a time: fits the second-level cache, and is a whole number of blocks.
const READ_BYTES: usize = 64 << 10;

/// What to compute over the whole component. Chunks are checked one by one in any case; a layer needs its verity tree
/// and no digest beside it.
#[derive(Debug, Default)]
pub struct Whole {
    /// The SHA-256 of all bytes.
    pub sha256: bool,
    /// A verity tree.
    pub verity: Option<Verity>,
}

/// A verity tree to make.
#[derive(Debug)]
pub struct Verity {
    /// The salt.
    pub salt: Vec<u8>,
    /// Where the tree goes, from its first byte on. The caller syncs and renames it.
    pub tree: File,
}

/// What was computed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WholeResult {
    /// The SHA-256 of all bytes, where it was asked for.
    pub sha256: Option<Sha256Digest>,
    /// The root hash, where a tree was asked for.
    pub verity_root: Option<Sha256Digest>,
}

#[derive(Default)]
struct Progress {
    contiguous: u64,
    stop: bool,
}

type Shared = Arc<(Mutex<Progress>, Condvar)>;

pub(super) struct Follower {
    shared: Shared,
    thread: Option<JoinHandle<Result<WholeResult, AssembleError>>>,
}

impl Follower {
    pub(super) fn start(file: File, length: u64, whole: Whole) -> Result<Option<Self>, AssembleError> {
        if !whole.sha256 && whole.verity.is_none() {
            return Ok(None);
        }
        let work = Work::new(whole, length)?;
        let shared = Shared::default();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("whole".to_owned())
            .spawn(move || follow(&file, length, work, &theirs))
            .map_err(FileError::at("start a thread for", Path::new("the component")))?;
        Ok(Some(Self { shared, thread: Some(thread) }))
    }

    pub(super) fn advance(&self, contiguous: u64) {
        let mut progress = lock(&self.shared.0);
        if contiguous > progress.contiguous {
            progress.contiguous = contiguous;
            self.shared.1.notify_one();
        }
    }

    pub(super) fn join(mut self) -> Result<WholeResult, AssembleError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            // A panic there goes on here.
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(WholeResult::default()),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            lock(&self.shared.0).stop = true;
            self.shared.1.notify_one();
            let _ = thread.join();
        }
    }
}

fn lock(progress: &Mutex<Progress>) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Work {
    sha256: Option<Sha256>,
    verity: Option<(TreeBuilder, File)>,
}

impl Work {
    fn new(whole: Whole, length: u64) -> Result<Self, VerityError> {
        let blocks = length / BLOCK_BYTES as u64;
        if whole.verity.is_some() && !length.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(VerityError::Length { found: blocks + 1, expected: blocks });
        }
        let verity = match whole.verity {
            Some(Verity { salt, tree }) => Some((TreeBuilder::new(blocks, &salt)?, tree)),
            None => None,
        };
        Ok(Self { sha256: whole.sha256.then(Sha256::new), verity })
    }

    /// `bytes` follows what came before; a multiple of the block size but for the last of a component without a tree.
    fn push(&mut self, bytes: &[u8]) -> Result<(), VerityError> {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some((builder, tree)) = &mut self.verity {
            for block in bytes.as_chunks::<BLOCK_BYTES>().0 {
                builder.push(block, &mut |at, block| tree.write_all_at(block, at))?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<WholeResult, VerityError> {
        let verity_root = match self.verity {
            Some((builder, tree)) => {
                let root = builder.finish(&mut |at, block| tree.write_all_at(block, at))?;
                tree.sync_data()?;
                Some(root)
            }
            None => None,
        };
        Ok(WholeResult {
            sha256: self.sha256.map(|sha256| Sha256Digest(sha256.finalize().into())),
            verity_root,
        })
    }
}

fn follow(file: &File, length: u64, mut work: Work, shared: &Shared) -> Result<WholeResult, AssembleError> {
    let mut buffer = vec![0; READ_BYTES];
    let mut done = 0;
    while done < length {
        let Some(available) = wait(shared, done, length) else { return Ok(WholeResult::default()) };
        while done < available {
            let want = usize::try_from(available - done).unwrap_or(READ_BYTES).min(READ_BYTES);
            file.read_exact_at(&mut buffer[..want], done)
                .map_err(FileError::at("read", Path::new("the component")))?;
            work.push(&buffer[..want])?;
            done += want as u64;
        }
    }
    Ok(work.finish()?)
}

/// Waits for at least one read's worth of bytes, or the end; returns up to where whole reads can be made.
fn wait(shared: &Shared, done: u64, length: u64) -> Option<u64> {
    let mut progress = lock(&shared.0);
    loop {
        if progress.stop {
            return None;
        }
        if progress.contiguous >= length {
            return Some(length);
        }
        let whole = progress.contiguous - progress.contiguous % READ_BYTES as u64;
        if whole > done {
            return Some(whole);
        }
        progress = shared.1.wait(progress).unwrap_or_else(std::sync::PoisonError::into_inner);
    }
}
