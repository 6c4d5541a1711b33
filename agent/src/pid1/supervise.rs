//! When to start the worker again, and whether it still makes progress. Pure: times come in as durations since boot.

use std::time::Duration;

/// The first pause after a crash. A worker that died once of a race is back before anyone looks.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause. A node that crashes for good still tries every minute: the cause may be cured from outside.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A worker that ran this long had come to rest; the next crash starts from the first pause again.
const STEADY: Duration = Duration::from_secs(300);
/// A worker that has said nothing for this long hangs and is killed. The worker says something every 5 s.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(120);
/// Without a sign of life for this long the watchdog is not fed any more, so the machine resets within the hardware's
/// own time on top. Longer than a killed worker's longest pause, twice, and its first stages.
pub const STARVE_AFTER: Duration = Duration::from_secs(300);

/// The supervision of one child.
#[derive(Debug, Default)]
pub struct Supervisor {
    /// Crashes in a row.
    crashes: u32,
    started: Duration,
    last_sign: Duration,
    running: bool,
    start_at: Duration,
}

impl Supervisor {
    /// Nothing runs; the first start is due at once.
    pub fn new(now: Duration) -> Self {
        Self { start_at: now, last_sign: now, ..Self::default() }
    }

    /// Whether the child should be started now.
    pub fn start_due(&self, now: Duration) -> bool {
        !self.running && now >= self.start_at
    }

    /// The child runs.
    pub fn started(&mut self, now: Duration) {
        self.running = true;
        self.started = now;
        // A new child gets its whole time before it counts as silent; the watchdog's count is not reset by a start.
    }

    /// The child said something.
    pub fn sign_of_life(&mut self, now: Duration) {
        self.last_sign = now;
    }

    /// The child ended, or could not be started; returns the pause before the next start.
    pub fn ended(&mut self, now: Duration) -> Duration {
        if self.running && now.saturating_sub(self.started) >= STEADY {
            self.crashes = 0;
        }
        self.running = false;
        let pause = FIRST_PAUSE.saturating_mul(1 << self.crashes.min(16)).min(LONGEST_PAUSE);
        self.crashes = self.crashes.saturating_add(1);
        self.start_at = now + pause;
        pause
    }

    /// Whether the child hangs and should be killed.
    pub fn hangs(&self, now: Duration) -> bool {
        self.running && now.saturating_sub(self.last_sign.max(self.started)) >= SILENCE_LIMIT
    }

    /// Whether the hardware watchdog should be fed.
    pub fn makes_progress(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_sign) < STARVE_AFTER
    }

    /// When something is due next, from `now`: a start, or the next look for silence.
    pub fn next_due(&self, now: Duration) -> Duration {
        if self.running { SILENCE_LIMIT / 4 } else { self.start_at.saturating_sub(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pauses_double_to_a_minute_and_start_over_after_a_steady_run() {
        let mut supervisor = Supervisor::new(s(0));
        let mut now = s(0);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(supervisor.start_due(now));
            supervisor.started(now);
            now += s(1);
            let pause = supervisor.ended(now);
            assert!(!supervisor.start_due(now));
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        supervisor.started(now);
        assert_eq!(supervisor.ended(now + STEADY), s(1));
    }

    #[test]
    fn silence_kills_the_worker_and_later_starves_the_watchdog() {
        let mut supervisor = Supervisor::new(s(0));
        supervisor.started(s(0));
        supervisor.sign_of_life(s(10));
        assert!(!supervisor.hangs(s(129)));
        assert!(supervisor.hangs(s(130)));
        assert!(supervisor.makes_progress(s(309)));
        assert!(!supervisor.makes_progress(s(310)));
        supervisor.ended(s(130));
        supervisor.started(s(131));
        assert!(!supervisor.hangs(s(131)), "a new child gets its whole time");
    }
}
