//! The hardware watchdog in the booted root: taken over from the initramfs, fed while the service's loop turns.

use std::path::Path;

use cairn_sys::watchdog::Watchdog;

/// Seconds asked for; a booted node under load may be slow for some time.
const SECONDS: u32 = 120;

/// Keeps the watchdog.
pub(super) struct Keeper {
    wanted: bool,
    device: Option<Watchdog>,
}

impl Keeper {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, device: None }
    }

    /// Called at least every 30 s. Where systemd keeps the device itself (RuntimeWatchdogSec), it stays with systemd.
    pub(super) fn turn(&mut self) {
        let path = Path::new("/dev/watchdog0");
        if self.wanted && self.device.is_none() && path.exists() {
            match Watchdog::open(path) {
                Ok(device) => {
                    let _ = device.set_timeout(SECONDS);
                    self.device = Some(device);
                }
                Err(_) => self.wanted = false,
            }
        }
        if let Some(device) = &mut self.device {
            let _ = device.feed();
        }
    }
}
