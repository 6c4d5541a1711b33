//! The partitions of a system disk: BIOS boot, ESP, STATE, DATA. Pure arithmetic.

use cairn_protocol::plan::{Size, SystemDisk};

use crate::gpt::{Guid, Partition, Table};

/// Partition types. The first two are the specifications' own, so that firmware and GRUB find them; STATE and DATA have
/// types of ours, because no other system may take them for its own.
pub mod kind {
    use crate::gpt::Guid;

    /// BIOS boot partition (GRUB).
    pub const BIOS: Guid = Guid::new("21686148-6449-6E6F-744E-656564454649");
    /// EFI system partition (UEFI 2.10, 5.3.3).
    pub const ESP: Guid = Guid::new("C12A7328-F81F-11D2-BA4B-00C04FD430C8");
    /// Cairn's STATE.
    pub const STATE: Guid = Guid::new("276C3FEE-AC6D-468D-AADF-136DC091DCFF");
    /// Cairn's DATA.
    pub const DATA: Guid = Guid::new("DDB830F5-28E4-40AB-B3EE-8345F6747556");
}

/// Partition names, as they lie in the table.
pub mod name {
    /// BIOS boot.
    pub const BIOS: &str = "cairn-bios";
    /// ESP.
    pub const ESP: &str = "cairn-esp";
    /// STATE.
    pub const STATE: &str = "cairn-state";
    /// DATA.
    pub const DATA: &str = "cairn-data";
    /// The ESP of the USB image: a disk that has it is the stick that a node was booted from.
    pub const USB: &str = "cairn-usb";
}

/// Every partition starts at a multiple of this: flash erase blocks and RAID stripes divide it.
pub const ALIGN_BYTES: u64 = 1 << 20;
/// The BIOS boot partition: GRUB's core image has 100 to 200 KiB.
pub const BIOS_BYTES: u64 = 1 << 20;
/// The ESP when the plan says nothing: some 50 UKIs, or a few with firmware for every card.
pub const DEFAULT_ESP_BYTES: u64 = 2 << 30;
/// STATE when the plan says nothing.
pub const DEFAULT_STATE_BYTES: u64 = 4 << 30;
/// The least DATA: two generations of a base layer beside a small `/var`.
pub const MIN_DATA_BYTES: u64 = 1 << 30;

/// Where the mark of an unfinished disk lies: the last 4096 bytes of the BIOS boot partition, which GRUB never reaches.
pub const MARK_AT: u64 = ALIGN_BYTES + BIOS_BYTES - 4096;
/// The mark. It is there from before the first byte of a table is written until after `install.json` was: a disk that
/// has it was being made when the power failed, and is made again.
pub const MARK: &[u8; 32] = b"cairn: this disk is being made\n\0";

/// Partition numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Part {
    /// BIOS boot.
    Bios = 1,
    /// ESP.
    Esp = 2,
    /// STATE.
    State = 3,
    /// DATA.
    Data = 4,
}

/// Where a partition lies, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Where the four partitions lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// BIOS boot.
    pub bios: Span,
    /// ESP.
    pub esp: Span,
    /// STATE.
    pub state: Span,
    /// DATA.
    pub data: Span,
}

/// The disk is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSmall {
    /// The least size in bytes that would do.
    pub needed: u64,
}

/// The layout that `want` asks for on a disk of `size` bytes. Sizes are rounded up to whole [`ALIGN_BYTES`].
///
/// # Errors
/// [`TooSmall`], saying how large it must be.
pub fn plan(size: u64, want: &SystemDisk) -> Result<Layout, TooSmall> {
    let round = |size: Option<Size>, default: u64| {
        size.map_or(default, |size| size.0).max(ALIGN_BYTES).div_ceil(ALIGN_BYTES).saturating_mul(ALIGN_BYTES)
    };
    let (esp, state) = (round(want.esp_size, DEFAULT_ESP_BYTES), round(want.state_size, DEFAULT_STATE_BYTES));
    // One unit for the table in front of the partitions, one for its copy behind them.
    let fixed = (2 * ALIGN_BYTES + BIOS_BYTES).saturating_add(esp).saturating_add(state);
    let needed = fixed.saturating_add(MIN_DATA_BYTES);
    if size < needed {
        return Err(TooSmall { needed });
    }
    let mut start = ALIGN_BYTES;
    let mut next = |length| {
        let span = Span { start, length };
        start += length;
        span
    };
    let (bios, esp, state) = (next(BIOS_BYTES), next(esp), next(state));
    let data = next((size - fixed) / ALIGN_BYTES * ALIGN_BYTES);
    Ok(Layout { bios, esp, state, data })
}

