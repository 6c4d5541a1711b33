//! The kernel's device events: netlink family `NETLINK_KOBJECT_UEVENT`, group 1 (lib/kobject_uevent.c).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};

use crate::{Result, SysError};

/// The most bytes of one event: the kernel's own buffer (`UEVENT_BUFFER_SIZE`) and its header fit well.
pub const EVENT_BYTES: usize = 8192;

/// Receive buffer in bytes: a machine with thousands of devices announces them in one burst while modules load.
const RECEIVE_BYTES: usize = 4 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `add`, `remove`, `change`, `bind`, ...
    pub action: String,
    /// The device's path below /sys.
    pub devpath: String,
    /// The device's class or bus, such as `block`, `net`, `pci`.
    pub subsystem: String,
    /// All the event's variables, such as `MODALIAS`, `DEVNAME`, `DEVTYPE`.
    pub variables: BTreeMap<String, String>,
}

/// Reads one event as the kernel sends it: `add@/devices/...` and `KEY=value` texts, each ending in NUL. `None` for
/// anything else, such as udev's own messages.
pub fn parse(message: &[u8]) -> Option<Event> {
    if message.len() > EVENT_BYTES {
        return None;
    }
    let mut texts =
        message.split(|byte| *byte == 0).map(|text| std::str::from_utf8(text).unwrap_or_default());
    let (action, devpath) = texts.next()?.split_once('@')?;
    if action.is_empty() || !devpath.starts_with('/') {
        return None;
    }
    let variables: BTreeMap<_, _> = texts
        .filter_map(|text| text.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    Some(Event {
        action: action.to_owned(),
        devpath: devpath.to_owned(),
        subsystem: variables.get("SUBSYSTEM").cloned().unwrap_or_default(),
        variables,
    })
}

/// The socket on which the kernel announces devices. Non-blocking; poll it through its descriptor.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens it. Events from before are not seen: open it first, then walk /sys.
    ///
    /// # Errors
    /// [`SysError`].
    pub fn open() -> Result<Self> {
        let at = |e: nix::errno::Errno| SysError::at("listen to", "the kernel's device events")(e.into());
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .map_err(at)?;
        // Without CAP_NET_ADMIN the default buffer has to do.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BYTES);
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1)).map_err(at)?;
        Ok(Self(fd))
    }

    /// The next event; `None` when there is none now. Messages that are not the kernel's are passed over.
    ///
    /// # Errors
    /// [`SysError`]; `ENOBUFS` says that events were lost: walk /sys again.
    pub fn next(&self) -> Result<Option<Event>> {
        let mut buffer = vec![0; EVENT_BYTES];
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                // Port 0 is the kernel; a process can send to the group too.
                Ok((length, Some(from))) if from.pid() == 0 => {
                    if let Some(event) = parse(&buffer[..length]) {
                        return Ok(Some(event));
                    }
                }
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(error) => {
                    return Err(SysError::at("read", "the kernel's device events")(io::Error::from(error)));
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_as_the_kernel_sends_it() {
        let message =
            b"add@/devices/pci0000:00/0000:00:03.0\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v00001AF4\0";
        let event = parse(message).unwrap();
        assert_eq!((event.action.as_str(), event.subsystem.as_str()), ("add", "pci"));
        assert_eq!(event.devpath, "/devices/pci0000:00/0000:00:03.0");
        assert_eq!(event.variables["MODALIAS"], "pci:v00001AF4");
    }

    #[test]
    fn anything_else_is_no_event() {
        let long = [b"add@/".as_slice(), &vec![b'x'; EVENT_BYTES]].concat();
        for bad in [b"".as_slice(), b"libudev\0\xfe\xed", b"@/x", b"add@x", b"\0\0", &long] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_socket_opens_and_has_nothing_to_say() {
        let socket = Socket::open().unwrap();
        // Other tests may attach loop devices meanwhile; whatever comes must at least parse.
        while let Some(event) = socket.next().unwrap() {
            assert!(event.devpath.starts_with('/'));
        }
    }
}
