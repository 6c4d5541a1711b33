//! An archive in the kernel's initramfs format: cpio "newc" (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Made for the same bytes every time: entries sorted by path with their parent directories made up, owner 0, one
//! mtime, inode numbers counted.

use std::collections::BTreeMap;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Link(String),
    /// Character device with major and minor number.
    Character(u32, u32),
}

/// A tree of files to be archived. Paths are relative, `/`-separated, without `.` or `..`.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, (u32, Kind)>,
}

/// mtime of every entry: 2020-01-01T00:00:00Z. Not 0: e2fsprogs and others take that as "no time".
pub const MTIME: u32 = 1_577_836_800;

/// newc keeps file sizes in 32 bits.
const MAX_FILE: usize = u32::MAX as usize;

/// A tree that cannot be archived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The path is absolute, empty, or has empty, `.` or `..` parts.
    #[error("`{0}` is not a plain relative path")]
    Path(String),
    /// The same path twice, or below something that is not a directory.
    #[error("`{0}` is in the archive already, as something else")]
    Conflict(String),
    /// More than 4 GiB.
    #[error("`{0}` is too large for a cpio archive")]
    TooLarge(String),
}

impl Tree {
    /// Adds a regular file. `mode`: permission bits such as `0o755`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) -> Result<(), Error> {
        if content.len() > MAX_FILE {
            return Err(Error::TooLarge(path.to_owned()));
        }
        self.insert(path, mode & 0o7777, Kind::File(content))
    }

    /// Adds a directory with mode 0755; there already is fine.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn directory(&mut self, path: &str) -> Result<(), Error> {
        self.insert(path, 0o755, Kind::Directory)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), Error> {
        self.insert(path, 0o777, Kind::Link(target.to_owned()))
    }

    /// Adds a character device node.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn character(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<(), Error> {
        self.insert(path, mode & 0o7777, Kind::Character(major, minor))
    }

    fn insert(&mut self, path: &str, mode: u32, kind: Kind) -> Result<(), Error> {
        let plain = !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain {
            return Err(Error::Path(path.to_owned()));
        }
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            match self.entries.get(parent) {
                None => drop(self.entries.insert(parent.to_owned(), (0o755, Kind::Directory))),
                Some((_, Kind::Directory)) => {}
                Some(_) => return Err(Error::Conflict(parent.to_owned())),
            }
        }
        match self.entries.get(path) {
            Some((_, there)) if *there == Kind::Directory && kind == Kind::Directory => Ok(()),
            Some((_, there)) if *there == kind => Ok(()),
            Some(_) => Err(Error::Conflict(path.to_owned())),
            None => {
                self.entries.insert(path.to_owned(), (mode, kind));
                Ok(())
            }
        }
    }

    /// Bytes of all regular files.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let sizes =
            self.entries.values().map(|(_, kind)| if let Kind::File(c) = kind { c.len() as u64 } else { 0 });
        sizes.sum()
    }

    /// Paths in archive order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Content of a regular file.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        match self.entries.get(path) {
            Some((_, Kind::File(content))) => Some(content),
            _ => None,
        }
    }

    /// The archive, padded with zeros to a multiple of 512.
    #[must_use]
    pub fn archive(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, (path, (mode, kind))) in self.entries.iter().enumerate() {
            let (file_type, content, device) = match kind {
                Kind::Directory => (0o040_000, &[][..], (0, 0)),
                Kind::File(content) => (0o100_000, content.as_slice(), (0, 0)),
                Kind::Link(target) => (0o120_000, target.as_bytes(), (0, 0)),
                Kind::Character(major, minor) => (0o020_000, &[][..], (*major, *minor)),
            };
            // Wrapping is out of reach: a u32 of entries does not fit in memory.
            entry(&mut out, index as u32 + 1, path, file_type | mode, content, device);
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[], (0, 0));
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn entry(out: &mut Vec<u8>, inode: u32, path: &str, mode: u32, content: &[u8], device: (u32, u32)) {
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    let mtime = if mode == 0 { 0 } else { MTIME };
    let name_bytes = path.len() as u32 + 1;
    let fields = [
        inode,
        mode,
        0, // uid
        0, // gid
        links,
        mtime,
        content.len() as u32,
        0, // device of the file system, major and minor
        0,
        device.0,
        device.1,
        name_bytes,
        0, // checksum, unused in this variant
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad4(out);
    out.extend_from_slice(content);
    pad4(out);
}

fn pad4(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn order_of_adding_does_not_matter() {
        let mut one = Tree::default();
        one.file("a/b", 0o644, b"x".to_vec()).unwrap();
        one.link("c", "a/b").unwrap();
        let mut two = Tree::default();
        two.link("c", "a/b").unwrap();
        two.directory("a").unwrap();
        two.file("a/b", 0o644, b"x".to_vec()).unwrap();
        assert_eq!(one.archive(), two.archive());
    }

    #[test]
    fn golden_bytes() {
        let mut tree = Tree::default();
        tree.file("f", 0o755, b"hi".to_vec()).unwrap();
        let archive = tree.archive();
        let head = "07070100000001000081ED0000000000000000000000015E0BE100000000020000000000000000\
                    00000000000000000000000200000000f\0hi\0\0";
        assert_eq!(String::from_utf8_lossy(&archive[..head.len()]), head);
        assert!(archive[head.len()..].starts_with(b"07070100000000"));
        assert_eq!(archive.len(), 512);
    }

    #[test]
    fn refusals() {
        let mut tree = Tree::default();
        for path in ["", "/a", "a//b", "a/../b", "./a", "a/", "a\0b"] {
            assert_eq!(tree.file(path, 0o644, vec![]), Err(Error::Path(path.to_owned())), "{path:?}");
        }
        tree.file("a", 0o644, vec![]).unwrap();
        assert_eq!(tree.file("a/b", 0o644, vec![]), Err(Error::Conflict("a".into())));
        assert_eq!(tree.file("a", 0o644, vec![1]), Err(Error::Conflict("a".into())));
    }
}
