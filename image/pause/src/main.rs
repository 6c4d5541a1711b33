//! The pod's first process: it holds the pod's namespaces, reaps what the pod's other processes leave behind, and ends on
//! SIGTERM or SIGINT. It does nothing else, has no arguments and needs no file.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> ExitCode {
    match hold() {
        Ok(()) => ExitCode::SUCCESS,
        Err(errno) => {
            eprintln!("pause: {errno}");
            ExitCode::FAILURE
        }
    }
}

/// Waits until it is told to end.
fn hold() -> Result<(), Errno> {
    // Blocked signals are kept for `wait`, even for a pid namespace's first process, which gets no others.
    let set: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    set.thread_block()?;
    // What ended before signals were kept sent its own in vain.
    reap();
    loop {
        match set.wait() {
            Ok(Signal::SIGCHLD) => reap(),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// One SIGCHLD may stand for many children.
fn reap() {
    while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
    {
    }
}
