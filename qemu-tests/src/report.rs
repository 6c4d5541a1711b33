//! Telling people what happens: plain lines, each with the time since the start.

use std::time::{Duration, Instant};

/// A clock and a voice.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    start: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Report {
    /// A clock that started `before` now.
    #[must_use]
    pub fn since(before: Duration) -> Self {
        let now = Instant::now();
        Self { start: now.checked_sub(before).unwrap_or(now) }
    }

    /// One line.
    pub fn line(&self, text: &str) {
        println!("[{}] {text}", clock(self.start.elapsed()));
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// `m:ss`.
#[must_use]
pub fn clock(span: Duration) -> String {
    format!("{}:{:02}", span.as_secs() / 60, span.as_secs() % 60)
}
