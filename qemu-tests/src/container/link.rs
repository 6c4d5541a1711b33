//! A network namespace with the node's cards: tap devices whose other ends go into the switch.
//!
//! The namespace lives as long as its descriptor or a process in it; it has no name that could be left behind.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};
use tun_rs::SyncDevice;

use crate::namespace::{self, ip};
use crate::switch::wire;

/// Why there is no network namespace for a node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace.
    #[error("cannot make a network namespace")]
    Make(#[source] std::io::Error),
    /// A tap device.
    #[error(transparent)]
    Tap(#[from] wire::Error),
    /// Its address.
    #[error(transparent)]
    Ip(#[from] namespace::Error),
}

/// A network namespace.
#[derive(Debug)]
pub struct Network {
    file: File,
}

impl Network {
    /// A path that leads to it for any program of this process-id namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }
}

/// Name of a card: what systemd-nspawn calls a container's link, and what the agent takes for one.
fn name(card: usize) -> String {
    format!("host{card}")
}

/// Makes a namespace with a card for each MAC address; the devices are the switch's ends.
///
/// # Errors
/// See [`Error`].
pub fn make(macs: &[String]) -> Result<(Network, Vec<SyncDevice>), Error> {
    // A namespace belongs to a thread: this one goes into it, makes the devices there, and ends.
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Make(errno.into()))?;
            let file = File::open("/proc/thread-self/ns/net").map_err(Error::Make)?;
            ip(&["link", "set", "lo", "up"])?;
            let mut devices = Vec::new();
            for (card, mac) in macs.iter().enumerate() {
                devices.push(wire::tap(&name(card))?);
                ip(&["link", "set", &name(card), "address", mac])?;
            }
            Ok((Network { file }, devices))
        });
        made.join().unwrap_or_else(|_| Err(Error::Make(std::io::Error::other("the thread panicked"))))
    })
}
