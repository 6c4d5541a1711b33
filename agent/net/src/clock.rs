//! The clock that leases run on.

use std::time::Duration;

/// Time since boot (`CLOCK_BOOTTIME`): it has no jumps, and it is the same before and after the handover.
pub fn since_boot() -> Duration {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME) {
        Ok(time) => Duration::new(time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs() as u32),
        // clock_gettime(2) fails only for clocks that the kernel lacks; this one came with Linux 2.6.39.
        Err(error) => unreachable!("CLOCK_BOOTTIME: {error}"),
    }
}
