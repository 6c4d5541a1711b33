//! The way back: the files of an initramfs in a folder, for a node that is a container and has no kernel to unpack it.
//!
//! Reads what [`crate::build`] writes: archives in cpio "newc" format one after the other, plain, zstd or LZ4, with zeros
//! between.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::lz4;
use crate::error::{self, Error};

/// Bytes of all archives together, unpacked. The full driver set has 60 MB.
const MAX_BYTES: u64 = 1 << 30;
/// Longest path of an entry, the NUL at its end included (PATH_MAX of linux/limits.h).
const MAX_NAME: usize = 4096;
/// zstd's frame magic (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// cpio's.
const NEWC: &[u8; 6] = b"070701";
/// Bytes of an entry's header: the magic and 13 fields of 8 digits.
const HEADER: usize = 6 + 13 * 8;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Unpacks `initramfs` below `target`, an existing folder. Entries whose path `skip` answers to are left out, and so are
/// device nodes: whoever runs the folder as a root has devices of its own.
///
/// # Errors
/// When it cannot be read or is no initramfs, when a path leads out of `target` or through a link, or a file cannot be
/// written.
pub fn unpack(initramfs: &Path, target: &Path, skip: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let bytes = fs::read(initramfs).map_err(error::file("read", initramfs))?;
    let bad = |what: String| Error::unexpected(initramfs.display().to_string(), what);
    let archives = archives(&bytes).map_err(bad)?;
    let mut rest = archives.as_slice();
    loop {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[zeros..];
        if rest.is_empty() {
            return Ok(());
        }
        let (entry, after) = entry(rest).map_err(bad)?;
        rest = after;
        if entry.name != TRAILER && !skip(&entry.name) {
            let at = place(target, &entry.name).ok_or_else(|| bad(format!("an entry {:?}", entry.name)))?;
            write(&entry, &at)?;
        }
    }
}

/// The archives, uncompressed, one after the other.
fn archives(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    while let Some(start) = rest.iter().position(|byte| *byte != 0) {
        rest = &rest[start..];
        if rest.starts_with(&lz4::MAGIC) {
            let room = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX).saturating_sub(out.len());
            let (archive, after) = lz4::unpack(rest, room)?;
            out.extend_from_slice(&archive);
            rest = after;
            continue;
        }
        if !rest.starts_with(&ZSTD) {
            // Plain ones come last: what follows is theirs.
            out.extend_from_slice(rest);
            break;
        }
        let text = |e: std::io::Error| e.to_string();
        let mut decoder = zstd::stream::read::Decoder::with_buffer(rest).map_err(text)?.single_frame();
        decoder.window_log_max(crate::compress::WINDOW_LOG).map_err(text)?;
        (&mut decoder).take(MAX_BYTES).read_to_end(&mut out).map_err(text)?;
        if out.len() as u64 >= MAX_BYTES {
            return Err(format!("more than {MAX_BYTES} bytes"));
        }
        rest = decoder.finish();
    }
    Ok(out)
}

struct Entry<'a> {
    name: String,
    mode: u32,
    content: &'a [u8],
}

/// The first entry, and what comes after it.
fn entry(bytes: &[u8]) -> Result<(Entry<'_>, &[u8]), String> {
    let short = || "it ends in the middle of an entry".to_owned();
    let header = bytes.get(..HEADER).ok_or_else(short)?;
    if !header.starts_with(NEWC) {
        return Err("neither cpio, zstd nor LZ4".to_owned());
    }
    let field = |index: usize| {
        let digits = &header[6 + index * 8..14 + index * 8];
        let text =
            std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        text.and_then(|text| u32::from_str_radix(text, 16).ok()).ok_or("a field that is no number")
    };
    let (mode, size, name_size) = (field(1)?, field(6)? as usize, field(11)? as usize);
    if name_size == 0 || name_size > MAX_NAME {
        return Err(format!("a name of {name_size} bytes"));
    }
    let name = bytes.get(HEADER..HEADER + name_size - 1).ok_or_else(short)?;
    let name = std::str::from_utf8(name).map_err(|_| "a name that is no text")?.to_owned();
    let start = (HEADER + name_size).next_multiple_of(4);
    let content = bytes.get(start..start + size).ok_or_else(short)?;
    // The last padding may be cut off.
    let end = (start + size).next_multiple_of(4).min(bytes.len());
    Ok((Entry { name, mode, content }, &bytes[end..]))
}

