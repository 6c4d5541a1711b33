//! Sizes of block devices, and rereading of partition tables (include/uapi/linux/fs.h).

use std::fs::File;
use std::path::Path;

use crate::ioctl::{get_u32, get_u64, number, with_buffer, with_value};
use crate::{Result, SysError};

/// `BLKRRPART`: reread the partition table.
const REREAD: libc::Ioctl = number(0, 0x12, 95, 0);
/// `BLKFLSBUF`: write out and forget the device's cached pages.
const FLUSH: libc::Ioctl = number(0, 0x12, 97, 0);
/// `BLKSSZGET`: logical sector size; takes a pointer although its number says no argument.
const SECTOR: libc::Ioctl = number(0, 0x12, 104, 0);
/// `BLKGETSIZE64`: size in bytes.
const SIZE: libc::Ioctl = number(2, 0x12, 114, size_of::<usize>());

/// The device's size in bytes.
///
/// # Errors
/// [`SysError`], `ENOTTY` for what is not a block device.
pub fn size(device: &File, path: &Path) -> Result<u64> {
    let mut buffer = [0; 8];
    with_buffer(device, SIZE, &mut buffer).map_err(SysError::at("read the size of", path))?;
    Ok(get_u64(&buffer, 0))
}

/// The device's logical sector size in bytes.
///
/// # Errors
/// As [`size`].
pub fn sector_size(device: &File, path: &Path) -> Result<u32> {
    let mut buffer = [0; 4];
    with_buffer(device, SECTOR, &mut buffer).map_err(SysError::at("read the sector size of", path))?;
    Ok(get_u32(&buffer, 0))
}

/// Makes the kernel read the partition table again. Its partitions appear in /dev some time later.
///
/// # Errors
/// [`SysError`], `EBUSY` while a partition is mounted or held.
pub fn reread_partitions(device: &File, path: &Path) -> Result<()> {
    with_value(device, REREAD, 0).map_err(SysError::at("reread the partition table of", path))?;
    Ok(())
}

/// Writes out and drops the device's cached pages, so that the next read comes from the medium.
///
/// # Errors
/// [`SysError`].
pub fn drop_cache(device: &File, path: &Path) -> Result<()> {
    with_value(device, FLUSH, 0).map_err(SysError::at("flush the cache of", path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        assert_eq!(REREAD, 0x125f);
        assert_eq!(FLUSH, 0x1261);
        assert_eq!(SECTOR, 0x1268);
        assert_eq!(SIZE, 0x8008_1272);
    }

    #[test]
    fn a_plain_file_has_no_device_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = size(file.as_file(), file.path()).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOTTY));
        assert!(error.to_string().contains("read the size of"), "{error}");
    }
}
