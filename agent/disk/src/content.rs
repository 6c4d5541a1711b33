//! What is on a disk: partition tables and signatures, read from its first and last bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::gpt::{self, Table};
use crate::layout::{Layout, MARK, MARK_AT, name};
use crate::signature::{HEAD_BYTES, TAIL_BYTES, detect, is_blank, parse_mbr};

/// Partitions that are looked into; a disk with more is foreign all the same.
const PARTITIONS: usize = 32;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing known, and blank where signatures lie.
    Empty,
    /// A table of ours, with nothing that says it is unfinished.
    Ours(Layout),
    /// A disk of ours that was being made when the power failed: nothing on it is of worth.
    Begun,
    /// The USB image that a node boots from.
    Stick,
    /// Somebody else's data, in a few words.
    Foreign(String),
}

/// Bytes of a device or file, read by offset; less than asked for at the end.
fn read(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// The GPT at `lba`, checked.
fn table_at(file: &File, lba: u64, sector: u32) -> io::Result<Option<Table>> {
    let at = |lba: u64| lba.checked_mul(u64::from(sector));
    let Some(offset) = at(lba) else { return Ok(None) };
    let header = gpt::parse_header(&read(file, offset, sector as usize)?).filter(|header| header.lba == lba);
    let Some(header) = header else { return Ok(None) };
    let Some(entries) = at(header.entries_lba) else { return Ok(None) };
    Ok(gpt::parse_entries(&header, &read(file, entries, header.table_bytes())?))
}

/// The partition table of a disk of `size` bytes: the primary copy, or the backup where that is damaged.
///
/// # Errors
/// What reading gave.
pub fn table(file: &File, size: u64, sector: u32) -> io::Result<Option<Table>> {
    if let Some(table) = table_at(file, 1, sector)? {
        return Ok(Some(table));
    }
    table_at(file, (size / u64::from(sector)).saturating_sub(1), sector)
}

/// Whether the mark of an unfinished disk is there.
///
/// # Errors
/// What reading gave.
pub fn is_marked(file: &File) -> io::Result<bool> {
    Ok(read(file, MARK_AT, MARK.len())? == MARK)
}

/// Looks at a disk of `size` bytes.
///
/// # Errors
/// What reading gave.
pub fn probe(file: &File, size: u64, sector: u32) -> io::Result<Content> {
    let head = read(file, 0, HEAD_BYTES.min(usize::try_from(size).unwrap_or(HEAD_BYTES)))?;
    let tail_bytes = TAIL_BYTES.min(usize::try_from(size).unwrap_or(TAIL_BYTES));
    let tail = read(file, size - tail_bytes as u64, tail_bytes)?;
    let marked = is_marked(file)?;
    if let Some(table) = table(file, size, sector)? {
        if let Some(layout) = Layout::of_table(&table, sector) {
            return Ok(if marked { Content::Begun } else { Content::Ours(layout) });
        }
        if table.numbered().any(|(_, partition)| partition.name == name::USB) {
            return Ok(Content::Stick);
        }
        let spans: Vec<_> = table
            .numbered()
            .filter_map(|(_, p)| {
                Some((p.first.checked_mul(u64::from(sector))?, p.sectors().checked_mul(u64::from(sector))?))
            })
            .collect();
        return Ok(Content::Foreign(describe("gpt", file, &spans)));
    }
    let found = detect(&head, &tail);
    // Only on a disk with nothing else at its head: where the plan allowed a wipe, it allows it again.
    if marked && found.is_empty() && is_blank(&head) {
        return Ok(Content::Begun);
    }
    if found.is_empty()
        && let Some(entries) = parse_mbr(&head)
        && !entries.is_empty()
    {
        let sector = u64::from(sector);
        let spans: Vec<_> =
            entries.iter().map(|e| (u64::from(e.first) * sector, u64::from(e.sectors) * sector)).collect();
        return Ok(Content::Foreign(describe("mbr", file, &spans)));
    }
    Ok(if !found.is_empty() {
        Content::Foreign(found.join(", "))
    } else if is_blank(&head) && is_blank(&tail) {
        Content::Empty
    } else {
        Content::Foreign("data of no known kind".to_owned())
    })
}

/// `gpt: ext4, swap, 2 unknown`. What cannot be read counts as unknown: the table alone makes the disk foreign.
fn describe(kind: &str, file: &File, spans: &[(u64, u64)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut unknown = spans.len().saturating_sub(PARTITIONS);
    for (start, length) in spans.iter().take(PARTITIONS) {
        let bounded = |bytes: usize| usize::try_from(*length).unwrap_or(bytes).min(bytes);
        let head = read(file, *start, bounded(HEAD_BYTES)).unwrap_or_default();
        let tail_bytes = bounded(TAIL_BYTES);
        let tail = start
            .checked_add(*length)
            .and_then(|end| end.checked_sub(tail_bytes as u64))
            .and_then(|at| read(file, at, tail_bytes).ok())
            .unwrap_or_default();
        match detect(&head, &tail).first() {
            Some(name) => names.push(name),
            None => unknown += 1,
        }
    }
    let mut text = names.join(", ");
    if unknown > 0 {
        text =
            if text.is_empty() { format!("{unknown} unknown") } else { format!("{text}, {unknown} unknown") };
    }
    if spans.is_empty() { format!("{kind} without partitions") } else { format!("{kind}: {text}") }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::plan::{Size, SystemDisk};

    use super::*;
    use crate::gpt::{Guid, Partition};
    use crate::layout;

    const SIZE: u64 = 64 << 20;

    fn file(writes: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        for (at, bytes) in writes {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    fn write(file: &File, table: &Table, size: u64) {
        for (at, bytes) in table.encode(size / 512, 512, &[]).unwrap().writes {
            file.write_all_at(&bytes, at).unwrap();
        }
    }

    #[test]
    fn disks_people_have() {
        for (writes, what) in [
            (vec![(0x438_u64, b"\x53\xef".as_slice())], "ext4"),
            (vec![(0, b"LUKS\xba\xbe")], "luks"),
            (vec![(777, b"x")], "data of no known kind"),
            (vec![(SIZE - 600, b"x")], "data of no known kind"),
        ] {
            assert_eq!(
                probe(&file(&writes), SIZE, 512).unwrap(),
                Content::Foreign(what.to_owned()),
                "{what}"
            );
        }
        assert_eq!(probe(&file(&[]), SIZE, 512).unwrap(), Content::Empty);
        assert_eq!(probe(&file(&[]), 0, 512).unwrap(), Content::Empty);
    }

    #[test]
    fn foreign_tables_say_what_is_in_them() {
        let part = |first, last, name: &str| {
            Some(Partition { kind: Guid([1; 16]), id: Guid([2; 16]), first, last, name: name.to_owned() })
        };
        let table =
            Table { disk: Guid([9; 16]), partitions: vec![part(2048, 4095, "a"), part(4096, 8191, "b")] };
        let disk = file(&[(2048 * 512 + 4086, b"SWAPSPACE2")]);
        write(&disk, &table, SIZE);
        assert_eq!(probe(&disk, SIZE, 512).unwrap(), Content::Foreign("gpt: swap, 1 unknown".to_owned()));
        let stick = file(&[]);
        write(&stick, &Table { partitions: vec![part(2048, 4095, name::USB)], ..table.clone() }, SIZE);
        assert_eq!(probe(&stick, SIZE, 512).unwrap(), Content::Stick);
        let empty = file(&[]);
        write(&empty, &Table { partitions: vec![], ..table }, SIZE);
        assert_eq!(probe(&empty, SIZE, 512).unwrap(), Content::Foreign("gpt without partitions".to_owned()));
        let mut mbr = vec![0; 512];
        mbr[446 + 4] = 0x83;
        mbr[446 + 9] = 8;
        mbr[446 + 13] = 8;
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        let disk = file(&[(0, &mbr), (2048 * 512 + 0x438, b"\x53\xef")]);
        assert_eq!(probe(&disk, SIZE, 512).unwrap(), Content::Foreign("mbr: ext4".to_owned()));
    }

    #[test]
    fn a_disk_of_ours_is_known_after_each_write_of_its_table() {
        let size = 4 << 30;
        let want = SystemDisk {
            esp_size: Some(Size(256 << 20)),
            state_size: Some(Size(256 << 20)),
            ..SystemDisk::default()
        };
        let layout = layout::plan(size, &want).unwrap();
        let writes = layout.table(512, &mut || [5; 16]).encode(size / 512, 512, &[]).unwrap().writes;
        for cut in 0..=writes.len() {
            let disk = tempfile::tempfile().unwrap();
            disk.set_len(size).unwrap();
            disk.write_all_at(MARK, MARK_AT).unwrap();
            for (at, bytes) in &writes[..cut] {
                disk.write_all_at(bytes, *at).unwrap();
            }
            assert_eq!(probe(&disk, size, 512).unwrap(), Content::Begun, "{cut}");
            disk.write_all_at(&[0; MARK.len()], MARK_AT).unwrap();
            let finished = probe(&disk, size, 512).unwrap();
            assert_eq!(finished == Content::Ours(layout), cut >= 2, "{cut}");
        }
    }
}
