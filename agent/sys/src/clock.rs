//! The system clock.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::{Result, SysError};

/// Sets the wall clock to `unix` seconds since 1970. Needs root.
///
/// # Errors
/// [`SysError`].
pub fn set(unix: u64) -> Result<()> {
    let seconds = i64::try_from(unix).unwrap_or(i64::MAX);
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, 0))
        .map_err(|e| SysError::at("set", "the system clock")(e.into()))
}

/// The time since the kernel started, time asleep included (`CLOCK_BOOTTIME`).
pub fn since_boot() -> Duration {
    // The clock exists on every kernel since 2.6.39; zero is as good as any answer on one without it.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_since_boot_grows() {
        let first = super::since_boot();
        assert!(!first.is_zero());
        assert!(super::since_boot() >= first);
    }
}
