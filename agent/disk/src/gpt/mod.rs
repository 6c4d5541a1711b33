//! GUID partition tables (UEFI 2.10, chapter 5): written and read as bytes, no I/O.

mod crc32;
mod guid;

use crc32::crc32;
pub use guid::Guid;

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Revision 1.0, the only one there is.
const REVISION: u32 = 0x0001_0000;
/// Bytes of a header that its CRC covers.
const HEADER_BYTES: usize = 92;
/// Bytes of an entry.
const ENTRY_BYTES: usize = 128;
/// Entries of a table: the least that the specification allows, and what every tool writes.
pub const ENTRIES: usize = 128;
/// Bytes of a table's entries.
pub const TABLE_BYTES: usize = ENTRIES * ENTRY_BYTES;
/// Entries of a foreign table that are looked at. 128 are usual; some tools write more.
const MAX_ENTRIES: u32 = 1024;
/// UTF-16 units of a name.
const NAME_UNITS: usize = 36;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its type.
    pub kind: Guid,
    /// Its own id.
    pub id: Guid,
    /// First sector.
    pub first: u64,
    /// Last sector, inclusive.
    pub last: u64,
    /// Its name, at most 36 UTF-16 units.
    pub name: String,
}

impl Partition {
    /// Number of sectors.
    pub fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// A partition table. Unused entries are kept as `None`: a partition's number is its place plus one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's id.
    pub disk: Guid,
    /// The partitions.
    pub partitions: Vec<Option<Partition>>,
}

/// What is written to a disk, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Byte offset and bytes, in the order of writing: the backup first, so that at any moment one copy is whole.
    pub writes: Vec<(u64, Vec<u8>)>,
}

/// A header, checked against its own CRC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The sector that the header says it lies in.
    pub lba: u64,
    /// First sector of its entries.
    pub entries_lba: u64,
    /// Number of entries.
    pub entries: u32,
    /// Bytes of an entry.
    pub entry_bytes: u32,
    /// The disk's id.
    pub disk: Guid,
    entries_crc: u32,
}

impl Header {
    /// Bytes of its entries.
    pub fn table_bytes(&self) -> usize {
        self.entries as usize * self.entry_bytes as usize
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    let mut guid = [0; 16];
    guid.copy_from_slice(&bytes[at..at + 16]);
    Guid(guid)
}

/// Reads a header from the bytes of its sector; `None` when it is none, or its CRC is wrong, or its numbers are absurd.
pub fn parse_header(sector: &[u8]) -> Option<Header> {
    let length = u32_at(sector.get(..HEADER_BYTES)?, 12) as usize;
    if &sector[..8] != SIGNATURE || !(HEADER_BYTES..=sector.len()).contains(&length) {
        return None;
    }
    let mut covered = sector[..length].to_vec();
    covered[16..20].fill(0);
    if crc32(&covered) != u32_at(sector, 16) {
        return None;
    }
    let header = Header {
        lba: u64_at(sector, 24),
        entries_lba: u64_at(sector, 72),
        entries: u32_at(sector, 80),
        entry_bytes: u32_at(sector, 84),
        entries_crc: u32_at(sector, 88),
        disk: guid_at(sector, 56),
    };
    let sane = header.entries <= MAX_ENTRIES && [128, 256, 512].contains(&header.entry_bytes);
    sane.then_some(header)
}

/// Reads the entries of `header` from `bytes`; `None` when they are not those that the header's CRC covers.
pub fn parse_entries(header: &Header, bytes: &[u8]) -> Option<Table> {
    let bytes = bytes.get(..header.table_bytes())?;
    if crc32(bytes) != header.entries_crc {
        return None;
    }
    let partitions = bytes
        .chunks_exact(header.entry_bytes as usize)
        .map(|entry| {
            let (kind, first, last) = (guid_at(entry, 0), u64_at(entry, 32), u64_at(entry, 40));
            let units: Vec<u16> = entry[56..56 + 2 * NAME_UNITS]
                .chunks_exact(2)
                .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                .take_while(|unit| *unit != 0)
                .collect();
            (kind != Guid::ZERO && first <= last && last < u64::MAX).then(|| Partition {
                kind,
                id: guid_at(entry, 16),
                first,
                last,
                name: String::from_utf16_lossy(&units),
            })
        })
        .collect();
    Some(Table { disk: header.disk, partitions })
}

impl Table {
    /// The partitions with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, &Partition)> {
        (1..).zip(&self.partitions).filter_map(|(number, partition)| Some((number, partition.as_ref()?)))
    }

