//! Being asked to end. Process 1 of a namespace has no default action for signals, so the lab waits for them itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

/// Whether somebody asked.
#[derive(Debug, Clone)]
pub struct Asked(Arc<AtomicBool>);

impl Asked {
    /// Listens for SIGINT, SIGTERM and SIGHUP. Call before any other thread is started, so that none takes them.
    #[must_use]
    pub fn listen() -> Self {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        // Only an invalid set could fail.
        let _ = set.thread_block();
        let asked = Self(Arc::new(AtomicBool::new(false)));
        let flag = asked.clone();
        let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while set.wait().is_ok() {
                flag.0.store(true, Ordering::Relaxed);
            }
        });
        asked
    }

    /// Whether to end.
    #[must_use]
    pub fn yes(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
