//! A child process of the site: started with its output in a log, waited for by what it says, stopped in order or killed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::signals;
use crate::tail::{Tail, Timeout};

/// Time for an orderly end before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// Why a service does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot start {name}")]
    Start {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} ended ({status}) before it was ready; see {}", log.display())]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: ExitStatus,
        /// What it said.
        log: PathBuf,
    },
    /// It did not get ready.
    #[error("{name} is not ready: {source}")]
    NotReady {
        /// Which.
        name: String,
        /// What was waited for.
        source: Timeout,
    },
}

/// A running service. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    tail: Tail,
}

impl Service {
    /// Starts `command` with its output appended to `log`, and waits until a line there holds `ready`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(
        name: &str,
        mut command: Command,
        log: &Path,
        ready: &str,
        patience: Duration,
    ) -> Result<Self, Error> {
        let start = |source| Error::Start { name: name.to_owned(), source };
        let file = File::options().create(true).append(true).open(log).map_err(start)?;
        let tail = Tail::follow_end(log);
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(start)?).stderr(file);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = signals::spawn(&mut command).map_err(start)?;
        let mut service = Self { name: name.to_owned(), child, tail };
        service.wait_ready(ready, patience)?;
        Ok(service)
    }

    fn wait_ready(&mut self, ready: &str, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        loop {
            let slice = Duration::from_millis(200);
            let heard = self.tail.wait(0, slice, ready, |line| line.contains(ready).then_some(()));
            let source = match heard {
                Ok(()) => return Ok(()),
                Err(timeout) => timeout,
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::Ended {
                    name: self.name.clone(),
                    status,
                    log: self.tail.path().to_owned(),
                });
            }
            if Instant::now() > deadline {
                let source = Timeout { waited: patience, ..source };
                return Err(Error::NotReady { name: self.name.clone(), source });
            }
        }
    }

    /// What it says.
    #[must_use]
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end (SIGTERM) and waits; kills it when it does not.
    pub fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + GRACE;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}