    /// The bytes of this table on a disk of `sectors` sectors of `sector_bytes`, with `boot_code` (at most 440 bytes)
    /// in the protective MBR. `None` when the disk is too small for it, or there are more than [`ENTRIES`] partitions.
    pub fn encode(&self, sectors: u64, sector_bytes: u32, boot_code: &[u8]) -> Option<Encoded> {
        let sector = sector_bytes as usize;
        let table_sectors = (TABLE_BYTES as u64).div_ceil(u64::from(sector_bytes));
        let last_lba = sectors.checked_sub(1)?;
        let (first_usable, last_usable) = (2 + table_sectors, last_lba.checked_sub(table_sectors + 1)?);
        let fits = |p: &Partition| p.first >= first_usable && p.last <= last_usable && p.first <= p.last;
        if self.partitions.len() > ENTRIES || boot_code.len() > 440 || !self.numbered().all(|(_, p)| fits(p))
        {
            return None;
        }
        let mut entries = vec![0; table_sectors as usize * sector];
        for (number, partition) in self.numbered() {
            let entry = &mut entries[(number as usize - 1) * ENTRY_BYTES..][..ENTRY_BYTES];
            entry[..16].copy_from_slice(&partition.kind.0);
            entry[16..32].copy_from_slice(&partition.id.0);
            entry[32..40].copy_from_slice(&partition.first.to_le_bytes());
            entry[40..48].copy_from_slice(&partition.last.to_le_bytes());
            for (n, unit) in partition.name.encode_utf16().take(NAME_UNITS).enumerate() {
                entry[56 + 2 * n..58 + 2 * n].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let header = |lba: u64, other: u64, entries_lba: u64| {
            let mut bytes = vec![0; sector];
            bytes[..8].copy_from_slice(SIGNATURE);
            bytes[8..12].copy_from_slice(&REVISION.to_le_bytes());
            bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
            for (at, value) in
                [(24, lba), (32, other), (40, first_usable), (48, last_usable), (72, entries_lba)]
            {
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            bytes[56..72].copy_from_slice(&self.disk.0);
            bytes[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
            bytes[84..88].copy_from_slice(&(ENTRY_BYTES as u32).to_le_bytes());
            bytes[88..92].copy_from_slice(&crc32(&entries[..TABLE_BYTES]).to_le_bytes());
            let crc = crc32(&bytes[..HEADER_BYTES]);
            bytes[16..20].copy_from_slice(&crc.to_le_bytes());
            bytes
        };
        let at = |lba: u64| lba * u64::from(sector_bytes);
        let primary = header(1, last_lba, 2);
        let backup = header(last_lba, 1, last_usable + 1);
        let writes = vec![
            (at(last_usable + 1), entries.clone()),
            (at(last_lba), backup),
            (at(2), entries),
            (at(1), primary),
            (0, protective_mbr(sectors, boot_code)),
        ];
        Some(Encoded { writes })
    }
}

/// The protective MBR (UEFI 2.10, 5.2.3): one entry of type 0xEE over the whole disk. The entry is marked active,
/// against the letter of the specification: some BIOSes do not boot a disk on which none is.
fn protective_mbr(sectors: u64, boot_code: &[u8]) -> Vec<u8> {
    let mut mbr = vec![0; 512];
    mbr[..boot_code.len()].copy_from_slice(boot_code);
    let entry = &mut mbr[446..462];
    entry[0] = 0x80;
    entry[1..4].copy_from_slice(&[0, 2, 0]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff; 3]);
    entry[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let length = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    entry[12..16].copy_from_slice(&length.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Table {
        Table {
            disk: Guid([9; 16]),
            partitions: vec![
                Some(Partition {
                    kind: Guid([1; 16]),
                    id: Guid([2; 16]),
                    first: 2048,
                    last: 4095,
                    name: "cairn-bios".to_owned(),
                }),
                None,
                Some(Partition {
                    kind: Guid([3; 16]),
                    id: Guid([4; 16]),
                    first: 4096,
                    last: 8191,
                    name: "ä€𝄞".to_owned(),
                }),
            ],
        }
    }

    fn disk(encoded: &Encoded, bytes: usize) -> Vec<u8> {
        let mut disk = vec![0; bytes];
        for (at, write) in &encoded.writes {
            disk[*at as usize..*at as usize + write.len()].copy_from_slice(write);
        }
        disk
    }

    #[test]
    fn both_copies_read_back() {
        for sector in [512_usize, 4096] {
            let sectors = 16384;
            let disk = disk(&table().encode(sectors, sector as u32, &[]).unwrap(), sector * sectors as usize);
            for lba in [1, sectors - 1] {
                let header = parse_header(&disk[lba as usize * sector..][..sector]).unwrap();
                assert_eq!(header.lba, lba);
                let read = parse_entries(&header, &disk[header.entries_lba as usize * sector..]).unwrap();
                assert_eq!(read.partitions[..3], table().partitions[..]);
                assert_eq!(read.numbered().map(|(n, _)| n).collect::<Vec<_>>(), [1, 3]);
            }
        }
    }

    #[test]
    fn a_flipped_byte_is_noticed() {
        let disk = disk(&table().encode(16384, 512, &[]).unwrap(), 512 * 16384);
        for at in [512 + 9, 512 + 60, 512 + 91] {
            let mut sector = disk[512..1024].to_vec();
            sector[at - 512] ^= 1;
            assert_eq!(parse_header(&sector), None, "{at}");
        }
        let header = parse_header(&disk[512..1024]).unwrap();
        let mut entries = disk[1024..1024 + TABLE_BYTES].to_vec();
        entries[100] ^= 1;
        assert_eq!(parse_entries(&header, &entries), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(table().encode(100, 512, &[]).is_none());
        assert!(table().encode(8192 + 33, 512, &[]).is_some());
        assert!(table().encode(8192 + 32, 512, &[]).is_none());
        assert!(table().encode(16384, 512, &[0; 441]).is_none());
        assert!(Table { disk: Guid::ZERO, partitions: vec![] }.encode(0, 512, &[]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(header) = parse_header(&bytes) {
                let _ = parse_entries(&header, &bytes);
            }
        }
    }
}
