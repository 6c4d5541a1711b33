//! Device-mapper (include/uapi/linux/dm-ioctl.h): tables of targets as read-only block devices.
//!
//! A device is made in three steps: create it, load a table into it, resume it. [`Control::create`] does all three and takes
//! everything back when one fails.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use crate::ioctl::{get_u32, get_u64, number, put, with_buffer};
use crate::{Result, SysError};

/// The control node; the module dm_mod makes devtmpfs show it.
pub const CONTROL: &str = "/dev/mapper/control";

/// Bytes of `struct dm_ioctl`, which heads every request.
const HEADER_BYTES: usize = 312;
/// Bytes of `struct dm_target_spec`, which heads each target's parameters.
const TARGET_BYTES: usize = 40;
/// Bytes of a whole request or answer: one verity table line has 300 to 500.
const BUFFER_BYTES: usize = 16 << 10;
/// Interface version 4.0.0: the kernel takes any caller whose major is its own and whose minor is not above it.
const VERSION: [u32; 3] = [4, 0, 0];
/// The longest name, without its NUL (`DM_NAME_LEN`).
pub const NAME_BYTES: usize = 127;

const FLAG_READ_ONLY: u32 = 1 << 0;
const FLAG_EXISTS: u32 = 1 << 2;
const FLAG_BUFFER_FULL: u32 = 1 << 8;
const FLAG_DEFERRED_REMOVE: u32 = 1 << 17;

#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Command {
    Version = 0,
    Create = 3,
    Remove = 4,
    /// Suspend, or without the suspend flag: resume.
    Resume = 6,
    LoadTable = 9,
    TableStatus = 12,
}

impl Command {
    const fn request(self) -> libc::Ioctl {
        number(3, 0xfd, self as u8, HEADER_BYTES)
    }

    fn doing(self) -> &'static str {
        match self {
            Self::Version => "ask for the version of",
            Self::Create => "create the device-mapper device",
            Self::Remove => "remove the device-mapper device",
            Self::Resume => "resume the device-mapper device",
            Self::LoadTable => "load the table of the device-mapper device",
            Self::TableStatus => "read the status of the device-mapper device",
        }
    }
}

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// First sector of the new device, in units of 512 bytes.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
    /// The target's type: `verity`, `linear`, at most 15 bytes.
    pub kind: &'static str,
    /// Its parameters, as the kernel's documentation of the target gives them.
    pub parameters: String,
}

/// What the kernel says about one target of a running device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// The target's type.
    pub kind: String,
    /// Its status text; for verity `V` (no corruption seen) or `C` (corruption seen).
    pub text: String,
}

/// A device-mapper device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its node, such as `/dev/dm-0`; devtmpfs makes it.
    pub path: PathBuf,
}

/// The control node, opened.
#[derive(Debug)]
pub struct Control(File);

