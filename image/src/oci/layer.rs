//! A tree of files as an image's layer: a tar archive, hashed while it is written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::header;
use crate::error::{self, Error};
use crate::parts::tree::{Node, Source, Tree};

/// A written layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// Of all its bytes, hexadecimal.
    pub(super) sha256: String,
    /// Bytes.
    pub(super) length: u64,
}

/// Writes the layer to `to`.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn write(tree: &Tree, to: &Path) -> Result<Layer, Error> {
    let file = File::create(to).map_err(error::file("create", to))?;
    let hashing = Hashing { to: file, hash: Sha256::new(), length: 0 };
    let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, hashing));
    for (path, node) in tree.iter() {
        append(&mut archive, path, node).map_err(|source| match node {
            Node::File { source: Source::Path(from), .. } => error::file("archive", from)(source),
            _ => error::file("write", to)(source),
        })?;
    }
    let done = archive
        .into_inner()
        .and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error))
        .map_err(error::file("write", to))?;
    Ok(Layer { sha256: hex::encode(done.hash.finalize()), length: done.length })
}

fn append<W: Write>(archive: &mut tar::Builder<W>, path: &str, node: &Node) -> io::Result<()> {
    match node {
        Node::Directory => {
            let mut header = header(EntryType::Directory, Tree::directory_mode(path));
            archive.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Node::Link(target) => {
            let mut header = header(EntryType::Symlink, 0o777);
            archive.append_link(&mut header, path, target)
        }
        Node::File { source: Source::Bytes(bytes), mode } => {
            let mut header = header(EntryType::Regular, *mode);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, bytes.as_slice())
        }
        Node::File { source: Source::Path(from), mode } => {
            let file = File::open(from)?;
            let mut header = header(EntryType::Regular, *mode);
            header.set_size(file.metadata()?.len());
            archive.append_data(&mut header, path, file)
        }
    }
}

struct Hashing {
    to: File,
    hash: Sha256,
    length: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
