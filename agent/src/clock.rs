//! Clocks: time since the kernel started, and the trusted time of day.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the kernel started, suspended time included (CLOCK_BOOTTIME).
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// CPU time of this process, user and system (CLOCK_PROCESS_CPUTIME_ID).
pub fn own_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// The machine's clock as it stands, seconds since 1970; not to be believed before [`Clock::trust`].
pub fn machine() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).ok().and_then(|t| u64::try_from(t.tv_sec()).ok()).unwrap_or(0)
}

/// The time of day by which certificates and metadata are judged.
///
/// Until a signed time was had it is the larger of the floor and the machine's clock, capped nowhere: nothing is judged
/// by it then. Afterwards it runs on the kernel's boot clock from the signed time, so a jump of the machine's clock (an
/// operator, a bad RTC, an NTP forgery) does not move it.
#[derive(Debug, Default)]
pub struct Clock {
    /// Milliseconds since 1970 at the kernel's start, by the last signed time. With whole seconds alone this clock could
    /// be one ahead of the signed one, and what it keeps as the floor would refuse the next signed time.
    base: AtomicI64,
    trusted: AtomicBool,
    floor: AtomicU64,
    /// Seconds by which hosted mode has the machine's clock wrong.
    skew: i64,
}

impl Clock {
    /// A clock that never goes below `floor`: the image's build, or the last trusted time.
    pub fn new(floor: u64) -> Self {
        Self { floor: AtomicU64::new(floor), ..Self::default() }
    }

    /// The same, on a machine whose clock says `machine_time` now.
    pub fn on_machine(floor: u64, machine_time: u64) -> Self {
        let to_signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        let skew = to_signed(machine_time).saturating_sub(to_signed(machine()));
        Self { floor: AtomicU64::new(floor), skew, ..Self::default() }
    }

    /// The machine's clock, not to be believed.
    pub fn machine(&self) -> u64 {
        machine().saturating_add_signed(self.skew)
    }

    /// Raises the floor.
    pub fn raise_floor(&self, floor: u64) {
        self.floor.fetch_max(floor, Ordering::Relaxed);
    }

    /// The floor.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::Relaxed)
    }

    /// Whether a signed time was had in this boot.
    pub fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Acquire)
    }

    /// Takes a signed time.
    pub fn trust(&self, unix_seconds: u64) {
        let base = i64::try_from(unix_seconds).unwrap_or(i64::MAX).saturating_mul(1000)
            - i64::try_from(since_boot().as_millis()).unwrap_or_default();
        self.base.store(base, Ordering::Relaxed);
        self.trusted.store(true, Ordering::Release);
        self.raise_floor(unix_seconds);
    }

    /// The time now, seconds since 1970, never below the floor.
    pub fn now(&self) -> u64 {
        let now = if self.is_trusted() {
            let boot = i64::try_from(since_boot().as_millis()).unwrap_or_default();
            u64::try_from(self.base.load(Ordering::Relaxed).saturating_add(boot)).unwrap_or_default() / 1000
        } else {
            self.machine()
        };
        now.max(self.floor())
    }

    /// The time for an event: 0 before the first signed time.
    pub fn stamp(&self) -> u64 {
        if self.is_trusted() { self.now() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_time_holds_whatever_the_machine_says() {
        let clock = Clock::new(1_000);
        assert!(!clock.is_trusted());
        assert_eq!(clock.stamp(), 0);
        assert!(clock.now() >= 1_000);
        clock.trust(2_000_000);
        assert!((2_000_000..2_000_010).contains(&clock.now()));
        assert_eq!(clock.floor(), 2_000_000);
    }

    #[test]
    fn it_never_goes_below_the_floor() {
        let clock = Clock::new(5_000_000_000);
        clock.trust(10);
        assert_eq!(clock.now(), 5_000_000_000);
    }
}
