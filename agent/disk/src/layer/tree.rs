//! Reading a dm-verity tree from the top down: every block is checked before a hash in it is believed.
//!
//! Holds one block for each level, so a layer of any size is checked in a few dozen KiB.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use cairn_bundle::verity::BLOCK_BYTES;
use cairn_protocol::ids::Sha256Digest;
use sha2::{Digest as _, Sha256};

const HASH_BYTES: u64 = 32;
const HASHES_PER_BLOCK: u64 = BLOCK_BYTES as u64 / HASH_BYTES;

/// What does not match its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadBlock {
    /// A block of the layer, counted in 4096 bytes.
    Data(u64),
    /// A block of the tree.
    Tree(u64),
}

/// A checked block, and which one of its level it is.
type Cached = Option<(u64, Box<[u8; BLOCK_BYTES]>)>;

struct Level {
    /// First block of the level in the tree's file; the top level is the first.
    first: u64,
    checked: Cached,
}

/// A tree and the layer that it covers.
pub(super) struct Tree<'a> {
    data: &'a File,
    tree: &'a File,
    salted: Sha256,
    root: Sha256Digest,
    /// From the lowest up.
    levels: Vec<Level>,
}

/// Reads a whole block; one that cannot be read, or ends early, is as bad as one with other bytes.
fn read_block(file: &File, block: u64) -> Option<Box<[u8; BLOCK_BYTES]>> {
    let mut bytes = Box::new([0; BLOCK_BYTES]);
    loop {
        match file.read_exact_at(bytes.as_mut_slice(), block.checked_mul(BLOCK_BYTES as u64)?) {
            Ok(()) => return Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(
        data: &'a File,
        tree: &'a File,
        data_blocks: u64,
        salt: &[u8],
        root: Sha256Digest,
    ) -> Self {
        let mut counts = Vec::new();
        let mut below = data_blocks;
        while below > 1 {
            below = below.div_ceil(HASHES_PER_BLOCK);
            counts.push(below);
        }
        let mut first: u64 = counts.iter().sum();
        let levels = counts
            .iter()
            .map(|count| {
                first -= count;
                Level { first, checked: None }
            })
            .collect();
        Self { data, tree, salted: Sha256::new_with_prefix(salt), root, levels }
    }

    fn hash(&self, bytes: &[u8]) -> Sha256Digest {
        let mut hasher = self.salted.clone();
        hasher.update(bytes);
        Sha256Digest(hasher.finalize().into())
    }

    /// The hash that item `index` of level `level` must have; the level below the lowest is the data.
    fn expected(&mut self, level: usize, index: u64) -> Result<Sha256Digest, BadBlock> {
        if level == self.levels.len() {
            return Ok(self.root);
        }
        let block = index / HASHES_PER_BLOCK;
        if !matches!(&self.levels[level].checked, Some((cached, _)) if *cached == block) {
            let expected = self.expected(level + 1, block)?;
            let at = self.levels[level].first + block;
            let bytes = read_block(self.tree, at).filter(|bytes| self.hash(bytes.as_slice()) == expected);
            self.levels[level].checked = Some((block, bytes.ok_or(BadBlock::Tree(at))?));
        }
        let Some((_, bytes)) = &self.levels[level].checked else { return Err(BadBlock::Tree(0)) };
        let at = (index % HASHES_PER_BLOCK * HASH_BYTES) as usize;
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[at..at + 32]);
        Ok(Sha256Digest(hash))
    }

    /// Checks data block `index`, and all of the tree on the way to it; answers its bytes.
    pub(super) fn check(&mut self, index: u64) -> Result<Box<[u8; BLOCK_BYTES]>, BadBlock> {
        let expected = self.expected(0, index)?;
        read_block(self.data, index)
            .filter(|bytes| self.hash(bytes.as_slice()) == expected)
            .ok_or(BadBlock::Data(index))
    }
}
