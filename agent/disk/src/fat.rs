//! Making an empty FAT32 file system (Microsoft FAT specification 1.03, EFI's profile of it). Pure: answers the bytes.
//!
//! Own code in place of mkfs.vfat: forty fields, no foreign program to carry in the initramfs, the same bytes each time.

/// Sectors in front of the first FAT: boot sector, FSInfo, their copies at 6 and 7, as every other tool does it.
const RESERVED: u32 = 32;
/// The fewest clusters of FAT32 (specification, "FAT type determination"), with room for off-by-a-few readers.
const MIN_CLUSTERS: u64 = 65_525 + 16;
/// The most clusters.
const MAX_CLUSTERS: u64 = 0x0fff_fff5 - 16;

/// What to write, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Byte offset and bytes.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// Bytes from the start that must be zero before: reserved sectors, both FATs and the root directory.
    pub zero_bytes: u64,
    /// Clusters of the file system.
    pub clusters: u64,
}

/// An empty FAT32 of `bytes` with sectors of `sector` bytes (512 or 4096), for a partition that starts `hidden` sectors
/// into its disk. `label` has at most 11 bytes of upper-case ASCII. `None` when the size does not make a FAT32.
pub fn format(bytes: u64, sector: u32, hidden: u32, label: &str, serial: u32) -> Option<Image> {
    let sectors = u32::try_from(bytes / u64::from(sector)).ok()?;
    // The specification's table: 512-byte clusters up to 260 MB, then 4 KiB up to 8 GiB, 8 KiB up to 16 GiB.
    let cluster_bytes: u32 = match bytes {
        0..=272_629_760 => 512,
        272_629_761..=8_589_934_592 => 4096,
        8_589_934_593..=17_179_869_184 => 8192,
        _ => 32_768,
    };
    let per_cluster = (cluster_bytes / sector).max(1);
    // Each cluster costs its sectors and 4 bytes in each of two FATs.
    let data_and_fats = sectors.checked_sub(RESERVED)?;
    let per_fat_sector = u64::from(sector / 4) * u64::from(per_cluster) + 2;
    let fat_sectors =
        u32::try_from((u64::from(data_and_fats) + 2 * u64::from(per_cluster)).div_ceil(per_fat_sector))
            .ok()?;
    let clusters = u64::from(data_and_fats.checked_sub(2 * fat_sectors)? / per_cluster);
    if !(MIN_CLUSTERS..=MAX_CLUSTERS).contains(&clusters)
        || label.len() > 11
        || ![512, 4096].contains(&sector)
    {
        return None;
    }
    let mut boot = vec![0; sector as usize];
    boot[..11].copy_from_slice(b"\xeb\x58\x90CAIRN1.0");
    boot[11..13].copy_from_slice(&(sector as u16).to_le_bytes());
    boot[13] = per_cluster as u8;
    boot[14..16].copy_from_slice(&(RESERVED as u16).to_le_bytes());
    boot[16] = 2;
    boot[21] = 0xf8;
    boot[24..26].copy_from_slice(&63_u16.to_le_bytes());
    boot[26..28].copy_from_slice(&255_u16.to_le_bytes());
    boot[28..32].copy_from_slice(&hidden.to_le_bytes());
    boot[32..36].copy_from_slice(&sectors.to_le_bytes());
    boot[36..40].copy_from_slice(&fat_sectors.to_le_bytes());
    boot[44..48].copy_from_slice(&2_u32.to_le_bytes());
    boot[48..50].copy_from_slice(&1_u16.to_le_bytes());
    boot[50..52].copy_from_slice(&6_u16.to_le_bytes());
    boot[64] = 0x80;
    boot[66] = 0x29;
    boot[67..71].copy_from_slice(&serial.to_le_bytes());
    let mut padded = [b' '; 11];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    boot[71..82].copy_from_slice(&padded);
    boot[82..90].copy_from_slice(b"FAT32   ");
    // A person who boots this sector sees nothing: `jmp $`.
    boot[90..92].copy_from_slice(&[0xeb, 0xfe]);
    boot[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut info = vec![0; sector as usize];
    info[..4].copy_from_slice(b"RRaA");
    info[484..488].copy_from_slice(b"rrAa");
    info[488..492].copy_from_slice(&((clusters - 1) as u32).to_le_bytes());
    info[492..496].copy_from_slice(&2_u32.to_le_bytes());
    info[508..512].copy_from_slice(&[0, 0, 0x55, 0xaa]);
    // Media, end mark, and the root directory's one cluster.
    let fat: Vec<u8> =
        [0x0fff_fff8_u32, 0x0fff_ffff, 0x0fff_ffff].iter().flat_map(|entry| entry.to_le_bytes()).collect();
    // The root directory's first entry carries the label.
    let mut root = vec![0; 32];
    root[..11].copy_from_slice(&padded);
    root[11] = 0x08;
    let at = |lba: u32| u64::from(lba) * u64::from(sector);
    let first_data = RESERVED + 2 * fat_sectors;
    let writes = vec![
        (at(1), info.clone()),
        (at(6), boot.clone()),
        (at(7), info),
        (at(RESERVED), fat.clone()),
        (at(RESERVED + fat_sectors), fat),
        (at(first_data), root),
        // Last: without it there is no file system.
        (0, boot),
    ];
    Some(Image { writes, zero_bytes: at(first_data + per_cluster), clusters })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_that_plans_allow_become_fat32() {
        for (mib, sector) in
            [(256, 512), (260, 512), (261, 512), (2048, 512), (16 << 10, 512), (2048, 4096), (512, 4096)]
        {
            assert!(format(mib << 20, sector, 4096, "CAIRN-ESP", 1).is_some(), "{mib} MiB of {sector}");
        }
        assert_eq!(format(16 << 20, 512, 0, "X", 1), None);
        assert_eq!(format(1 << 44, 512, 0, "X", 1), None);
    }

    proptest! {
        #[test]
        fn everything_lies_inside(bytes in 0_u64..1 << 42, wide: bool) {
            if let Some(image) = format(bytes, if wide { 4096 } else { 512 }, 0, "CAIRN-ESP", 7) {
                prop_assert!(image.zero_bytes <= bytes);
                for (at, write) in &image.writes {
                    prop_assert!(at + write.len() as u64 <= image.zero_bytes);
                }
            }
        }
    }
}
