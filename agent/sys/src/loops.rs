//! Loop devices (include/uapi/linux/loop.h): a file, or a part of one, as a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use crate::ioctl::{get_u64, number, put, with_buffer, with_value};
use crate::{Result, SysError};

const CONTROL: &str = "/dev/loop-control";
/// `LOOP_CTL_GET_FREE`.
const GET_FREE: libc::Ioctl = number(0, b'L', 0x82, 0);
/// `LOOP_CONFIGURE`, since Linux 5.8: everything in one call, so no half-made device is ever seen.
const CONFIGURE: libc::Ioctl = number(0, b'L', 0x0a, 0);
/// `LOOP_CLR_FD`.
const DETACH: libc::Ioctl = number(0, b'L', 0x01, 0);
/// `LOOP_GET_STATUS64`.
const STATUS: libc::Ioctl = number(0, b'L', 0x05, 0);

const FLAG_READ_ONLY: u32 = 1;
const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;

/// Bytes of `struct loop_info64`.
const INFO_BYTES: usize = 232;
/// Bytes of `struct loop_config`: descriptor, block size, the info, eight reserved words.
const CONFIG_BYTES: usize = 8 + INFO_BYTES + 64;

/// Tries to get a free device that another process took in between. Each collision means another one got its device,
/// so this many in a row do not happen by chance.
const TRIES: u32 = 64;

/// What of a file becomes a device, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Refuse writes.
    pub read_only: bool,
    /// First byte. A multiple of the block size.
    pub offset: u64,
    /// Number of bytes; 0 for all up to the end.
    pub length: u64,
    /// Logical block size: 0 (512), or a power of two from 512 to 4096.
    pub block_size: u32,
    /// Bypass the file's page cache where the file system can: what is read is cached once, above the device.
    pub direct_io: bool,
}

/// An attached loop device. The kernel detaches it when its last user is gone: this value, a mount, or a device-mapper
/// table that stands on it.
#[derive(Debug)]
pub struct LoopDevice {
    device: File,
    path: PathBuf,
}

fn config(fd: i32, name: &Path, options: &Options, direct_io: bool) -> [u8; CONFIG_BYTES] {
    let mut buffer = [0; CONFIG_BYTES];
    put(&mut buffer, 0, &fd.to_ne_bytes());
    put(&mut buffer, 4, &options.block_size.to_ne_bytes());
    let info = &mut buffer[8..8 + INFO_BYTES];
    put(info, 24, &options.offset.to_ne_bytes());
    put(info, 32, &options.length.to_ne_bytes());
    let mut flags = FLAG_AUTOCLEAR;
    if options.read_only {
        flags |= FLAG_READ_ONLY;
    }
    if direct_io {
        flags |= FLAG_DIRECT_IO;
    }
    put(info, 52, &flags.to_ne_bytes());
    // For people who look at /sys/block/loop*/loop/backing_file's short form; 63 bytes and a NUL.
    let name = name.as_os_str().as_encoded_bytes();
    put(info, 56, &name[..name.len().min(63)]);
    buffer
}

/// Attaches `file` (opened for writing unless `options.read_only`); `path` names it in errors.
///
/// # Errors
/// [`SysError`]: `ENOENT` when the kernel has no loop driver loaded.
pub fn attach(file: &File, path: &Path, options: &Options) -> Result<LoopDevice> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(SysError::at("open (is the module loop loaded?)", CONTROL))?;
    let mut direct_io = options.direct_io;
    for _ in 0..TRIES {
        let index = with_value(&control, GET_FREE, 0)
            .map_err(SysError::at("get a free loop device from", CONTROL))?;
        let device_path = PathBuf::from(format!("/dev/loop{index}"));
        let device = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(&device_path)
            .map_err(SysError::at("open", &device_path))?;
        let mut request = config(file.as_raw_fd(), path, options, direct_io);
        match with_buffer(&device, CONFIGURE, &mut request) {
            Ok(_) => return Ok(LoopDevice { device, path: device_path }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            // The file system cannot do direct I/O at this block size: the cached way always works.
            Err(error) if direct_io && error.raw_os_error() == Some(libc::EINVAL) => direct_io = false,
            Err(error) => return Err(SysError::at("attach a loop device to", path)(error)),
        }
    }
    Err(SysError::at("attach a loop device to", path)(io::Error::from_raw_os_error(libc::EBUSY)))
}

impl LoopDevice {
    /// The device's path, such as `/dev/loop3`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device itself.
    pub fn device(&self) -> &File {
        &self.device
    }

    /// Offset and length in bytes (0: to the end) of the file's part that it shows.
    ///
    /// # Errors
    /// [`SysError`].
    pub fn window(&self) -> Result<(u64, u64)> {
        let mut info = [0; INFO_BYTES];
        with_buffer(&self.device, STATUS, &mut info).map_err(SysError::at("ask about", &self.path))?;
        Ok((get_u64(&info, 24), get_u64(&info, 32)))
    }

    /// Detaches it now, or, while it is in use, when its last user is gone. Dropping does the same.
    ///
    /// # Errors
    /// [`SysError`].
    pub fn detach(self) -> Result<()> {
        with_value(&self.device, DETACH, 0).map_err(SysError::at("detach", &self.path))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::ioctl::get_u32;

    fn is_read_only(device: &LoopDevice) -> bool {
        let mut info = [0; INFO_BYTES];
        with_buffer(&device.device, STATUS, &mut info).unwrap();
        get_u32(&info, 52) & FLAG_READ_ONLY != 0
    }

    #[test]
    fn layout_is_that_of_the_header() {
        assert_eq!(CONFIG_BYTES, 304);
        assert_eq!((GET_FREE, CONFIGURE, DETACH, STATUS), (0x4c82, 0x4c0a, 0x4c01, 0x4c05));
        let options =
            Options { read_only: true, offset: 0x1122, length: 0x3344, block_size: 4096, direct_io: true };
        let buffer = config(7, Path::new("/x"), &options, true);
        assert_eq!(get_u32(&buffer, 0), 7);
        assert_eq!(get_u32(&buffer, 4), 4096);
        assert_eq!(get_u64(&buffer, 8 + 24), 0x1122);
        assert_eq!(get_u64(&buffer, 8 + 32), 0x3344);
        assert_eq!(get_u32(&buffer, 8 + 52), 1 | 4 | 16);
        assert_eq!(&buffer[8 + 56..8 + 59], b"/x\0");
    }

    #[test]
    fn a_part_of_a_file_becomes_a_device() {
        if !Path::new(CONTROL).exists() {
            eprintln!("not run: there is no {CONTROL} here");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 1 << 20];
        bytes[65_536..65_536 + 5].copy_from_slice(b"cairn");
        std::fs::write(file.path(), &bytes).unwrap();
        let options = Options { read_only: true, offset: 65_536, length: 4096, ..Options::default() };
        let device = attach(file.as_file(), file.path(), &options).unwrap();
        assert_eq!(device.window().unwrap(), (65_536, 4096));
        assert!(is_read_only(&device));
        assert_eq!(crate::block::size(device.device(), device.path()).unwrap(), 4096);
        assert_eq!(crate::block::sector_size(device.device(), device.path()).unwrap(), 512);
        let mut start = [0; 5];
        (&mut device.device()).read_exact(&mut start).unwrap();
        assert_eq!(&start, b"cairn");
        device.detach().unwrap();
    }
}
