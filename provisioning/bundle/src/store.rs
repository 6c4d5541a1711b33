//! The chunk store: a `.castr` tree, `<first 4 hex digits>/<64 hex digits>.cacnk`, as casync and desync read it.
//!
//! A chunk that has its name was synced before it got it, so a power cut leaves whole chunks and, at most, temporary
//! files that the next collection removes. A reader checks each chunk against its name anyway.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::Sha256Digest;
use crate::caibx::{Index, IndexError, MAX_INDEX_BYTES};
use crate::chunk::{ChunkError, ChunkId, Decoder, HARD_MAX_BYTES, compressed_limit};
use crate::durable::{self, FileError};

/// Chunks written before a batch is synced: their file handles stay open, and 64 fit any limit of open files.
const BATCH: usize = 64;

/// A store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A chunk.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A pinned index.
    #[error("pin {path}: {source}")]
    Pin {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong.
        source: IndexError,
    },
    /// Somebody is writing.
    #[error("{0} is being written to; collect when nobody publishes or installs")]
    Busy(PathBuf),
}

/// The path of a chunk below its store, and below the `chunks/` URL of whoever serves it.
pub fn chunk_path(id: &ChunkId) -> String {
    let hex = id.to_string();
    format!("{}/{hex}.cacnk", &hex[..4])
}

/// A store in a directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the store in `dir`, which is made when missing.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where a chunk lies, or would.
    pub fn path(&self, id: &ChunkId) -> PathBuf {
        self.dir.join(chunk_path(id))
    }

    /// Whether the store has a chunk of that name.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.path(id).is_file()
    }

    /// Whether the store has a chunk of that name and `length`, whole: it is read, unpacked and checked.
    pub fn holds(&self, id: &ChunkId, length: u32, decoder: &mut Decoder) -> bool {
        matches!(self.read(id, length, decoder), Ok(Some(_)))
    }

    /// A chunk as it lies there, compressed and unchecked: for serving. `None` when it is not there.
    ///
    /// # Errors
    /// [`StoreError::File`], also when it is longer than any chunk.
    pub fn read_frame(&self, id: &ChunkId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(durable::read(&self.path(id), compressed_limit(HARD_MAX_BYTES).into())?)
    }

    /// A chunk of `length` plain bytes, unpacked and checked. `None` when it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read<'a>(
        &self,
        id: &ChunkId,
        length: u32,
        decoder: &'a mut Decoder,
    ) -> Result<Option<&'a [u8]>, StoreError> {
        let limit = compressed_limit(length.min(HARD_MAX_BYTES));
        let Some(frame) = durable::read(&self.path(id), limit.into())? else { return Ok(None) };
        Ok(Some(decoder.decode(id, length, &frame)?))
    }

    /// Begins to write. While a writer lives, nothing is collected.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn writer(&self) -> Result<Writer<'_>, StoreError> {
        let lock = self.lock_file()?;
        lock.lock_shared().map_err(FileError::at("lock", &self.lock_path()))?;
        Ok(Writer { store: self, _lock: lock, pending: Vec::new() })
    }

    /// Keeps the chunks of `index` whatever the collector is told, until [`Store::unpin`]: for installs under way, which
    /// last longer than a writer.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn pin(&self, index: &Index) -> Result<Sha256Digest, StoreError> {
        let name = Sha256Digest::of(index.as_bytes());
        let path = self.pin_path(&name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
        }
        durable::write(&path, index.as_bytes())?;
        Ok(name)
    }

    /// Ends a pin; a missing one is fine.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn unpin(&self, name: &Sha256Digest) -> Result<(), StoreError> {
        Ok(durable::remove(&self.pin_path(name))?)
    }

    /// Removes every chunk that neither `live` nor a pin names, and temporary files that a power cut left.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when somebody writes; a pin that cannot be read stops the collection.
    pub fn collect<'i>(&self, live: impl IntoIterator<Item = &'i Index>) -> Result<Collected, StoreError> {
        let lock = self.lock_file()?;
        lock.try_lock().map_err(|_| StoreError::Busy(self.dir.clone()))?;
        // Sorted ids rather than a set: 32 bytes a chunk and no more.
        let mut marked: Vec<ChunkId> =
            live.into_iter().flat_map(|index| index.entries().map(|e| e.id)).collect();
        for index in self.pins()? {
            marked.extend(index.entries().map(|entry| entry.id));
        }
        marked.sort_unstable();
        marked.dedup();
        let mut collected = Collected::default();
        self.visit(|path, id| {
            if id.is_some_and(|id| marked.binary_search(&id).is_ok()) {
                collected.kept += 1;
                return Ok(());
            }
            let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
            std::fs::remove_file(path).map_err(FileError::at("remove", path))?;
            collected.removed += u64::from(id.is_some());
            collected.freed_bytes += bytes;
            Ok(())
        })?;
        Ok(collected)
    }

    /// The ids of all chunks, in no order.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn ids(&self) -> Result<Vec<ChunkId>, StoreError> {
        let mut ids = Vec::new();
        self.visit(|_, id| {
            ids.extend(id);
            Ok(())
        })?;
        Ok(ids)
    }

    /// Calls `each` for every chunk, and with `None` for every temporary file.
    fn visit(
        &self,
        mut each: impl FnMut(&Path, Option<ChunkId>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for dir in list(&self.dir)? {
            let prefix = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if prefix.len() != 4 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
                continue;
            }
            for path in list(&dir)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if name.ends_with(".tmp") {
                    each(&path, None)?;
                } else if let Some(id) = name.strip_suffix(".cacnk").and_then(|hex| hex.parse().ok()) {
                    each(&path, Some(id))?;
                }
            }
        }
        Ok(())
    }

    fn pins(&self) -> Result<Vec<Index>, StoreError> {
        let mut pins = Vec::new();
        let dir = self.dir.join("pins");
        if !dir.is_dir() {
            return Ok(pins);
        }
        for path in list(&dir)? {
            if path.extension().is_some_and(|ext| ext == "caibx")
                && let Some(bytes) = durable::read(&path, MAX_INDEX_BYTES)?
            {
                pins.push(Index::parse(bytes).map_err(|source| StoreError::Pin { path, source })?);
            }
        }
        Ok(pins)
    }

    fn pin_path(&self, name: &Sha256Digest) -> PathBuf {
        self.dir.join("pins").join(format!("{name}.caibx"))
    }

    fn lock_path(&self) -> PathBuf {
        self.dir.join(".lock")
    }

    fn lock_file(&self) -> Result<File, StoreError> {
        Ok(durable::create(&self.lock_path(), 0o644)?)
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>())
        .map_err(FileError::at("list", dir))
}

