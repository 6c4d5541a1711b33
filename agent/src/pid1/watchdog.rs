//! The hardware watchdog's keeper: on where there is one, fed while the worker makes progress.

use std::path::Path;
use std::time::Duration;

use cairn_protocol::stage::Stage;
use cairn_sys::watchdog::Watchdog;

use crate::clock;
use crate::console::Console;

/// The device; drivers load with the other modules, so it may appear later.
const DEVICE: &str = "/dev/watchdog0";
/// Seconds asked for. Long enough for a slow console or a storage controller's reset, short enough to end a hang before
/// a technician arrives.
const SECONDS: u32 = 60;
/// Seconds asked for at the handover: the booted root's agent takes over when systemd has started it.
const HANDOVER_SECONDS: u32 = 600;

/// Looks after one watchdog.
#[derive(Debug)]
pub(super) struct Keeper {
    wanted: bool,
    device: Option<Watchdog>,
    every: Duration,
    fed: Duration,
}

impl Keeper {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, device: None, every: Duration::from_secs(u64::from(SECONDS) / 4), fed: Duration::ZERO }
    }

    /// Opens the watchdog once it is there, and feeds it when `progress` and due.
    pub(super) fn turn(&mut self, now: Duration, progress: bool, console: &Console) {
        if !self.wanted {
            return;
        }
        if self.device.is_none() && Path::new(DEVICE).exists() {
            match Watchdog::open(Path::new(DEVICE)) {
                Ok(device) => {
                    let seconds =
                        device.set_timeout(SECONDS).or_else(|_| device.timeout()).unwrap_or(SECONDS);
                    self.every = Duration::from_secs(u64::from(seconds.max(4)) / 4);
                    console.note(Stage::Devices, format!("hardware watchdog on, {seconds} s"));
                    self.device = Some(device);
                }
                Err(error) => {
                    console.note(Stage::Devices, format!("the hardware watchdog stays off: {error}"));
                    self.wanted = false;
                }
            }
        }
        if let Some(device) = &mut self.device
            && progress
            && now.saturating_sub(self.fed) >= self.every
        {
            let _ = device.feed();
            self.fed = clock::since_boot();
        }
    }

    /// When it wants to be looked after next.
    pub(super) fn next_due(&self) -> Duration {
        if self.wanted { self.every } else { Duration::from_secs(60) }
    }

    /// Gives the booted root time to take over; the device stays armed while nobody holds it.
    pub(super) fn hand_over(&mut self) {
        if let Some(mut device) = self.device.take() {
            let _ = device.set_timeout(HANDOVER_SECONDS);
            let _ = device.feed();
        }
        self.wanted = false;
    }
}
