//! GRUB's BIOS half: where boot.img and core.img go, and what is patched in them. Pure.
//!
//! Offsets: GRUB's include/grub/i386/pc/boot.h and include/grub/offsets.h; how grub-bios-setup does it.

/// The menu that core.img's own configuration goes on with.
pub const CONFIG: &str = include_str!("grub.cfg");

/// Bytes of the MBR that belong to the boot code; behind them lie the disk signature and the table.
pub const BOOT_CODE_BYTES: usize = 440;
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: where boot.img keeps the sector of core.img.
const KERNEL_SECTOR: usize = 0x5c;
/// `GRUB_BOOT_MACHINE_DRIVE_CHECK`: a jump that grub-bios-setup replaces by two nops, so that BIOSes that hand over a
/// wrong drive number (floppy instead of disk) are corrected.
const DRIVE_CHECK: usize = 0x66;
/// The one entry of diskboot.img's list of blocks: start, length in sectors, segment to load to.
const BLOCK_LIST: usize = 0x1f4;
/// The segment of the second sector: 0x800 and one sector on.
const SEGMENT: u16 = 0x820;
/// Sectors are BIOS's own.
pub const SECTOR: usize = 512;

/// The images are not GRUB's, or do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadGrub(pub &'static str);

/// The MBR's boot code that loads core.img from sector `core_lba`.
///
/// # Errors
/// [`BadGrub`] when `boot` is not GRUB's boot.img.
pub fn boot_code(boot: &[u8], core_lba: u64) -> Result<[u8; BOOT_CODE_BYTES], BadGrub> {
    if boot.len() != SECTOR || boot[510..] != [0x55, 0xaa] || boot[0] != 0xeb || boot[DRIVE_CHECK] != 0xeb {
        return Err(BadGrub("boot.img is not GRUB's"));
    }
    let mut code = [0; BOOT_CODE_BYTES];
    code.copy_from_slice(&boot[..BOOT_CODE_BYTES]);
    code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&core_lba.to_le_bytes());
    code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    Ok(code)
}

/// core.img as it goes to `core_lba`, which has room for `room` bytes.
///
/// # Errors
/// [`BadGrub`] when it is not GRUB's, or too large.
pub fn core_image(core: &[u8], core_lba: u64, room: u64) -> Result<Vec<u8>, BadGrub> {
    let mut image = core.to_vec();
    image.resize(core.len().next_multiple_of(SECTOR), 0);
    if image.len() as u64 > room {
        return Err(BadGrub("core.img does not fit into the BIOS boot partition"));
    }
    let (Some(list), Ok(sectors)) = (
        image.get_mut(BLOCK_LIST..BLOCK_LIST + 12),
        u16::try_from(core.len().div_ceil(SECTOR).saturating_sub(1)),
    ) else {
        return Err(BadGrub("core.img is not GRUB's"));
    };
    if list[10..] != SEGMENT.to_le_bytes() || sectors == 0 {
        return Err(BadGrub("core.img is not GRUB's"));
    }
    list[..8].copy_from_slice(&(core_lba + 1).to_le_bytes());
    list[8..10].copy_from_slice(&sectors.to_le_bytes());
    Ok(image)
}

/// `entry.cfg` of a version: what loads its kernel and initramfs. Each word of the command line is quoted.
pub fn entry(version: &str, cmdline: &str) -> String {
    let words: String = cmdline
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .map(|word| format!(" '{}'", word.replace('\'', r"'\''")))
        .collect();
    format!(
        "linux /cairn/{version}/vmlinuz{words} 'cairn.boot=disk'\ninitrd /cairn/{version}/initramfs.img\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> Vec<u8> {
        let mut boot = vec![0; SECTOR];
        (boot[0], boot[DRIVE_CHECK]) = (0xeb, 0xeb);
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        boot
    }

    #[test]
    fn boot_code_points_to_the_core() {
        let code = boot_code(&boot(), 2048).unwrap();
        assert_eq!(code[KERNEL_SECTOR..KERNEL_SECTOR + 8], 2048_u64.to_le_bytes());
        assert_eq!(code[DRIVE_CHECK..DRIVE_CHECK + 2], [0x90, 0x90]);
        assert!(boot_code(&boot()[1..], 2048).is_err());
        assert!(boot_code(&[0; SECTOR], 2048).is_err());
    }

    #[test]
    fn the_core_lists_its_own_rest() {
        let mut core = vec![1; 1300];
        core[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&SEGMENT.to_le_bytes());
        let image = core_image(&core, 2048, 1 << 20).unwrap();
        assert_eq!(image.len(), 1536);
        assert_eq!(image[BLOCK_LIST..BLOCK_LIST + 8], 2049_u64.to_le_bytes());
        assert_eq!(image[BLOCK_LIST + 8..BLOCK_LIST + 10], 2_u16.to_le_bytes());
        assert!(core_image(&core, 2048, 1024).is_err());
        assert!(core_image(&[0; 1300], 2048, 1 << 20).is_err());
        assert!(core_image(&[], 2048, 1 << 20).is_err());
    }

    #[test]
    fn words_of_a_command_line_cannot_leave_it() {
        assert_eq!(
            entry("1.0", "quiet  a='b; reboot'\n"),
            "linux /cairn/1.0/vmlinuz 'quiet' 'a='\\''b;' 'reboot'\\''' 'cairn.boot=disk'\ninitrd /cairn/1.0/initramfs.img\n"
        );
    }
}
