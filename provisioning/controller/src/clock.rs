//! The controller's own clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall-clock time. An offset moves it in tests and labs, so that a wrong clock can be shown without setting the host's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// Seconds added to the system's clock.
    pub offset_seconds: i64,
}

impl Clock {
    /// Seconds since 1970-01-01 UTC; 0 for any earlier time.
    pub fn now(self) -> u64 {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        system.saturating_add_signed(self.offset_seconds)
    }
}
