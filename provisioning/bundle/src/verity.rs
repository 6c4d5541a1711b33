//! dm-verity hash trees (kernel: Documentation/admin-guide/device-mapper/verity.rst), format 1, SHA-256, 4096-byte
//! blocks.
//!
//! The tree has no superblock: the parameters come from the signed manifest, and a superblock on an untrusted disk would
//! be one more thing to parse. The bytes are those of `veritysetup format --no-superblock`. The node computes the tree
//! while it writes the data, and compares the root; the tree is never sent.

use sha2::{Digest as _, Sha256};

use crate::Sha256Digest;

/// Bytes in a block of data or hashes.
pub const BLOCK_BYTES: usize = 4096;
/// The longest salt: dm-verity takes up to 256 bytes; more than a digest's length adds nothing.
pub const MAX_SALT_BYTES: usize = 32;
/// The most data blocks: 4 TiB.
pub const MAX_DATA_BLOCKS: u64 = 1 << 30;

const HASH_BYTES: usize = 32;
const HASHES_PER_BLOCK: u64 = (BLOCK_BYTES / HASH_BYTES) as u64;

/// Where a hash block belongs: its byte offset in the tree, and its bytes.
pub type Emit<'a> = dyn FnMut(u64, &[u8; BLOCK_BYTES]) -> std::io::Result<()> + 'a;

/// How many blocks each level has, from the lowest (one hash for each data block) up; empty for a single data block.
fn level_blocks(data_blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut below = data_blocks;
    while below > 1 {
        below = below.div_ceil(HASHES_PER_BLOCK);
        levels.push(below);
    }
    levels
}

/// The tree's length in bytes.
pub fn tree_bytes(data_blocks: u64) -> u64 {
    level_blocks(data_blocks).iter().sum::<u64>() * BLOCK_BYTES as u64
}

/// What went wrong while a tree was computed.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// The parameters are out of range.
    #[error("a verity tree of {data_blocks} blocks with a salt of {salt_bytes} bytes cannot be made")]
    Parameters {
        /// Data blocks asked for.
        data_blocks: u64,
        /// Bytes of salt.
        salt_bytes: usize,
    },
    /// More or less data than was announced.
    #[error("the data has {found} blocks, its manifest says {expected}")]
    Length {
        /// Blocks that came.
        found: u64,
        /// Blocks that should.
        expected: u64,
    },
    /// The tree could not be written, or the data not be read.
    #[error("cannot write the verity tree: {0}")]
    Io(#[from] std::io::Error),
}

struct Level {
    /// Where the level begins in the tree.
    offset: u64,
    /// Blocks emitted so far.
    done: u64,
    block: Box<[u8; BLOCK_BYTES]>,
    filled: usize,
}

/// Computes a tree while data blocks pass in order. Holds one block for each level: 4 KiB times 4 for a terabyte.
pub struct TreeBuilder {
    salted: Sha256,
    data_blocks: u64,
    pushed: u64,
    levels: Vec<Level>,
    /// The digest of the topmost block so far.
    top: [u8; HASH_BYTES],
}

impl TreeBuilder {
    /// A tree over `data_blocks` blocks of data.
    ///
    /// # Errors
    /// [`VerityError::Parameters`].
    pub fn new(data_blocks: u64, salt: &[u8]) -> Result<Self, VerityError> {
        if !(1..=MAX_DATA_BLOCKS).contains(&data_blocks) || salt.len() > MAX_SALT_BYTES {
            return Err(VerityError::Parameters { data_blocks, salt_bytes: salt.len() });
        }
        let blocks = level_blocks(data_blocks);
        // The topmost level comes first in the file.
        let mut offset = tree_bytes(data_blocks);
        let levels = blocks
            .iter()
            .map(|count| {
                offset -= count * BLOCK_BYTES as u64;
                Level { offset, done: 0, block: Box::new([0; BLOCK_BYTES]), filled: 0 }
            })
            .collect();
        let salted = Sha256::new_with_prefix(salt);
        Ok(Self { salted, data_blocks, pushed: 0, levels, top: [0; HASH_BYTES] })
    }

    /// Takes the next data block; hash blocks that became whole go to `emit`.
    ///
    /// # Errors
    /// [`VerityError::Length`] when there are more than were announced; what `emit` returned.
    pub fn push(&mut self, data: &[u8; BLOCK_BYTES], emit: &mut Emit<'_>) -> Result<(), VerityError> {
        if self.pushed == self.data_blocks {
            return Err(VerityError::Length { found: self.pushed + 1, expected: self.data_blocks });
        }
        self.pushed += 1;
        let hash = self.hash(data);
        self.raise(0, hash, emit)
    }

    /// Emits what is left and returns the root hash.
    ///
    /// # Errors
    /// [`VerityError::Length`] when data is missing; what `emit` returned.
    pub fn finish(mut self, emit: &mut Emit<'_>) -> Result<Sha256Digest, VerityError> {
        if self.pushed != self.data_blocks {
            return Err(VerityError::Length { found: self.pushed, expected: self.data_blocks });
        }
        for n in 0..self.levels.len() {
            if self.levels[n].filled > 0 {
                self.flush(n, emit)?;
            }
        }
        Ok(Sha256Digest(self.top))
    }