/// A request: the header for the device `name` with `flags`, and `targets` behind it.
fn request(name: &str, flags: u32, targets: &[Target]) -> Option<Vec<u8>> {
    if name.len() > NAME_BYTES || name.contains(['\0', '/']) {
        return None;
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    for (index, version) in VERSION.iter().enumerate() {
        put(&mut buffer, 4 * index, &version.to_ne_bytes());
    }
    put(&mut buffer, 12, &(BUFFER_BYTES as u32).to_ne_bytes());
    put(&mut buffer, 16, &(HEADER_BYTES as u32).to_ne_bytes());
    put(&mut buffer, 20, &u32::try_from(targets.len()).ok()?.to_ne_bytes());
    put(&mut buffer, 28, &flags.to_ne_bytes());
    put(&mut buffer, 48, name.as_bytes());
    let mut at = HEADER_BYTES;
    for target in targets {
        // Parameters end in NUL; the next target starts at a multiple of eight.
        let next = (TARGET_BYTES + target.parameters.len() + 1).next_multiple_of(8);
        if at + next > BUFFER_BYTES || target.kind.len() > 15 || target.parameters.contains('\0') {
            return None;
        }
        put(&mut buffer, at, &target.start.to_ne_bytes());
        put(&mut buffer, at + 8, &target.sectors.to_ne_bytes());
        put(&mut buffer, at + 20, &(next as u32).to_ne_bytes());
        put(&mut buffer, at + 24, target.kind.as_bytes());
        put(&mut buffer, at + TARGET_BYTES, target.parameters.as_bytes());
        at += next;
    }
    Some(buffer)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Reads the targets of a `DM_TABLE_STATUS` answer. Offsets are the kernel's, and are checked all the same.
fn statuses(answer: &[u8]) -> Vec<TargetStatus> {
    let start = get_u32(answer, 16) as usize;
    let mut at = start;
    let mut found = Vec::new();
    for _ in 0..get_u32(answer, 20) {
        let Some(spec) = answer.get(at..).filter(|rest| rest.len() > TARGET_BYTES) else { break };
        found.push(TargetStatus { kind: text(&spec[24..40]), text: text(&spec[TARGET_BYTES..]) });
        // In answers `next` counts from the start of the data, not from this target.
        let next = start + get_u32(spec, 20) as usize;
        if next <= at {
            break;
        }
        at = next;
    }
    found
}

impl Control {
    /// Opens [`CONTROL`].
    ///
    /// # Errors
    /// [`SysError`]: `ENOENT` when the module dm_mod is not loaded.
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(CONTROL)
            .map_err(SysError::at("open (is the module dm_mod loaded?)", CONTROL))?;
        Ok(Self(file))
    }

    fn call(&self, command: Command, name: &str, flags: u32, targets: &[Target]) -> Result<Vec<u8>> {
        let what = || if name.is_empty() { CONTROL.to_owned() } else { name.to_owned() };
        let mut buffer = request(name, flags, targets).ok_or_else(|| {
            SysError::at(command.doing(), what())(std::io::Error::from_raw_os_error(libc::EINVAL))
        })?;
        with_buffer(&self.0, command.request(), &mut buffer)
            .map_err(SysError::at(command.doing(), what()))?;
        Ok(buffer)
    }

    /// The kernel's interface version.
    ///
    /// # Errors
    /// [`SysError`].
    pub fn version(&self) -> Result<[u32; 3]> {
        let answer = self.call(Command::Version, "", 0, &[])?;
        Ok([0, 4, 8].map(|at| get_u32(&answer, at)))
    }

    /// Makes the read-only device `name` (at most [`NAME_BYTES`], no slash) of `targets` and starts it.
    ///
    /// # Errors
    /// [`SysError`]: `EBUSY` when the name is taken, `EINVAL` for a table the target refuses (the kernel's log says
    /// why) or a target type whose module is not loaded, `EIO` when its metadata do not verify. Nothing stays behind.
    pub fn create(&self, name: &str, targets: &[Target]) -> Result<Device> {
        let answer = self.call(Command::Create, name, FLAG_READ_ONLY, &[])?;
        let device = Device {
            name: name.to_owned(),
            path: PathBuf::from(format!("/dev/dm-{}", minor(get_u64(&answer, 40)))),
        };
        let started = self
            .call(Command::LoadTable, name, FLAG_READ_ONLY | FLAG_EXISTS, targets)
            .and_then(|_| self.call(Command::Resume, name, FLAG_READ_ONLY | FLAG_EXISTS, &[]));
        match started {
            Ok(_) => Ok(device),
            Err(error) => {
                // The first error is the one worth telling.
                let _ = self.call(Command::Remove, name, 0, &[]);
                Err(error)
            }
        }
    }

    /// The status of each target of `name`.
    ///
    /// # Errors
    /// [`SysError`]: `ENXIO` when there is no such device.
    pub fn status(&self, name: &str) -> Result<Vec<TargetStatus>> {
        let answer = self.call(Command::TableStatus, name, 0, &[])?;
        if get_u32(&answer, 28) & FLAG_BUFFER_FULL != 0 {
            return Err(SysError::at(Command::TableStatus.doing(), name)(std::io::Error::from_raw_os_error(
                libc::ENOSPC,
            )));
        }
        Ok(statuses(&answer))
    }

    /// Removes `name` if nothing uses it.
    ///
    /// # Errors
    /// [`SysError`]: `ENXIO` when there is no such device, `EBUSY` while it is in use.
    pub fn remove_unused(&self, name: &str) -> Result<()> {
        self.call(Command::Remove, name, 0, &[]).map(|_| ())
    }

    /// Removes `name`, or, while it is in use, when its last user is gone.
    ///
    /// # Errors
    /// [`SysError`]: `ENXIO` when there is no such device.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.call(Command::Remove, name, FLAG_DEFERRED_REMOVE, &[]).map(|_| ())
    }
}