/// What a collection did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Chunks that are still named.
    pub kept: u64,
    /// Chunks removed.
    pub removed: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
}

/// Writes chunks in batches: written, all synced, then renamed into place. What is not yet flushed is not in the store.
pub struct Writer<'s> {
    store: &'s Store,
    _lock: File,
    pending: Vec<(ChunkId, PathBuf, File)>,
}

impl Writer<'_> {
    /// Takes the frame of a chunk; the caller has checked that it is what `id` says. One of that name that lies there is
    /// replaced: it may be damaged.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn put(&mut self, id: &ChunkId, frame: &[u8]) -> Result<(), StoreError> {
        use io::Write as _;
        let path = self.store.path(id);
        if self.pending.iter().any(|(pending, ..)| pending == id) {
            return Ok(());
        }
        if let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) {
            std::fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
            durable::sync_parent(dir)?;
        }
        let tmp = durable::temporary(&path);
        let mut file = durable::create(&tmp, 0o644)?;
        file.write_all(frame).map_err(FileError::at("write", &tmp))?;
        self.pending.push((*id, tmp, file));
        if self.pending.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Syncs what was put and gives it its names.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn flush(&mut self) -> Result<(), StoreError> {
        for (_, tmp, file) in &self.pending {
            file.sync_data().map_err(FileError::at("sync", tmp))?;
        }
        let mut dirs = Vec::new();
        for (id, tmp, _) in self.pending.drain(..) {
            let path = self.store.path(&id);
            std::fs::rename(&tmp, &path).map_err(FileError::at("rename", &tmp))?;
            dirs.push(path);
        }
        dirs.sort_unstable_by(|a, b| a.parent().cmp(&b.parent()));
        dirs.dedup_by(|a, b| a.parent() == b.parent());
        dirs.iter().try_for_each(|path| durable::sync_parent(path))?;
        Ok(())
    }
}

