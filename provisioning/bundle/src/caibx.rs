//! The chunk index of a component: casync's `.caibx` (`caformat.h`: an INDEX object, then a TABLE), SHA-256.
//!
//! Little endian throughout. The header is 48 bytes (size, type, feature flags, chunk sizes), the table's 16; an item is
//! the end offset of a chunk and its id, 40 bytes; a tail of 40 closes the table. SHA-256 is the absence of the
//! SHA-512/256 flag. casync reads flags only in their normal form; a blob index needs none.

use crate::Sha256Digest;
use crate::chunk::{AVG_BYTES, ChunkId, HARD_MAX_BYTES, MAX_BYTES, MIN_BYTES};

/// The most bytes of an index that are read: 16 MiB, an index of 26 GB at 64 KiB a chunk. It is held in memory.
pub const MAX_INDEX_BYTES: u64 = 16 << 20;

const INDEX: u64 = 0x9682_4d9c_7b12_9ff9;
const TABLE: u64 = 0xe75b_9e11_2f17_417d;
const TABLE_TAIL: u64 = 0x4b4f_050e_5549_ecd1;
const SHA512_256: u64 = 0x2000_0000_0000_0000;
const EXCLUDE_NODUMP: u64 = 0x8000_0000_0000_0000;
/// The INDEX object's length, and where the tail says that it is.
const INDEX_BYTES: u64 = 48;
const HEAD_BYTES: usize = 64;
const ITEM_BYTES: usize = 40;

/// Why an index was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Over the limit.
    #[error("the chunk index has {0} bytes, more than the {MAX_INDEX_BYTES} allowed: it was not read")]
    TooLong(u64),
    /// Not an index, or one cut short.
    #[error("the chunk index is damaged: {0}")]
    Damaged(&'static str),
    /// Made with another digest.
    #[error("the chunk index uses SHA-512/256, this program reads SHA-256: make it with --digest=sha256")]
    Digest,
    /// An item breaks the rules.
    #[error(
        "the chunk index is damaged at chunk {0}: its length is not between 1 and the most the index allows"
    )]
    Item(usize),
}

/// The sizes that a component was cut with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    /// The least, in bytes; the last chunk may have less.
    pub min: u32,
    /// The average, in bytes.
    pub avg: u32,
    /// The most, in bytes.
    pub max: u32,
}

impl Default for ChunkSizes {
    fn default() -> Self {
        Self { min: MIN_BYTES, avg: AVG_BYTES, max: MAX_BYTES }
    }
}

/// One chunk of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins in the component, in bytes.
    pub offset: u64,
    /// Its plain length in bytes.
    pub length: u32,
    /// Its id.
    pub id: ChunkId,
}

/// An index that was checked: offsets grow, lengths keep their limits, the end is where it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    bytes: Vec<u8>,
    sizes: ChunkSizes,
}

