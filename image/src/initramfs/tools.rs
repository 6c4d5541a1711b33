//! Debian's file system tools for the initramfs, with the shared libraries they need.

use std::collections::BTreeSet;

use super::cpio::Tree;
use crate::debian::{Package, capture, owners, read_in_root};
use crate::error::Error;
use crate::toolbox::Toolbox;

/// Programs, at the paths where the agent calls them (`/sbin` is a link to `/usr/sbin`).
pub const PROGRAMS: &[&str] = &["/usr/sbin/mke2fs", "/usr/sbin/e2fsck", "/usr/sbin/mkfs.vfat"];

/// Their configuration.
pub const CONFIGURATION: &[&str] = &["/etc/mke2fs.conf"];

/// What was added.
#[derive(Debug)]
pub struct Tools {
    /// Bytes of all files.
    pub bytes: u64,
    /// The Debian packages that own them.
    pub packages: Vec<Package>,
}

/// Adds the programs, their libraries and their configuration.
///
/// # Errors
/// When one of them is not in the toolbox.
pub fn add_tools(tree: &mut Tree, toolbox: &Toolbox) -> Result<Tools, Error> {
    let text = capture(toolbox.command("ldd").args(PROGRAMS), false)?;
    let mut files: BTreeSet<String> = libraries(&text);
    if files.is_empty() {
        return Err(Error::unexpected("ldd", "names no library"));
    }
    files.extend(PROGRAMS.iter().chain(CONFIGURATION).map(|&path| path.to_owned()));
    let root = toolbox.root();
    let mut bytes = 0;
    for path in &files {
        let content = read_in_root(&root, path)?;
        bytes += content.len() as u64;
        let mode = if CONFIGURATION.contains(&path.as_str()) { 0o644 } else { 0o755 };
        tree.file(path.trim_start_matches('/'), mode, content)?;
    }
    let files: Vec<String> = files.into_iter().collect();
    Ok(Tools { bytes, packages: owners(toolbox, &files)? })
}

/// Library paths in the output of `ldd`, under `/usr` as the merged layout has them. The kernel's own `linux-vdso` has
/// no file.
#[must_use]
pub fn libraries(ldd: &str) -> BTreeSet<String> {
    let words = ldd.lines().filter(|line| line.starts_with(char::is_whitespace)).filter_map(|line| {
        let (name, rest) = line.trim().split_once(' ')?;
        let path = rest.strip_prefix("=> ").map_or(name, |rest| rest.split(' ').next().unwrap_or_default());
        path.starts_with('/').then_some(path)
    });
    words
        .map(|path| if path.starts_with("/usr/") { path.to_owned() } else { format!("/usr{path}") })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ldd_output_is_read() {
        let text = "/usr/sbin/mke2fs:\n\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n/usr/sbin/mkfs.vfat:\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\tgone => not found\n";
        let found: Vec<String> = super::libraries(text).into_iter().collect();
        assert_eq!(found, ["/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib64/ld-linux-x86-64.so.2"]);
    }
}