    fn hash(&self, block: &[u8; BLOCK_BYTES]) -> [u8; HASH_BYTES] {
        let mut hasher = self.salted.clone();
        hasher.update(block);
        hasher.finalize().into()
    }

    fn raise(&mut self, n: usize, hash: [u8; HASH_BYTES], emit: &mut Emit<'_>) -> Result<(), VerityError> {
        let Some(level) = self.levels.get_mut(n) else {
            self.top = hash;
            return Ok(());
        };
        level.block[level.filled..level.filled + HASH_BYTES].copy_from_slice(&hash);
        level.filled += HASH_BYTES;
        if level.filled == BLOCK_BYTES { self.flush(n, emit) } else { Ok(()) }
    }

    fn flush(&mut self, n: usize, emit: &mut Emit<'_>) -> Result<(), VerityError> {
        let level = &mut self.levels[n];
        level.block[level.filled..].fill(0);
        emit(level.offset + level.done * BLOCK_BYTES as u64, &level.block)?;
        level.done += 1;
        level.filled = 0;
        let hash = self.hash(&self.levels[n].block);
        self.raise(n + 1, hash, emit)
    }
}

/// Computes the tree of the `length` bytes of `data` into `tree`, from its first byte on; returns the root hash.
///
/// # Errors
/// [`VerityError`]; `length` must be a whole number of blocks.
pub fn format(
    data: &mut dyn std::io::Read,
    length: u64,
    salt: &[u8],
    tree: &std::fs::File,
) -> Result<Sha256Digest, VerityError> {
    use std::os::unix::fs::FileExt as _;
    let blocks = length / BLOCK_BYTES as u64;
    if !length.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(VerityError::Length { found: blocks + 1, expected: blocks });
    }
    let mut builder = TreeBuilder::new(blocks, salt)?;
    let mut emit = |at: u64, block: &[u8; BLOCK_BYTES]| tree.write_all_at(block, at);
    let mut block = [0; BLOCK_BYTES];
    for _ in 0..blocks {
        data.read_exact(&mut block)?;
        builder.push(&block, &mut emit)?;
    }
    builder.finish(&mut emit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole tree at once, as the documentation describes it: level by level, top first.
    fn reference(data: &[u8], salt: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let digest =
            |block: &[u8]| <[u8; 32]>::from(Sha256::new_with_prefix(salt).chain_update(block).finalize());
        let mut level: Vec<[u8; 32]> = data.chunks(BLOCK_BYTES).map(digest).collect();
        let mut tree = Vec::new();
        while level.len() > 1 {
            let mut bytes = level.concat();
            bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
            level = bytes.chunks(BLOCK_BYTES).map(digest).collect();
            tree.splice(0..0, bytes);
        }
        (tree, level[0])
    }

    fn streamed(data: &[u8], salt: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree");
        let file = std::fs::File::create(&path).unwrap();
        let root = format(&mut &data[..], data.len() as u64, salt, &file).unwrap();
        (std::fs::read(path).unwrap(), root.0)
    }

    #[test]
    fn streaming_and_the_definition_agree_around_every_edge() {
        for blocks in [1, 2, 127, 128, 129, 255, 256, 257, 128 * 128, 128 * 128 + 1] {
            let data: Vec<u8> = (0..blocks * 8).flat_map(|n: u64| [n as u8; 512]).collect();
            let salt = [7; 32];
            let (tree, root) = streamed(&data, &salt);
            assert_eq!(
                (tree.len() as u64, (tree, root)),
                (tree_bytes(blocks), reference(&data, &salt)),
                "{blocks}"
            );
        }
    }

    #[test]
    fn parameters_and_lengths_are_checked() {
        assert!(TreeBuilder::new(0, &[]).is_err());
        assert!(TreeBuilder::new(MAX_DATA_BLOCKS + 1, &[]).is_err());
        assert!(TreeBuilder::new(1, &[0; MAX_SALT_BYTES + 1]).is_err());
        let mut ignore = |_: u64, _: &[u8; BLOCK_BYTES]| Ok(());
        let mut tree = TreeBuilder::new(1, &[]).unwrap();
        tree.push(&[0; BLOCK_BYTES], &mut ignore).unwrap();
        assert!(tree.push(&[0; BLOCK_BYTES], &mut ignore).is_err());
        assert!(TreeBuilder::new(2, &[]).unwrap().finish(&mut ignore).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_tree_is_the_definition(blocks in 1usize..400, salt in prop::collection::vec(any::<u8>(), 0..=32), seed: u8) {
            let data: Vec<u8> = (0..blocks * BLOCK_BYTES).map(|n| (n / 97) as u8 ^ seed).collect();
            prop_assert_eq!(streamed(&data, &salt), reference(&data, &salt));
        }
    }
}
