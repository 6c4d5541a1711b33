//! Files on their way into a layer or an image: where each goes, and what it is.
//!
//! Everything belongs to root and has one time stamp, so neither is kept. `/bin`, `/sbin`, `/lib` and `/lib64` mean their
//! namesakes below `/usr`, as in every root that Debian makes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{self, Error};

/// Directories that everybody may write to, wherever they are made.
const SHARED: [&str; 2] = ["tmp", "var/tmp"];
/// Top-level directories that are links to `/usr/<name>` in a merged root.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A directory.
    Directory,
    /// A regular file with its permission bits.
    File { source: Source, mode: u32 },
    /// A symbolic link to this target.
    Link(String),
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a file that does not change any more.
    Path(PathBuf),
    /// Here.
    Bytes(Vec<u8>),
}

/// A tree of files by their paths, without the leading `/`, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds a node and the directories above it. A directory that is there already is fine.
    ///
    /// # Errors
    /// When the path leads out of the tree, or there is something else at it or above it.
    pub(crate) fn insert(&mut self, path: &str, node: Node) -> Result<(), Error> {
        let path = merged(path.trim_start_matches('/'));
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(Error::Argument(format!("/{path} is not a plain absolute path")));
        }
        for end in 1..parts.len() {
            let parent = parts[..end].join("/");
            match self.0.entry(parent).or_insert(Node::Directory) {
                Node::Directory => {}
                _ => {
                    return Err(Error::Argument(format!(
                        "/{path}: /{} is no directory",
                        parts[..end].join("/")
                    )));
                }
            }
        }
        match self.0.get(&path) {
            None => {
                self.0.insert(path, node);
                Ok(())
            }
            Some(there) if *there == node => Ok(()),
            Some(_) => {
                Err(Error::Argument(format!("/{path} comes from two parts of the recipe; take one out")))
            }
        }
    }

    /// Every path with its node; a directory comes before what is in it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Permission bits of the directory at `path`.
    pub(crate) fn directory_mode(path: &str) -> u32 {
        if SHARED.contains(&path) { 0o1777 } else { 0o755 }
    }

    /// Makes the tree below `root`, an empty directory. Files that need no other mode are links to where they came from:
    /// nobody may write to them.
    ///
    /// # Errors
    /// When a file cannot be made.
    pub(crate) fn write(&self, root: &Path) -> Result<(), Error> {
        for (path, node) in self.iter() {
            let to = root.join(path);
            match node {
                Node::Directory => {
                    fs::create_dir(&to).map_err(error::file("create", &to))?;
                    set_mode(&to, Self::directory_mode(path))?;
                }
                Node::Link(target) => {
                    std::os::unix::fs::symlink(target, &to).map_err(error::file("link", &to))?;
                }
                Node::File { source: Source::Bytes(bytes), mode } => {
                    fs::write(&to, bytes).map_err(error::file("write", &to))?;
                    set_mode(&to, *mode)?;
                }
                Node::File { source: Source::Path(from), mode } => {
                    let there = fs::metadata(from).map_err(error::file("find", from))?;
                    if there.mode() & 0o7777 != *mode || fs::hard_link(from, &to).is_err() {
                        fs::copy(from, &to).map_err(error::file("copy", from))?;
                        set_mode(&to, *mode)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn merged(path: &str) -> String {
    match path.split_once('/') {
        Some((top, _)) if MERGED.contains(&top) => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(error::file("set the mode of", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(text: &str) -> Node {
        Node::File { source: Source::Bytes(text.as_bytes().to_vec()), mode: 0o644 }
    }

    #[test]
    fn parents_are_made_and_usr_is_merged() {
        let mut tree = Tree::default();
        tree.insert("/lib/x/y", file("a")).unwrap();
        tree.insert("/lib", Node::Link("usr/lib".to_owned())).unwrap();
        let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["lib", "usr", "usr/lib", "usr/lib/x", "usr/lib/x/y"]);
    }

    #[test]
    fn one_path_has_one_meaning() {
        let mut tree = Tree::default();
        tree.insert("/a/b", file("1")).unwrap();
        tree.insert("/a/b", file("1")).unwrap();
        for (path, node, expect) in [
            ("/a/b", file("2"), "two parts"),
            ("/a/b/c", file("1"), "no directory"),
            ("/a", file("1"), "two parts"),
            ("/../x", file("1"), "plain"),
            ("", file("1"), "plain"),
        ] {
            let error = tree.insert(path, node).unwrap_err().to_string();
            assert!(error.contains(expect), "{path}: {error}");
        }
    }

    #[test]
    fn a_written_tree_has_the_modes_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::write(&from, "x").unwrap();
        set_mode(&from, 0o600).unwrap();
        let mut tree = Tree::default();
        tree.insert("/tmp", Node::Directory).unwrap();
        tree.insert("/usr/bin/x", Node::File { source: Source::Path(from.clone()), mode: 0o755 }).unwrap();
        tree.insert("/usr/bin/y", Node::File { source: Source::Path(from.clone()), mode: 0o600 }).unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        tree.write(&root).unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("tmp"), mode("usr/bin/x"), mode("usr/bin/y")), (0o1777, 0o755, 0o600));
        assert_eq!(fs::metadata(&from).unwrap().mode() & 0o777, 0o600, "the source keeps its mode");
    }
}
