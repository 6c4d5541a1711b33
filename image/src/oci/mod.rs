//! Container images as OCI archives: what `ctr images import` reads, the same bytes each time.
//!
//! One image has one uncompressed layer: the archive lies in an erofs layer whose chunks are compressed on the wire anyway, and a
//! node that imports it has nothing to unpack. Its entries are sorted, root's, of one time.

mod layer;
mod spec;

use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::error::{self, Error};
use crate::parts::tree::Tree;

/// What an image is, beside its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image<'a> {
    /// Full name with a tag.
    pub(crate) reference: &'a str,
    /// What is started.
    pub(crate) entrypoint: &'a [String],
    /// `NAME=value`.
    pub(crate) env: &'a [String],
    /// `user` or `user:group`, numbers.
    pub(crate) user: Option<&'a str>,
}

/// Time stamp of everything in an archive.
const MTIME: u64 = 0;

/// Writes the archive of `image` with the files of `tree` to `to`, by way of the file `scratch`. Answers with the manifest's
/// digest, `sha256:<hex>`, which is what a runtime knows the image by.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn write(image: &Image<'_>, tree: &Tree, to: &Path, scratch: &Path) -> Result<String, Error> {
    let layer = layer::write(tree, scratch)?;
    let config = spec::config(image, &layer);
    let manifest = spec::manifest(&config, &layer);
    let index = spec::index(image, &manifest);
    let file = File::create(to).map_err(error::file("create", to))?;
    let written = (|| -> io::Result<()> {
        let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
        let small = [
            ("oci-layout".to_owned(), spec::LAYOUT.as_bytes()),
            ("index.json".to_owned(), &index),
            (blob(&hex(&manifest)), &manifest),
            (blob(&hex(&config)), &config),
        ];
        for (name, bytes) in small {
            append(&mut archive, &name, bytes.len() as u64, bytes)?;
        }
        append(&mut archive, &blob(&layer.sha256), layer.length, File::open(scratch)?)?;
        archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.flush()
    })();
    written.map_err(error::file("write", to))?;
    Ok(format!("sha256:{}", hex(&manifest)))
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn append<W: io::Write>(
    to: &mut tar::Builder<W>,
    name: &str,
    length: u64,
    data: impl Read,
) -> io::Result<()> {
    let mut header = header(EntryType::Regular, 0o644);
    header.set_size(length);
    to.append_data(&mut header, name, data)
}

/// Root's, of one time.
fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(MTIME);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parts::tree::{Node, Source};

    fn tree() -> Tree {
        let mut tree = Tree::default();
        let file = |text: &[u8]| Source::Bytes(text.to_vec());
        tree.insert("/pause", Node::File { source: file(b"#!program"), mode: 0o755 }).unwrap();
        tree.insert("/tmp", Node::Directory).unwrap();
        tree.insert("/etc/motd", Node::File { source: file(b"hello\n"), mode: 0o644 }).unwrap();
        tree.insert("/bin", Node::Link("usr/bin".to_owned())).unwrap();
        tree
    }

    fn archive() -> (String, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let (to, scratch) = (dir.path().join("a.tar"), dir.path().join("layer"));
        let entrypoint = ["/pause".to_owned()];
        let image = Image {
            reference: "example.org/x/pause:3.10",
            entrypoint: &entrypoint,
            env: &[],
            user: Some("65535:65535"),
        };
        let digest = write(&image, &tree(), &to, &scratch).unwrap();
        (digest, std::fs::read(to).unwrap())
    }

    fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        tar::Archive::new(bytes)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut data = Vec::new();
                entry.read_to_end(&mut data).unwrap();
                (entry.path().unwrap().to_string_lossy().into_owned(), data)
            })
            .collect()
    }

    #[test]
    fn the_bytes_are_these() {
        let (digest, bytes) = archive();
        assert_eq!((digest, bytes.clone()), archive());
        assert_eq!(hex(&bytes), include_str!("../../tests/golden/pause.tar.sha256").trim());
    }

    #[test]
    fn every_blob_has_the_digest_that_names_it_and_is_reached_from_the_index() {
        let (digest, bytes) = archive();
        let files = entries(&bytes);
        assert_eq!(files[0].0, "oci-layout");
        let find = |name: &str| files.iter().find(|(path, _)| path == name).unwrap().1.clone();
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let blob = |descriptor: &serde_json::Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let data = find(&digest.replace("sha256:", "blobs/sha256/"));
            assert_eq!(descriptor["size"].as_u64().unwrap(), data.len() as u64);
            assert_eq!(format!("sha256:{}", hex(&data)), digest);
            data
        };
        let index = json(&find("index.json"));
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], digest);
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "example.org/x/pause:3.10");
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "3.10");
        let manifest = json(&blob(entry));
        let config = json(&blob(&manifest["config"]));
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["config"]["Entrypoint"][0], "/pause");
        assert_eq!(config["config"]["User"], "65535:65535");
        let names: Vec<String> = entries(&layer).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["bin", "etc/", "etc/motd", "pause", "tmp/"]);
    }
}