impl Drop for Writer<'_> {
    /// What was not flushed goes.
    fn drop(&mut self) {
        for (_, tmp, _) in &self.pending {
            let _ = std::fs::remove_file(tmp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caibx::{ChunkSizes, IndexBuilder};
    use crate::chunk::{Encoder, id_of};

    fn put(store: &Store, texts: &[&str]) -> Index {
        let mut builder = IndexBuilder::new(ChunkSizes::default());
        let mut writer = store.writer().unwrap();
        for text in texts {
            let id = id_of(text.as_bytes());
            builder.push(&id, text.len() as u32);
            writer.put(&id, &Encoder::new(1).unwrap().encode(text.as_bytes()).unwrap()).unwrap();
        }
        writer.flush().unwrap();
        builder.finish().unwrap()
    }

    #[test]
    fn chunks_come_back_checked() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        put(&store, &["one", "two", "one"]);
        let (id, mut decoder) = (id_of(b"one"), Decoder::new());
        assert_eq!(store.read(&id, 3, &mut decoder).unwrap().unwrap(), b"one");
        assert!(store.read(&id_of(b"three"), 5, &mut decoder).unwrap().is_none());
        assert_eq!(store.ids().unwrap().len(), 2);

        std::fs::copy(store.path(&id_of(b"two")), store.path(&id)).unwrap();
        assert!(matches!(store.read(&id, 3, &mut decoder).unwrap_err(), StoreError::Chunk(_)));
        assert!(store.has(&id) && !store.holds(&id, 3, &mut decoder));
        put(&store, &["one"]);
        assert!(store.holds(&id, 3, &mut decoder), "a damaged one is replaced");
        std::fs::write(store.path(&id), vec![0; 1 << 21]).unwrap();
        assert!(matches!(store.read(&id, 3, &mut decoder).unwrap_err(), StoreError::File(_)));
        assert!(matches!(store.read_frame(&id).unwrap_err(), StoreError::File(_)));
    }

    #[test]
    fn what_is_not_flushed_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = id_of(b"x");
        let mut writer = store.writer().unwrap();
        writer.put(&id, b"frame").unwrap();
        assert!(!store.has(&id));
        drop(writer);
        assert!(!store.has(&id));
        assert!(store.ids().unwrap().is_empty());
    }

    #[test]
    fn the_collector_keeps_what_is_named_or_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (live, pinned) = (put(&store, &["a", "b"]), put(&store, &["b", "c"]));
        put(&store, &["d", "e"]);
        let pin = store.pin(&pinned).unwrap();
        // As after a power cut between write and rename.
        std::fs::write(store.path(&id_of(b"a")).with_file_name(".x.1.tmp"), b"torn").unwrap();

        let writer = store.writer().unwrap();
        assert!(matches!(store.collect([&live]).unwrap_err(), StoreError::Busy(_)));
        drop(writer);

        let collected = store.collect([&live]).unwrap();
        assert_eq!((collected.kept, collected.removed), (3, 2));
        store.unpin(&pin).unwrap();
        assert_eq!(store.collect([&live]).unwrap().removed, 1);
        assert!(store.has(&id_of(b"a")) && store.has(&id_of(b"b")) && !store.has(&id_of(b"c")));
    }

    #[test]
    fn a_damaged_pin_stops_the_collector() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let index = put(&store, &["a"]);
        store.pin(&index).unwrap();
        let pin = list(&dir.path().join("pins")).unwrap().remove(0);
        std::fs::write(pin, b"junk").unwrap();
        assert!(matches!(store.collect([]).unwrap_err(), StoreError::Pin { .. }));
        assert!(store.has(&id_of(b"a")));
    }
}
