//! Being asked to end. Process 1 of a namespace has no default action for signals, so the lab waits for them itself.

use std::io;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

/// The signals that ask to end.
fn set() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
}

/// Starts a program that can be asked to end, whatever this process does with its own signals: a child inherits what is
/// blocked in the thread that starts it.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            let _ = set().thread_unblock();
            command.spawn()
        });
        started.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
    })
}

/// Whether somebody asked.
#[derive(Debug, Clone)]
pub struct Asked(Arc<AtomicBool>);

impl Asked {
    /// Listens for SIGINT, SIGTERM and SIGHUP. Call before any other thread is started, so that none takes them.
    #[must_use]
    pub fn listen() -> Self {
        let set = set();
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
