//! The one crate with unsafe code: ioctls and system calls that nix does not wrap.
//!
//! - Each call is a small safe function on typed values; what goes to the kernel is laid out byte by byte in pure
//!   functions whose layouts are tested against the kernel's headers.
//! - Errors say what was being done and to what; they carry the kernel's error number as an [`std::io::Error`].
//! - Nothing here decides, waits or retries, except where the kernel's own protocol asks for it (loop devices).
//!
//! | module | what |
//! |---|---|
//! | [`block`] | sizes of block devices, rereading partition tables |
//! | [`clock`] | setting the system clock, the time since boot |
//! | [`dm`] | device-mapper: version, create, load, resume, status, remove |
//! | [`loops`] | loop devices on a file or a part of one |
//! | [`module`] | loading kernel modules |
//! | [`packet`] | packet sockets for DHCP and ARP |
//! | [`power`] | reboot, power off |
//! | [`registers`] | registers of PCI devices, read |
//! | [`uevent`] | the kernel's device events |
//! | [`watchdog`] | the hardware watchdog |
//! | [`xattr`] | extended attributes of files |
#![cfg_attr(test, allow(clippy::unwrap_used))]
// The workspace denies unsafe code; this crate is where it is allowed, each block with its reason.
#![allow(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod block;
pub mod clock;
pub mod dm;
mod ioctl;
pub mod loops;
pub mod module;
pub mod packet;
pub mod power;
pub mod registers;
pub mod uevent;
pub mod watchdog;
pub mod xattr;

use std::io;
use std::path::{Path, PathBuf};

/// A system call failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {source}", path.display())]
pub struct SysError {
    /// What was being done, as a verb.
    pub doing: &'static str,
    /// To what.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

impl SysError {
    pub(crate) fn at(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { doing, path: path.as_ref().to_owned(), source }
    }

    /// The kernel's error number, such as `libc::ENOENT`; `None` when the error is not the kernel's.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, SysError>;
