//! Recognising what lies on a disk or partition by its magic bytes. Pure, and total on any bytes.
//!
//! Offsets and magics are those of libblkid's probes (util-linux, libblkid/src/superblocks) and the formats' own headers.

/// Bytes from the start of a disk or partition that [`detect`] looks at: ZFS keeps its uberblocks from 128 to 256 KiB,
/// VMware's its volume header at 1 MiB.
pub const HEAD_BYTES: usize = (1 << 20) + 4096;
/// Bytes from the end that it looks at: old md superblocks lie up to 128 KiB before it.
pub const TAIL_BYTES: usize = 128 << 10;

/// One magic: offset from the start, bytes, name.
const HEAD: &[(usize, &[u8], &str)] = &[
    (0x438, b"\x53\xef", "ext4"),
    (0, b"XFSB", "xfs"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (0x52, b"FAT32   ", "vfat"),
    (0x36, b"FAT16   ", "vfat"),
    (0x36, b"FAT12   ", "vfat"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"\xfc\x4e\x2b\xa9", "md raid"),
    (4096, b"\xfc\x4e\x2b\xa9", "md raid"),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (0x8001, b"CD001", "iso9660"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (0, b"bluestore block device", "ceph bluestore"),
    (0x10_0000, b"\x0d\xd0\x01\xc0", "vmfs"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    (0x1_0000, b"\x01\x16\x19\x70", "gfs2"),
];

/// ZFS's uberblock, in either byte order.
const UBERBLOCK: [[u8; 8]; 2] = [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()];

/// What was recognised in `head` (from the first byte) and `tail` (up to the last byte), each name once.
pub fn detect(head: &[u8], tail: &[u8]) -> Vec<&'static str> {
    let mut found: Vec<&'static str> =
        HEAD.iter().filter(|(at, magic, _)| at_offset(head, *at, magic)).map(|(_, _, name)| *name).collect();
    // LVM2 labels lie in one of the first four sectors.
    if (0..4).any(|sector| {
        at_offset(head, 512 * sector, b"LABELONE") && at_offset(head, 512 * sector + 24, b"LVM2 001")
    }) {
        found.push("lvm2");
    }
    if (128 << 10..256 << 10).step_by(1024).any(|at| UBERBLOCK.iter().any(|magic| at_offset(head, at, magic)))
    {
        found.push("zfs");
    }
    // md 0.90 and 1.0 lie near the end at a multiple of 4096 bytes.
    if tail.len().is_multiple_of(512) {
        let from_end =
            |back: usize, magic: &[u8]| tail.len() >= back && at_offset(tail, tail.len() - back, magic);
        if (4096..=TAIL_BYTES).step_by(512).any(|back| from_end(back, b"\xfc\x4e\x2b\xa9")) {
            found.push("md raid");
        }
        if from_end(512, b"\xde\x11\xde\x11") || from_end(1024, b"Intel Raid ISM") {
            found.push("firmware raid");
        }
    }
    let mut seen = Vec::new();
    found.retain(|name| {
        !seen.contains(name) && {
            seen.push(*name);
            true
        }
    });
    found
}

fn at_offset(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// Whether `bytes` look never written: all zeros, or all ones as erased flash gives them.
pub fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0) || bytes.iter().all(|byte| *byte == 0xff)
}

/// One entry of an MBR's partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MbrEntry {
    /// The type byte; 0xEE is a GPT's protective entry.
    pub kind: u8,
    /// First sector.
    pub first: u32,
    /// Number of sectors.
    pub sectors: u32,
}

/// The used entries of an MBR; `None` when the sector is none. A FAT or NTFS boot sector ends in the same two bytes:
/// entries whose flag is neither 0 nor 0x80 say that it is no table.
pub fn parse_mbr(sector: &[u8]) -> Option<Vec<MbrEntry>> {
    let table = sector.get(446..512)?;
    if table[64..] != [0x55, 0xaa] || table[..64].chunks_exact(16).any(|entry| entry[0] & 0x7f != 0) {
        return None;
    }
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let entries = table[..64]
        .chunks_exact(16)
        .map(|entry| MbrEntry { kind: entry[4], first: word(&entry[8..]), sectors: word(&entry[12..]) })
        .filter(|entry| entry.kind != 0 && entry.sectors != 0)
        .collect();
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_magic_is_found_where_it_lies() {
        for (at, magic, name) in HEAD {
            let mut head = vec![0; HEAD_BYTES];
            head[*at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(detect(&head, &[]), [*name], "{name}");
        }
    }

    #[test]
    fn what_needs_more_than_a_magic() {
        let mut lvm = vec![0; HEAD_BYTES];
        lvm[512..520].copy_from_slice(b"LABELONE");
        assert!(detect(&lvm, &[]).is_empty());
        lvm[536..544].copy_from_slice(b"LVM2 001");
        assert_eq!(detect(&lvm, &[]), ["lvm2"]);
        let mut zfs = vec![0; HEAD_BYTES];
        zfs[(130 << 10)..(130 << 10) + 8].copy_from_slice(&UBERBLOCK[1]);
        assert_eq!(detect(&zfs, &[]), ["zfs"]);
        let mut tail = vec![0; TAIL_BYTES];
        tail[TAIL_BYTES - 8192..][..4].copy_from_slice(b"\xfc\x4e\x2b\xa9");
        assert_eq!(detect(&[], &tail), ["md raid"]);
    }

    #[test]
    fn an_mbr_is_told_from_a_boot_sector() {
        let mut sector = vec![0; 512];
        assert_eq!(parse_mbr(&sector), None);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(parse_mbr(&sector), Some(vec![]));
        sector[446 + 4] = 0x83;
        sector[446 + 8] = 1;
        sector[446 + 12] = 2;
        assert_eq!(parse_mbr(&sector), Some(vec![MbrEntry { kind: 0x83, first: 1, sectors: 2 }]));
        sector[446] = 0x41;
        assert_eq!(parse_mbr(&sector), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(head in prop::collection::vec(any::<u8>(), 0..6000), tail in prop::collection::vec(any::<u8>(), 0..6000)) {
            let _ = detect(&head, &tail);
            let _ = parse_mbr(&head);
        }
    }
}