impl Layout {
    /// The partition table of this layout; `random` gives bytes for the ids of the disk and each partition.
    pub fn table(&self, sector_bytes: u32, random: &mut dyn FnMut() -> [u8; 16]) -> Table {
        let sector = u64::from(sector_bytes);
        let disk = Guid::random(random());
        let partitions = [
            (self.bios, kind::BIOS, name::BIOS),
            (self.esp, kind::ESP, name::ESP),
            (self.state, kind::STATE, name::STATE),
            (self.data, kind::DATA, name::DATA),
        ]
        .into_iter()
        .map(|(span, kind, name)| {
            let first = span.start / sector;
            let last = (span.start + span.length) / sector - 1;
            Some(Partition { kind, id: Guid::random(random()), first, last, name: name.to_owned() })
        })
        .collect();
        Table { disk, partitions }
    }

    /// Recognises a table of ours, whatever its sizes: STATE and DATA by their types, the ESP and BIOS boot beside them.
    pub fn of_table(table: &Table, sector_bytes: u32) -> Option<Self> {
        let span = |part: Part, kind: Guid| {
            let partition = table.partitions.get(part as usize - 1)?.as_ref()?;
            let sector = u64::from(sector_bytes);
            (partition.kind == kind).then_some(())?;
            Some(Span {
                start: partition.first.checked_mul(sector)?,
                length: partition.sectors().checked_mul(sector)?,
            })
        };
        Some(Self {
            bios: span(Part::Bios, kind::BIOS)?,
            esp: span(Part::Esp, kind::ESP)?,
            state: span(Part::State, kind::STATE)?,
            data: span(Part::Data, kind::DATA)?,
        })
    }

    /// Where `part` lies.
    pub fn span(&self, part: Part) -> Span {
        match part {
            Part::Bios => self.bios,
            Part::Esp => self.esp,
            Part::State => self.state,
            Part::Data => self.data,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_default_layout_of_an_8_gib_disk() {
        let layout = plan(8 * GIB, &SystemDisk::default()).unwrap();
        assert_eq!(layout.bios, Span { start: 1 << 20, length: 1 << 20 });
        assert_eq!(layout.esp, Span { start: 2 << 20, length: 2 * GIB });
        assert_eq!(layout.state, Span { start: (2 << 20) + 2 * GIB, length: 4 * GIB });
        assert_eq!(layout.data, Span { start: (2 << 20) + 6 * GIB, length: 2 * GIB - (3 << 20) });
    }

    #[test]
    fn a_small_disk_says_how_large_it_must_be() {
        let needed = 7 * GIB + (3 << 20);
        assert_eq!(plan(4 * GIB, &SystemDisk::default()), Err(TooSmall { needed }));
        assert!(plan(needed, &SystemDisk::default()).is_ok());
        assert!(plan(needed - 1, &SystemDisk::default()).is_err());
    }

    proptest! {
        #[test]
        fn partitions_are_aligned_and_apart_and_read_back(
            size in 0_u64..1 << 50, esp in prop::option::of(0_u64..1 << 36), state in prop::option::of(0_u64..1 << 36), wide: bool
        ) {
            let want = SystemDisk { esp_size: esp.map(Size), state_size: state.map(Size), ..SystemDisk::default() };
            let sector = if wide { 4096 } else { 512 };
            let size = size / sector * sector;
            match plan(size, &want) {
                Err(TooSmall { needed }) => prop_assert!(needed > size),
                Ok(layout) => {
                    let mut end = ALIGN_BYTES;
                    for span in [layout.bios, layout.esp, layout.state, layout.data] {
                        prop_assert_eq!(span.start, end);
                        prop_assert_eq!(span.length % ALIGN_BYTES, 0);
                        end += span.length;
                    }
                    prop_assert!(end + ALIGN_BYTES <= size);
                    prop_assert!(layout.data.length >= MIN_DATA_BYTES);
                    let table = layout.table(sector as u32, &mut || [7; 16]);
                    prop_assert!(table.encode(size / sector, sector as u32, &[]).is_some());
                    prop_assert_eq!(Layout::of_table(&table, sector as u32), Some(layout));
                }
            }
        }
    }
}