/// The minor number in the kernel's `huge_encode_dev` form.
fn minor(dev: u64) -> u64 {
    (dev & 0xff) | ((dev >> 12) & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        assert_eq!(Command::Version.request(), 0xc138_fd00);
        assert_eq!(Command::Create.request(), 0xc138_fd03);
        assert_eq!(Command::TableStatus.request(), 0xc138_fd0c);
    }

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let target = Target { start: 0, sectors: 8, kind: "verity", parameters: "1 /dev/loop0".to_owned() };
        let buffer =
            request("cairn-base", FLAG_READ_ONLY, &[target.clone(), Target { start: 8, ..target }]).unwrap();
        assert_eq!([0, 4, 8].map(|at| get_u32(&buffer, at)), VERSION);
        assert_eq!(get_u32(&buffer, 12) as usize, buffer.len());
        assert_eq!(get_u32(&buffer, 16), 312);
        assert_eq!(get_u32(&buffer, 20), 2);
        assert_eq!(get_u32(&buffer, 28), 1);
        assert_eq!(text(&buffer[48..176]), "cairn-base");
        assert_eq!(get_u64(&buffer, 312 + 8), 8);
        assert_eq!(get_u32(&buffer, 312 + 20), 56);
        assert_eq!(text(&buffer[312 + 24..312 + 40]), "verity");
        assert_eq!(text(&buffer[312 + 40..]), "1 /dev/loop0");
        assert_eq!(get_u64(&buffer, 312 + 56), 8);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let target = |parameters: String| Target { start: 0, sectors: 1, kind: "verity", parameters };
        assert!(request(&"n".repeat(128), 0, &[]).is_none());
        assert!(request("a/b", 0, &[]).is_none());
        assert!(request("a", 0, &[target("x".repeat(BUFFER_BYTES))]).is_none());
        assert!(request("a", 0, &[target("a\0b".to_owned())]).is_none());
    }

    #[test]
    fn a_status_answer_is_read() {
        let mut answer = vec![0; 512];
        put(&mut answer, 16, &312_u32.to_ne_bytes());
        put(&mut answer, 20, &2_u32.to_ne_bytes());
        put(&mut answer, 312 + 20, &48_u32.to_ne_bytes());
        put(&mut answer, 312 + 24, b"verity");
        put(&mut answer, 312 + 40, b"V\0");
        put(&mut answer, 312 + 48 + 20, &96_u32.to_ne_bytes());
        put(&mut answer, 312 + 48 + 24, b"linear");
        let read = statuses(&answer);
        assert_eq!(read[0], TargetStatus { kind: "verity".to_owned(), text: "V".to_owned() });
        assert_eq!(read[1].kind, "linear");
        // An answer whose offsets lead nowhere ends the walk.
        put(&mut answer, 312 + 20, &u32::MAX.to_ne_bytes());
        assert_eq!(statuses(&answer).len(), 1);
    }

    #[test]
    fn minors_above_255_are_decoded() {
        assert_eq!(minor(254 << 8 | 3), 3);
        assert_eq!(minor((1 << 20) | (254 << 8) | 2), 258);
    }
}
