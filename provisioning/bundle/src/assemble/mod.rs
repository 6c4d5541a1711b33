//! Putting a component together from its index: from what is there already, from local sources, from fed chunks.
//!
//! ```text
//! open -> reuse_file / reuse_store ... -> { missing -> fetch (the caller) -> feed }* -> finish
//! ```
//! The output file is written at each chunk's offset in any order, so a power cut at any point leaves a file from which
//! [`Assembly::open`] takes every chunk that is whole and forgets the rest. Memory is the index, a few bits and 4 bytes
//! for each chunk, and one chunk. A second thread follows the contiguous part of the file and computes the whole
//! component's digest or verity tree while the first unpacks, checks and writes.

mod plan;
mod whole;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub use plan::{Missing, Plan};
pub use whole::{Verity, Whole, WholeResult};

use crate::Sha256Digest;
use crate::caibx::{Entry, Index};
use crate::chunk::{ChunkError, ChunkId, Decoder, id_of};
use crate::durable::FileError;
use crate::store::{Store, StoreError};
use crate::verity::VerityError;

/// Why an assembly failed.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The output or a source.
    #[error(transparent)]
    File(#[from] FileError),
    /// A fed chunk. The assembly can go on: ask another seed.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A fed chunk that this component does not have.
    #[error("chunk {0} is not of this component")]
    Foreign(ChunkId),
    /// Not all chunks are there.
    #[error("{0} chunks of the component are still missing")]
    Incomplete(usize),
    /// The verity tree.
    #[error(transparent)]
    Verity(#[from] VerityError),
    /// The whole is not what the manifest says.
    #[error("{path} has the {what} {found}, its manifest says {expected}: it is not used")]
    Whole {
        /// The file.
        path: PathBuf,
        /// `sha256` or `verity root hash`.
        what: &'static str,
        /// What it has.
        found: Sha256Digest,
        /// What it should have.
        expected: Sha256Digest,
    },
}

/// A component being put together.
pub struct Assembly {
    path: PathBuf,
    file: File,
    plan: Plan,
    decoder: Decoder,
    follower: Option<whole::Follower>,
}

impl Assembly {
    /// Opens or makes the file at `path`, as long as the component; takes every chunk that is whole in it already.
    /// `whole` says what [`Assembly::finish`] will compute.
    ///
    /// Name the file after the component's digest (with `.part`), so that only a file begun for it is resumed.
    ///
    /// # Errors
    /// [`AssembleError::File`], also for want of disk.
    pub fn open(path: &Path, index: Index, whole: Whole) -> Result<Self, AssembleError> {
        let existed = path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(FileError::at("open", path))?;
        let length = index.component_length();
        file.set_len(length).map_err(FileError::at("size", path))?;
        let reader = file.try_clone().map_err(FileError::at("open", path))?;
        let follower = whole::Follower::start(reader, length, whole)?;
        let mut assembly =
            Self { path: path.to_owned(), file, plan: Plan::new(index), decoder: Decoder::new(), follower };
        if existed {
            assembly.resume()?;
        }
        assembly.tell_follower();
        Ok(assembly)
    }

    /// What is done and what is missing.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Copies what an older component shares with this one. Chunks that are not what `old_index` says are left out.
    /// Returns the bytes taken.
    ///
    /// # Errors
    /// [`AssembleError::File`] when the output cannot be written; a source that cannot be read gives less.
    pub fn reuse_file(&mut self, old: &File, old_index: &Index) -> Result<u64, AssembleError> {
        let mut buffer = Vec::new();
        let mut taken = 0;
        for entry in old_index.entries() {
            if !self.plan.wants(&entry.id, entry.length) {
                continue;
            }
            buffer.resize(entry.length as usize, 0);
            if old.read_exact_at(&mut buffer, entry.offset).is_ok() && id_of(&buffer) == entry.id {
                taken += write_everywhere(&self.file, &self.path, &mut self.plan, &entry.id, &buffer)?;
                self.tell_follower();
            }
        }
        Ok(taken)
    }

    /// Takes from a local store what it has. A damaged chunk there counts as missing. Returns the bytes taken.
    ///
    /// # Errors
    /// [`AssembleError::File`] when the output cannot be written or the store not be read.
    pub fn reuse_store(&mut self, store: &Store) -> Result<u64, AssembleError> {
        let mut taken = 0;
        let mut from = 0;
        while let Some(missing) = self.plan.next_missing(from) {
            from = missing.number + 1;
            match store.read(&missing.id, missing.length, &mut self.decoder) {
                Ok(Some(plain)) => {
                    taken += write_everywhere(&self.file, &self.path, &mut self.plan, &missing.id, plain)?;
                    self.tell_follower();
                }
                Ok(None) | Err(StoreError::Chunk(_)) => {}
                Err(StoreError::File(error)) => return Err(error.into()),
                Err(StoreError::Pin { .. } | StoreError::Busy(_)) => {}
            }
        }
        Ok(taken)
    }

    /// Takes the frame of a missing chunk, checks it and writes it wherever it belongs. Returns the plain bytes
    /// written: 0 for a chunk that is there already.
    ///
    /// # Errors
    /// [`AssembleError::Chunk`] and [`AssembleError::Foreign`] accuse the seed; nothing was written.
    pub fn feed(&mut self, id: &ChunkId, frame: &[u8]) -> Result<u64, AssembleError> {
        let length = self.plan.length_of(id).ok_or(AssembleError::Foreign(*id))?;
        if !self.plan.wants(id, length) {
            return Ok(0);
        }
        let plain = self.decoder.decode(id, length, frame)?;
        let written = write_everywhere(&self.file, &self.path, &mut self.plan, id, plain)?;
        self.tell_follower();
        Ok(written)
    }

    /// Syncs the file and returns what [`Whole`] asked for. Rename the file into place after comparing it.
    ///
    /// # Errors
    /// [`AssembleError::Incomplete`]; [`AssembleError::File`].
    pub fn finish(mut self) -> Result<WholeResult, AssembleError> {
        match self.plan.missing_chunks() {
            0 => {}
            missing => return Err(AssembleError::Incomplete(missing)),
        }
        // Writing out and hashing go on side by side.
        self.file.sync_data().map_err(FileError::at("sync", &self.path))?;
        match self.follower.take() {
            Some(follower) => follower.join().map_err(|error| match error {
                AssembleError::File(FileError { doing, source, .. }) => {
                    AssembleError::File(FileError { doing, path: self.path.clone(), source })
                }
                other => other,
            }),
            None => Ok(WholeResult::default()),
        }
    }

    /// [`Assembly::finish`], then compares with what the manifest says.
    ///
    /// # Errors
    /// [`AssembleError::Whole`], and those of [`Assembly::finish`].
    pub fn finish_as(
        self,
        sha256: Option<&Sha256Digest>,
        verity_root: Option<&Sha256Digest>,
    ) -> Result<WholeResult, AssembleError> {
        let path = self.path.clone();
        let result = self.finish()?;
        let pairs =
            [("sha256", result.sha256, sha256), ("verity root hash", result.verity_root, verity_root)];
        for (what, found, expected) in pairs {
            if let (Some(found), Some(expected)) = (found, expected)
                && found != *expected
            {
                return Err(AssembleError::Whole { path, what, found, expected: *expected });
            }
        }
        Ok(result)
    }

    fn resume(&mut self) -> Result<(), AssembleError> {
        let mut buffer = Vec::new();
        for number in 0..self.plan.index().len() {
            let Entry { offset, length, id } = self.plan.index().entry(number);
            buffer.resize(length as usize, 0);
            self.file.read_exact_at(&mut buffer, offset).map_err(FileError::at("read", &self.path))?;
            if id_of(&buffer) == id {
                self.plan.set(number);
            }
        }
        Ok(())
    }

    fn tell_follower(&mut self) {
        if let Some(follower) = &self.follower {
            follower.advance(self.plan.contiguous());
        }
    }
}

fn write_everywhere(
    file: &File,
    path: &Path,
    plan: &mut Plan,
    id: &ChunkId,
    plain: &[u8],
) -> Result<u64, AssembleError> {
    let mut written = 0;
    while let Some((number, offset)) = plan.next_place(id) {
        file.write_all_at(plain, offset).map_err(FileError::at("write", path))?;
        plan.set(number);
        written += plain.len() as u64;
    }
    Ok(written)
}

/// Agents feed from one thread and finish on another.
const _: () = {
    const fn moves_between_threads<T: Send + 'static>() {}
    moves_between_threads::<Assembly>();
};
