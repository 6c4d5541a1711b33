//! Layers on DATA: `layers/<sha256>.erofs` and its hash tree `<sha256>.verity`, checked and attached.
//!
//! Root hash, salt and length come from the verified manifest alone. The kernel checks each block as it is read; what is
//! done here is to say early and in words which layer is damaged and where, and what of it to fetch again.

mod attach;
mod tree;

use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use cairn_bundle::durable;
use cairn_bundle::manifest::Component;
use cairn_bundle::verity::{BLOCK_BYTES, TreeBuilder, tree_bytes};
use cairn_protocol::ids::Sha256Digest;

pub use attach::{Attached, attach, attach_plain};
pub use tree::BadBlock;
use tree::Tree;

/// DATA's directory of layers.
pub const DIRECTORY: &str = "layers";
/// erofs' magic and where it lies (fs/erofs/erofs_fs.h).
const EROFS_MAGIC: (usize, [u8; 4]) = (1024, 0xe0f5_e1e2_u32.to_le_bytes());

/// A layer as a manifest describes it, and where its files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name, such as `base`.
    pub name: String,
    /// The erofs image.
    pub file: PathBuf,
    /// Its hash tree, without a superblock.
    pub tree: PathBuf,
    /// What the tree's top must hash to.
    pub root_hash: Sha256Digest,
    /// Put in front of every block that is hashed.
    pub salt: Vec<u8>,
    /// Length of the image in blocks of 4096 bytes.
    pub data_blocks: u64,
}

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its bytes are not those that the manifest names.
    #[error("layer {layer} is damaged: {what}")]
    Corrupt {
        /// Its name.
        layer: String,
        /// Which block, or what else.
        what: String,
        /// The first bad block, where one is known.
        block: Option<BadBlock>,
    },
    /// A file is missing or cannot be opened.
    #[error("layer {layer} cannot be used: {source}")]
    Io {
        /// Its name.
        layer: String,
        /// Why.
        source: crate::error::DiskError,
    },
}

impl LayerError {
    /// The stable word for console and events, where this is a refusal.
    pub fn code(&self) -> Option<&'static str> {
        matches!(self, Self::Corrupt { .. }).then_some("layer-corrupt")
    }

    /// What a person can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => {
                "nothing: the damaged part is fetched again; if it happens often, replace the disk"
            }
            Self::Io { source, .. } => source.advice(),
        }
    }
}

/// How much of a layer is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Lengths, the tree's top and the way down to the block with the superblock: milliseconds, at every boot.
    Quick,
    /// Every block: as long as reading the file takes.
    Full,
}

impl Layer {
    /// The layer that `component` of a verified manifest describes, with its files in `layers`; `None` for a component
    /// that is no layer.
    pub fn of_component(component: &Component, layers: &Path) -> Option<Self> {
        let verity = &component.layer.as_ref()?.verity;
        Some(Self {
            name: component.name.clone(),
            file: layers.join(format!("{}.erofs", component.sha256)),
            tree: layers.join(format!("{}.verity", component.sha256)),
            root_hash: verity.root_hash,
            salt: verity.salt.clone(),
            data_blocks: verity.data_blocks,
        })
    }

    fn corrupt(&self, what: impl Into<String>) -> LayerError {
        LayerError::Corrupt { layer: self.name.clone(), what: what.into(), block: None }
    }

    fn bad(&self, block: BadBlock) -> LayerError {
        let what = match block {
            BadBlock::Data(n) => format!("block {n} is not what its hash says"),
            BadBlock::Tree(n) => format!("block {n} of its hash tree is not what its hash says"),
        };
        LayerError::Corrupt { layer: self.name.clone(), what, block: Some(block) }
    }

    fn open(&self, path: &Path, length: u64) -> Result<File, LayerError> {
        let io = |source| LayerError::Io { layer: self.name.clone(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.corrupt(format!("{} is missing", path.display())));
            }
            Err(error) => return Err(io(crate::error::DiskError::io("open", path)(error))),
        };
        match file.metadata() {
            Ok(metadata) if metadata.len() == length => Ok(file),
            Ok(metadata) => {
                let found = metadata.len();
                Err(self.corrupt(format!("{} has {found} bytes instead of {length}", path.display())))
            }
            Err(error) => Err(io(crate::error::DiskError::io("read", path)(error))),
        }
    }

    fn open_both(&self) -> Result<(File, File), LayerError> {
        let data = self.open(&self.file, self.data_blocks.saturating_mul(BLOCK_BYTES as u64))?;
        Ok((data, self.open(&self.tree, tree_bytes(self.data_blocks))?))
    }

    fn tree<'a>(&self, data: &'a File, tree: &'a File) -> Tree<'a> {
        Tree::new(data, tree, self.data_blocks, &self.salt, self.root_hash)
    }
}