impl Index {
    /// Reads an index; keeps `bytes` and copies nothing.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, IndexError> {
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(IndexError::TooLong(bytes.len() as u64));
        }
        let body = bytes.len().checked_sub(HEAD_BYTES + ITEM_BYTES);
        if body.is_none_or(|body| body % ITEM_BYTES != 0) {
            return Err(IndexError::Damaged("its length fits no number of chunks"));
        }
        let sizes = read_head(&bytes)?;
        read_tail(&bytes)?;
        let index = Self { bytes, sizes };
        let mut start = 0;
        for n in 0..index.len() {
            let end = index.end(n);
            if end <= start || end - start > u64::from(sizes.max) {
                return Err(IndexError::Item(n));
            }
            start = end;
        }
        Ok(index)
    }

    /// How many chunks.
    pub fn len(&self) -> usize {
        (self.bytes.len() - HEAD_BYTES - ITEM_BYTES) / ITEM_BYTES
    }

    /// Whether there are none: the index of an empty component.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The component's length in bytes.
    pub fn component_length(&self) -> u64 {
        self.len().checked_sub(1).map_or(0, |last| self.end(last))
    }

    /// What it was cut with.
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// The index as a file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The `n`th chunk.
    ///
    /// # Panics
    /// Where there is none: `n` is less than [`Index::len`].
    pub fn entry(&self, n: usize) -> Entry {
        assert!(n < self.len(), "chunk {n} of {}", self.len());
        let offset = n.checked_sub(1).map_or(0, |before| self.end(before));
        // `parse` saw that it fits.
        let length = u32::try_from(self.end(n) - offset).unwrap_or(u32::MAX);
        Entry { offset, length, id: self.id(n) }
    }

    /// All chunks in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + '_ {
        (0..self.len()).map(|n| self.entry(n))
    }

    /// The number of the chunk that holds the byte at `offset`.
    pub fn chunk_at(&self, offset: u64) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.end(middle) <= offset { low = middle + 1 } else { high = middle }
        }
        (low < self.len()).then_some(low)
    }

    fn item(&self, n: usize) -> &[u8] {
        &self.bytes[HEAD_BYTES + n * ITEM_BYTES..][..ITEM_BYTES]
    }

    fn end(&self, n: usize) -> u64 {
        word(self.item(n), 0)
    }

    pub(crate) fn id(&self, n: usize) -> ChunkId {
        let mut id = [0; 32];
        id.copy_from_slice(&self.item(n)[8..]);
        Sha256Digest(id)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn read_head(bytes: &[u8]) -> Result<ChunkSizes, IndexError> {
    if word(bytes, 0) != INDEX_BYTES || word(bytes, 8) != INDEX {
        return Err(IndexError::Damaged("it does not begin as a .caibx"));
    }
    if word(bytes, 16) & SHA512_256 != 0 {
        return Err(IndexError::Digest);
    }
    let size = |at| {
        u32::try_from(word(bytes, at))
            .ok()
            .filter(|size| (1..=HARD_MAX_BYTES).contains(size))
            .ok_or(IndexError::Damaged("a chunk size is out of range"))
    };
    let sizes = ChunkSizes { min: size(24)?, avg: size(32)?, max: size(40)? };
    if sizes.min > sizes.avg || sizes.avg > sizes.max {
        return Err(IndexError::Damaged("its chunk sizes are out of order"));
    }
    if word(bytes, 48) != u64::MAX || word(bytes, 56) != TABLE {
        return Err(IndexError::Damaged("it has no chunk table"));
    }
    Ok(sizes)
}

fn read_tail(bytes: &[u8]) -> Result<(), IndexError> {
    let tail = bytes.len() - ITEM_BYTES;
    let table = (bytes.len() as u64) - INDEX_BYTES;
    let expected = [0, 0, INDEX_BYTES, table, TABLE_TAIL];
    if expected.iter().enumerate().all(|(n, value)| word(bytes, tail + n * 8) == *value) {
        Ok(())
    } else {
        Err(IndexError::Damaged("its table does not end where it says"))
    }
}

/// Writes an index, chunk by chunk.
#[derive(Debug)]
pub struct IndexBuilder {
    bytes: Vec<u8>,
    end: u64,
    sizes: ChunkSizes,
}

impl IndexBuilder {
    /// An index without chunks.
    pub fn new(sizes: ChunkSizes) -> Self {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + ITEM_BYTES);
        let words = [
            INDEX_BYTES,
            INDEX,
            EXCLUDE_NODUMP,
            sizes.min.into(),
            sizes.avg.into(),
            sizes.max.into(),
            u64::MAX,
            TABLE,
        ];
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        Self { bytes, end: 0, sizes }
    }

    /// Appends a chunk of `length` plain bytes.
    pub fn push(&mut self, id: &ChunkId, length: u32) {
        self.end += u64::from(length);
        self.bytes.extend_from_slice(&self.end.to_le_bytes());
        self.bytes.extend_from_slice(&id.0);
    }

    /// The index.
    ///
    /// # Errors
    /// [`IndexError`] when a chunk was empty or too long, or there were too many: what could not be read is not written.
    pub fn finish(mut self) -> Result<Index, IndexError> {
        let table = (self.bytes.len() + ITEM_BYTES) as u64 - INDEX_BYTES;
        for word in [0, 0, INDEX_BYTES, table, TABLE_TAIL] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        let index = Index::parse(self.bytes)?;
        debug_assert_eq!(index.sizes, self.sizes);
        Ok(index)
    }
}

