//! Cutting a component into a store: chunks, compressed on all cores, and the index.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use fastcdc::v2020::{ChunkData, StreamCDC};
use sha2::{Digest as _, Sha256};

use crate::Sha256Digest;
use crate::caibx::{ChunkSizes, Index, IndexBuilder, IndexError};
use crate::chunk::{ChunkId, DEFAULT_LEVEL, Decoder, Encoder, id_of};
use crate::durable::{self, FileError};
use crate::manifest::IndexRef;
use crate::store::{Store, StoreError, Writer};

/// How to cut and pack.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Chunk sizes; they are in the index. Default 16, 64 and 256 KiB.
    pub sizes: ChunkSizes,
    /// zstd's level, 1 to 22. Default [`DEFAULT_LEVEL`].
    pub level: i32,
    /// Threads that pack. Default: one for each core.
    pub threads: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { sizes: ChunkSizes::default(), level: DEFAULT_LEVEL, threads }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the component that are in the store.
    pub bytes: u64,
    /// Chunks so far.
    pub chunks: u64,
    /// Of these, chunks that the store had not.
    pub new_chunks: u64,
    /// Bytes that the new ones take, compressed.
    pub new_bytes: u64,
}

/// A component that is in the store.
#[derive(Debug)]
pub struct Published {
    /// Its index.
    pub index: Index,
    /// The SHA-256 of all its bytes.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub length: u64,
    /// What it took.
    pub progress: Progress,
}

impl Published {
    /// What a manifest says of the index.
    pub fn index_ref(&self) -> IndexRef {
        IndexRef {
            sha256: Sha256Digest::of(self.index.as_bytes()),
            length: self.index.as_bytes().len() as u64,
        }
    }

    /// Writes the index as `indexes/<sha256>.caibx` below `repository`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write_index(&self, repository: &Path) -> Result<PathBuf, FileError> {
        let path = repository.join(self.index_ref().path());
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
        }
        durable::write(&path, self.index.as_bytes())?;
        Ok(path)
    }
}

/// Why a component was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The component cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It has too many chunks.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// zstd refused.
    #[error("cannot compress a chunk: {0}")]
    Compress(std::io::Error),
    /// Sizes that cannot be.
    #[error(
        "chunk sizes {0:?} cannot be: they are even, grow from least to most, and have 64 bytes to 1 MiB"
    )]
    Sizes(ChunkSizes),
}

/// Reads the component at `path` once, puts its chunks into `store`, and returns its index. `progress` is called from
/// this thread after every chunk. The same bytes and sizes give the same index, whatever the number of threads.
///
/// # Errors
/// [`PublishError`]; chunks that were written stay, and are used again.
pub fn component(
    path: &Path,
    store: &Store,
    options: &Options,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Published, PublishError> {
    let file = File::open(path).map_err(FileError::at("open", path))?;
    cut(file, path, store, options, progress)
}

struct Done {
    number: u64,
    id: ChunkId,
    length: u32,
    new_bytes: Option<u64>,
}

fn cut<R: Read>(
    source: R,
    path: &Path,
    store: &Store,
    options: &Options,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Published, PublishError> {
    let ChunkSizes { min, avg, max } = options.sizes;
    let even = [min, avg, max].iter().all(|size| size.is_multiple_of(2));
    if !even
        || min < 64
        || avg < 256
        || max < 1024
        || min > avg
        || avg > max
        || max > crate::chunk::HARD_MAX_BYTES
    {
        return Err(PublishError::Sizes(options.sizes));
    }
    let threads = options.threads.get();
    let writer = Mutex::new(store.writer()?);
    let (jobs, queue) = mpsc::sync_channel::<(u64, ChunkData)>(threads * 2);
    let queue = Arc::new(Mutex::new(queue));
    let (results, done) = mpsc::channel();
    let mut hashing = Hashing::new(source);

    let collected = std::thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, results, writer) = (Arc::clone(&queue), results.clone(), &writer);
            scope.spawn(move || {
                let (mut encoder, mut decoder) = (None, Decoder::new());
                loop {
                    let job = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                    let Ok((number, chunk)) = job else { break };
                    let result =
                        pack(number, &chunk.data, store, writer, (&mut encoder, &mut decoder), options.level);
                    if results.send(result).is_err() {
                        break;
                    }
                }
            });
        }
        drop((queue, results));
        let mut collector = Collector::new(options.sizes);
        let cut = (0..).zip(StreamCDC::new(&mut hashing, min as usize, avg as usize, max as usize));
        for (number, chunk) in cut {
            let chunk = chunk.map_err(|error| FileError::at("read", path)(error.into()))?;
            // No worker ends before the queue does, but for a panic, which the scope passes on.
            if jobs.send((number, chunk)).is_err() {
                break;
            }
            while let Ok(result) = done.try_recv() {
                collector.take(result?, progress);
            }
        }
        drop(jobs);
        for result in done {
            collector.take(result?, progress);
        }
        Ok::<_, PublishError>(collector)
    })?;
    writer.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).flush()?;
    let (length, sha256) = hashing.finish();
    Ok(Published { index: collected.builder.finish()?, sha256, length, progress: collected.progress })
}

fn pack(
    number: u64,
    plain: &[u8],
    store: &Store,
    writer: &Mutex<Writer<'_>>,
    (encoder, decoder): (&mut Option<Encoder>, &mut Decoder),
    level: i32,
) -> Result<Done, PublishError> {
    let id = id_of(plain);
    let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
    // What lies there from an earlier run is read: a damaged one is packed again.
    if store.holds(&id, length, decoder) {
        return Ok(Done { number, id, length, new_bytes: None });
    }
    let encoder = match encoder {
        Some(encoder) => encoder,
        None => encoder.insert(Encoder::new(level).map_err(PublishError::Compress)?),
    };
    let frame = encoder.encode(plain).map_err(PublishError::Compress)?;
    writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).put(&id, &frame)?;
    Ok(Done { number, id, length, new_bytes: Some(frame.len() as u64) })
}

/// Puts results back into order.
struct Collector {
    builder: IndexBuilder,
    waiting: BTreeMap<u64, Done>,
    next: u64,
    progress: Progress,
}

impl Collector {
    fn new(sizes: ChunkSizes) -> Self {
        Self {
            builder: IndexBuilder::new(sizes),
            waiting: BTreeMap::new(),
            next: 0,
            progress: Progress::default(),
        }
    }

    fn take(&mut self, done: Done, report: &mut dyn FnMut(&Progress)) {
        self.progress.bytes += u64::from(done.length);
        self.progress.chunks += 1;
        self.progress.new_chunks += u64::from(done.new_bytes.is_some());
        self.progress.new_bytes += done.new_bytes.unwrap_or(0);
        self.waiting.insert(done.number, done);
        while let Some(done) = self.waiting.remove(&self.next) {
            self.builder.push(&done.id, done.length);
            self.next += 1;
        }
        report(&self.progress);
    }
}

/// Hashes what passes.
struct Hashing<R> {
    source: R,
    hasher: Sha256,
    length: u64,
}

impl<R: Read> Hashing<R> {
    fn new(source: R) -> Self {
        Self { source, hasher: Sha256::new(), length: 0 }
    }

    fn finish(self) -> (u64, Sha256Digest) {
        (self.length, Sha256Digest(self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.length += read as u64;
        Ok(read)
    }
}
