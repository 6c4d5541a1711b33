//! Lines on serial and screen. A console that does not take them never holds the node up.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cairn_protocol::console::{Line, Said};
use cairn_protocol::stage::Stage;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock;
use crate::container;

/// How long one line may wait for a console that is busy, milliseconds. A serial line at 9600 baud takes its buffer
/// of 4 KiB in 4 s; a line of 400 characters needs 0.4 s of that.
const BUSY_MILLIS: u16 = 1_000;

/// Where console lines go.
#[derive(Debug)]
pub struct Console {
    outs: Mutex<Vec<File>>,
    kmsg: Mutex<Option<File>>,
    stdout: bool,
}

impl Console {
    /// The consoles of a node: every active one, and screen and first serial line besides, so that both see lines
    /// whatever `console=` says. Missing ones are left out.
    pub fn of_node() -> Self {
        let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let mut names: Vec<&str> = active.split_whitespace().collect();
        for name in ["tty0", "ttyS0"] {
            if !names.contains(&name) && has_hardware(name) {
                names.push(name);
            }
        }
        let mut outs: Vec<File> =
            names.iter().filter_map(|name| open(&format!("/dev/{name}")).ok()).collect();
        if outs.is_empty() {
            outs.extend(open("/dev/console"));
        }
        // In a container the kernel's log is the host's.
        let kmsg =
            if container::is_one() { None } else { OpenOptions::new().write(true).open("/dev/kmsg").ok() };
        Self { outs: Mutex::new(outs), kmsg: Mutex::new(kmsg), stdout: false }
    }

    /// Standard output alone: hosted mode, and the service under systemd.
    pub fn stdout() -> Self {
        Self { outs: Mutex::default(), kmsg: Mutex::default(), stdout: true }
    }

    /// Writes one line about `stage`, stamped with the time since the kernel started.
    pub fn say(&self, stage: Stage, said: Said) {
        let millis = u64::try_from(clock::since_boot().as_millis()).unwrap_or(u64::MAX);
        self.write(&Line { millis, stage, said }.to_string());
    }

    /// Writes one note about `stage`.
    pub fn note(&self, stage: Stage, text: impl Into<String>) {
        self.say(stage, Said::Note(text.into()));
    }

    fn write(&self, line: &str) {
        let bytes = format!("{line}\n");
        if self.stdout {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(bytes.as_bytes()).and_then(|()| out.flush());
        }
        for out in self.outs.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            write_bounded(out, bytes.as_bytes());
        }
        // Priority 7 (debug) keeps the copy off the consoles at any usual loglevel; the journal picks it up later.
        if let Some(kmsg) = self.kmsg.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let _ = kmsg.write_all(format!("<7>{line}\n").as_bytes());
        }
    }
}

/// Whether a terminal is more than a name: serial ports that the driver did not find have UART type 0.
fn has_hardware(name: &str) -> bool {
    let kind = Path::new("/sys/class/tty").join(name).join("type");
    Path::new("/sys/class/tty").join(name).exists()
        && std::fs::read_to_string(kind).map_or(true, |kind| kind.trim() != "0")
}

fn open(path: &str) -> std::io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    OpenOptions::new().write(true).custom_flags(flags.bits()).open(path)
}

/// Writes what the device takes within [`BUSY_MILLIS`]; the rest is dropped.
fn write_bounded(out: &mut File, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::from(BUSY_MILLIS)) != Ok(1) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