/// Where an entry goes; none for a path that is not plain, or that leads through a link.
fn place(target: &Path, name: &str) -> Option<PathBuf> {
    let plain = !name.contains('\0') && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let through_link = name.match_indices('/').any(|(end, _)| target.join(&name[..end]).is_symlink());
    (plain && !through_link).then(|| target.join(name))
}

fn write(entry: &Entry<'_>, at: &Path) -> Result<(), Error> {
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent).map_err(error::file("create", parent))?;
    }
    match entry.mode & 0o170_000 {
        0o040_000 => fs::create_dir_all(at).map_err(error::file("create", at))?,
        0o120_000 => {
            let link = String::from_utf8_lossy(entry.content).into_owned();
            return symlink(link, at).map_err(error::file("create", at));
        }
        0o100_000 => fs::write(at, entry.content).map_err(error::file("write", at))?,
        _ => return Ok(()),
    }
    let permissions = fs::Permissions::from_mode(entry.mode & 0o7777);
    fs::set_permissions(at, permissions).map_err(error::file("protect", at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::cpio::Tree;
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.file("init", 0o755, b"#!".to_vec()).unwrap();
        tree.file("usr/lib/modules/1/a.ko", 0o644, b"x".to_vec()).unwrap();
        tree.link("lib", "usr/lib").unwrap();
        tree.character("dev/console", 0o600, 5, 1).unwrap();
        tree
    }

    fn initramfs(dir: &Path) -> PathBuf {
        let mut trust = Tree::default();
        trust.file("etc/cairn/ca.pin", 0o600, b"pin".to_vec()).unwrap();
        let mut bytes = crate::compress::zstd(&tree().archive()).unwrap();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(crate::compress::zstd(&trust.archive()).unwrap());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let mut agent = Tree::default();
        agent.file("agent", 0o755, b"elf".to_vec()).unwrap();
        bytes.extend(lz4::pack(&agent.archive()));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let mut last = Tree::default();
        last.file("last", 0o644, vec![7; 5]).unwrap();
        bytes.extend(last.archive());
        let path = dir.join("initramfs.img");
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_was_packed_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (initramfs(dir.path()), dir.path().join("root"));
        fs::create_dir(&target).unwrap();
        unpack(&path, &target, &|name| name.starts_with("usr/lib/modules/")).unwrap();
        let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(fs::read(target.join("init")).unwrap(), b"#!");
        assert_eq!((mode("init"), mode("etc/cairn/ca.pin")), (0o755, 0o600));
        assert_eq!(fs::read_link(target.join("lib")).unwrap(), Path::new("usr/lib"));
        assert_eq!(fs::read(target.join("last")).unwrap(), [7; 5]);
        assert_eq!(fs::read(target.join("agent")).unwrap(), b"elf");
        assert!(target.join("dev").is_dir() && !target.join("dev/console").exists());
        assert!(target.join("usr/lib/modules").is_dir() && !target.join("usr/lib/modules/1").exists());
    }

    #[test]
    fn nothing_is_written_outside() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("root");
        fs::create_dir(&target).unwrap();
        for name in ["../out", "/out", "a//b", "link/out"] {
            let mut tree = Tree::default();
            tree.link("link", "..").unwrap();
            // The writer refuses such paths: the name is put in afterwards.
            tree.file(&"x".repeat(name.len()), 0o644, b"x".to_vec()).unwrap();
            let mut bytes = tree.archive();
            let at = bytes.windows(name.len()).position(|window| window.iter().all(|b| *b == b'x')).unwrap();
            bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
            let path = dir.path().join("bad");
            fs::write(&path, bytes).unwrap();
            let _ = fs::remove_file(target.join("link"));
            assert!(unpack(&path, &target, &|_| false).is_err(), "{name}");
            assert!(!dir.path().join("out").exists(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), whole: bool) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("any");
            let bytes = if whole { [NEWC.as_slice(), &bytes].concat() } else { bytes };
            fs::write(&path, bytes).unwrap();
            let _ = unpack(&path, &dir.path().join("root"), &|_| true);
        }
    }
}
