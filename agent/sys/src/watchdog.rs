//! The hardware watchdog (kernel: include/uapi/linux/watchdog.h, Documentation/watchdog/watchdog-api.rst).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::ioctl::{get_u32, number, with_buffer};

/// `WDIOC_SETTIMEOUT`: reads and writes one int.
const SET_TIMEOUT: libc::Ioctl = number(3, b'W', 6, 4);
/// `WDIOC_GETTIMEOUT`: writes one int.
const GET_TIMEOUT: libc::Ioctl = number(2, b'W', 7, 4);

/// An armed watchdog: the machine resets when it is not fed within its time. Dropping it leaves it armed on purpose;
/// see [`Watchdog::disarm`].
#[derive(Debug)]
pub struct Watchdog {
    device: File,
}

impl Watchdog {
    /// Opens, and so arms, the watchdog at `path`, such as `/dev/watchdog0`.
    ///
    /// # Errors
    /// The system's: no such device, or another process holds it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { device: OpenOptions::new().write(true).open(path)? })
    }

    /// Asks for a timeout and returns what the device took; devices round and cap.
    ///
    /// # Errors
    /// The driver's, where it has no settable timeout.
    pub fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        let mut value = seconds.to_ne_bytes();
        with_buffer(&self.device, SET_TIMEOUT, &mut value)?;
        Ok(get_u32(&value, 0))
    }

    /// The device's timeout in seconds.
    ///
    /// # Errors
    /// The driver's, where it does not tell.
    pub fn timeout(&self) -> io::Result<u32> {
        let mut value = [0; 4];
        with_buffer(&self.device, GET_TIMEOUT, &mut value)?;
        Ok(get_u32(&value, 0))
    }

    /// Feeds it: any byte but `V` does.
    ///
    /// # Errors
    /// The system's.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(b".")
    }

    /// Disarms it ("magic close"), where the driver was not built or loaded with `nowayout`.
    ///
    /// # Errors
    /// The system's.
    pub fn disarm(mut self) -> io::Result<()> {
        self.device.write_all(b"V")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        assert_eq!(SET_TIMEOUT, 0xc004_5706);
        assert_eq!(GET_TIMEOUT, 0x8004_5707);
    }
}