/// Checks a layer's files against its root hash.
///
/// # Errors
/// [`LayerError::Corrupt`] for the first block that is wrong.
pub fn check(layer: &Layer, depth: Depth) -> Result<(), LayerError> {
    let (data, tree) = layer.open_both()?;
    let mut tree = layer.tree(&data, &tree);
    let first = tree.check(0).map_err(|block| layer.bad(block))?;
    if !first[EROFS_MAGIC.0..].starts_with(&EROFS_MAGIC.1) {
        return Err(layer.corrupt("it is no erofs image"));
    }
    if depth == Depth::Full {
        for block in 1..layer.data_blocks {
            tree.check(block).map_err(|block| layer.bad(block))?;
        }
    }
    Ok(())
}

/// Which ranges of `range_bytes` (a multiple of 4096) of the image are damaged, by index: what to fetch again. The tree
/// must be whole; [`rebuild_tree`] says whether it is alone at fault.
///
/// # Errors
/// [`LayerError::Corrupt`] when the tree itself is damaged, or a file's length is wrong.
pub fn bad_ranges(layer: &Layer, range_bytes: u64) -> Result<Vec<u64>, LayerError> {
    let (data, tree) = layer.open_both()?;
    let mut tree = layer.tree(&data, &tree);
    let per_range = (range_bytes / BLOCK_BYTES as u64).max(1);
    let mut bad = Vec::new();
    let mut block = 0;
    while block < layer.data_blocks {
        match tree.check(block) {
            Ok(_) => block += 1,
            Err(BadBlock::Data(_)) => {
                bad.push(block / per_range);
                // The rest of this range is fetched anyway.
                block = (block / per_range + 1) * per_range;
            }
            Err(other) => return Err(layer.bad(other)),
        }
    }
    Ok(bad)
}

/// Computes the tree from the image, and writes it if it comes to the root hash: mends a damaged or missing tree whose
/// image is whole.
///
/// # Errors
/// [`LayerError::Corrupt`] when the image is damaged too.
pub fn rebuild_tree(layer: &Layer) -> Result<(), LayerError> {
    let io = |source| LayerError::Io { layer: layer.name.clone(), source };
    let data = layer.open(&layer.file, layer.data_blocks.saturating_mul(BLOCK_BYTES as u64))?;
    let temporary = layer.tree.with_extension("verity.new");
    let file =
        File::create(&temporary).map_err(|e| io(crate::error::DiskError::io("create", &temporary)(e)))?;
    let mut builder =
        TreeBuilder::new(layer.data_blocks, &layer.salt).map_err(|e| layer.corrupt(e.to_string()))?;
    let mut reader = BufReader::with_capacity(1 << 20, data);
    let mut emit = |at: u64, block: &[u8; BLOCK_BYTES]| file.write_all_at(block, at);
    let mut block = [0; BLOCK_BYTES];
    for _ in 0..layer.data_blocks {
        reader.read_exact(&mut block).map_err(|e| io(crate::error::DiskError::io("read", &layer.file)(e)))?;
        builder.push(&block, &mut emit).map_err(|e| layer.corrupt(e.to_string()))?;
    }
    let root = builder.finish(&mut emit).map_err(|e| layer.corrupt(e.to_string()))?;
    if root != layer.root_hash {
        let _ = std::fs::remove_file(&temporary);
        return Err(layer.corrupt("its root hash is not the one that its manifest names"));
    }
    (&file)
        .flush()
        .and_then(|()| file.sync_all())
        .map_err(|e| io(crate::error::DiskError::io("sync", &temporary)(e)))?;
    durable::rename(&temporary, &layer.tree).map_err(|e| io(e.into()))
}

#[cfg(test)]
mod tests;
