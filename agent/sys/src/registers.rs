//! A device's memory-mapped registers, read through sysfs (kernel: Documentation/PCI/sysfs-pci.rst, `resource0..N`).

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::ptr::NonNull;

use crate::{Result, SysError};

/// The longest window that is mapped, bytes: what is read here (AHCI with 32 ports) has 4352.
const LONGEST: u64 = 64 << 10;

/// A mapped window of 32-bit registers that are only read.
#[derive(Debug)]
pub struct Registers {
    base: NonNull<u32>,
    bytes: usize,
}

impl Registers {
    /// Maps the start of a PCI device's memory region, such as `/sys/bus/pci/devices/0000:00:1f.2/resource5`.
    ///
    /// # Errors
    /// [`SysError`]: the region does not exist, is none of memory, or the kernel is locked down (Secure Boot).
    pub fn map(path: &Path) -> Result<Self> {
        let at = |e| SysError::at("map the registers", path)(e);
        let file = File::open(path).map_err(at)?;
        // sysfs gives the region's length as the file's. A page at a time can be mapped.
        let bytes = file.metadata().map_err(at)?.len().min(LONGEST);
        let bytes = usize::try_from(bytes).unwrap_or(0);
        if bytes < 4 {
            return Err(at(std::io::ErrorKind::InvalidData.into()));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice, read-only, of a file that stays mapped after it
        // is closed; nothing else in this process knows the address.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(at(std::io::Error::last_os_error()));
        }
        let base = NonNull::new(address.cast()).ok_or_else(|| at(std::io::ErrorKind::InvalidData.into()))?;
        Ok(Self { base, bytes })
    }

    /// The register at `offset` bytes, a multiple of 4; `None` beyond the window. A device that is off reads as all ones.
    pub fn read(&self, offset: usize) -> Option<u32> {
        if !offset.is_multiple_of(4) || offset.checked_add(4)? > self.bytes {
            return None;
        }
        // SAFETY: aligned and inside of the mapping, which lives as long as `self`; volatile because a device answers.
        let value = unsafe { self.base.as_ptr().add(offset / 4).read_volatile() };
        Some(u32::from_le(value))
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, whose only owner this is.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn words_of_a_file_and_nothing_beyond() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 9, 9]).unwrap();
        let registers = Registers::map(file.path()).unwrap();
        assert_eq!(registers.read(0), Some(1));
        assert_eq!(registers.read(4), Some(0x7fff_ffff));
        for outside in [2, 8, 12, usize::MAX & !3] {
            assert_eq!(registers.read(outside), None, "{outside}");
        }
    }

    #[test]
    fn no_region_is_an_error() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let error = Registers::map(empty.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot map the registers /"), "{error}");
        assert!(Registers::map(Path::new("/no/such")).is_err());
    }
}