/// Fuzz entry: what is read is written back to the same bytes, but for the flags.
pub fn fuzz(data: &[u8]) {
    let Ok(index) = Index::parse(data.to_vec()) else { return };
    let mut builder = IndexBuilder::new(index.sizes());
    index.entries().for_each(|entry| builder.push(&entry.id, entry.length));
    let again = builder.finish().map(|index| index.bytes).unwrap_or_default();
    assert_eq!((&again[..16], &again[24..]), (&data[..16], &data[24..]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::id_of;

    fn index(lengths: &[u32]) -> Index {
        let mut builder = IndexBuilder::new(ChunkSizes::default());
        lengths.iter().enumerate().for_each(|(n, length)| builder.push(&id_of(&[n as u8]), *length));
        builder.finish().unwrap()
    }

    /// Two chunks, as casync 2 writes them with `make --digest=sha256 --chunk-size=16384:65536:262144`, flags apart.
    #[test]
    fn golden() {
        let index = index(&[65_536, 1]);
        let text = hex::encode(index.as_bytes());
        assert_eq!(
            text,
            concat!(
                "3000000000000000f99f127b9c4d8296000000000000008000400000000000000000010000000000",
                "0000040000000000ffffffffffffffff7d41172f119e5be7",
                "00000100000000006e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "01000100000000004bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a",
                "0000000000000000000000000000000030000000000000008800000000000000d1ec49550e054f4b",
            )
        );
    }

    #[test]
    fn a_broken_index_is_refused() {
        let good = index(&[65_536, 70_000, 5]).as_bytes().to_vec();
        let patch = |at: usize, value: u64| {
            let mut bad = good.clone();
            bad[at..at + 8].copy_from_slice(&value.to_le_bytes());
            Index::parse(bad)
        };
        let table: &[(usize, u64)] = &[
            (0, 47),
            (8, 1),
            (16, SHA512_256),
            (24, 0),
            (24, 1 << 20),
            (40, u64::from(HARD_MAX_BYTES) + 1),
            (40, 60_000),
            (48, 0),
            (56, 0),
            (64, 0),
            (64, u64::MAX),
            (104, 65_536),
            (104, 65_535),
            (104, 65_536 + 262_145),
            (good.len() - 40, 1),
            (good.len() - 16, 0),
            (good.len() - 8, 0),
        ];
        for (at, value) in table {
            assert!(patch(*at, *value).is_err(), "{value} at {at}");
        }
        for length in 0..good.len() {
            assert!(Index::parse(good[..length].to_vec()).is_err(), "{length}");
        }
        assert_eq!(
            Index::parse(vec![0; MAX_INDEX_BYTES as usize + 1]),
            Err(IndexError::TooLong(MAX_INDEX_BYTES + 1))
        );
    }

    #[test]
    fn an_empty_component_has_an_index() {
        assert_eq!((index(&[]).len(), index(&[]).component_length()), (0, 0));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(lengths in prop::collection::vec(1..=MAX_BYTES, 0..50)) {
            let index = index(&lengths);
            let again = Index::parse(index.as_bytes().to_vec()).unwrap();
            prop_assert_eq!(again.component_length(), lengths.iter().map(|l| u64::from(*l)).sum::<u64>());
            prop_assert_eq!(again.entries().map(|entry| entry.length).collect::<Vec<_>>(), lengths);
            for (n, entry) in again.entries().enumerate() {
                prop_assert_eq!(again.chunk_at(entry.offset), Some(n));
                prop_assert_eq!(again.chunk_at(entry.offset + u64::from(entry.length) - 1), Some(n));
            }
            prop_assert_eq!(again.chunk_at(again.component_length()), None);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz(&bytes);
        }
    }
}
