//! The three shapes of ioctl(2) that this crate uses, and the numbers' arithmetic.

use std::io;
use std::os::fd::AsRawFd;

/// `_IOC` of include/uapi/asm-generic/ioctl.h: direction (1 write, 2 read, both bits for both), argument size, type
/// and number.
pub(crate) const fn number(direction: u32, kind: u8, nr: u8, size: usize) -> libc::Ioctl {
    ((direction << 30) | ((size as u32) << 16) | ((kind as u32) << 8) | nr as u32) as libc::Ioctl
}

/// An ioctl whose argument is a plain number, or that takes none.
pub(crate) fn with_value(fd: &impl AsRawFd, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: callers in this crate use this for requests whose argument the kernel takes as a number, never as an
    // address, so no memory of ours is touched.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl that reads and writes `buffer`.
///
/// The kernel touches as many bytes as the request's own protocol says; callers in this crate pass a buffer of at
/// least that many (the size in the request's number, or the size the buffer's own header states).
pub(crate) fn with_buffer(fd: &impl AsRawFd, request: libc::Ioctl, buffer: &mut [u8]) -> io::Result<i32> {
    // SAFETY: the pointer is valid for `buffer.len()` bytes for the whole call, and the kernel reads and writes no
    // more than that: see above.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, buffer.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Puts `bytes` at `at`; layouts are written by offset so that a test can compare them with the header's.
pub(crate) fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    buffer[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The native-endian `u32` at `at`.
pub(crate) fn get_u32(buffer: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&buffer[at..at + 4]);
    u32::from_ne_bytes(bytes)
}

/// The native-endian `u64` at `at`.
pub(crate) fn get_u64(buffer: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&buffer[at..at + 8]);
    u64::from_ne_bytes(bytes)
}
