//! Removing what killed runs left behind.
//!
//! Namespaces die with their lab, so there is rarely a process. A record of the outer and inner process is kept beside each
//! rack's results; a process is ours only if its id and its start time are the recorded ones, for ids are used again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::container::groups;
use crate::dirs::{self, fail};
use crate::summary::write_json;

/// File name of the record in a rack's folder.
const RECORD: &str = "run.json";
/// A killed process is gone after this, or is not ours to wait for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What could not be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder.
    #[error(transparent)]
    Dirs(#[from] dirs::Error),
    /// A cgroup.
    #[error(transparent)]
    Groups(#[from] groups::Error),
}

/// A process that cannot be mistaken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Process id.
    pub pid: i32,
    /// Clock ticks between the kernel's start and the process's (proc(5), stat field 22).
    pub start: u64,
}

impl Proof {
    /// Of a running process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid: i32::try_from(pid).ok()?, start: start_ticks(&stat)? })
    }

    /// Whether that very process runs now.
    #[must_use]
    pub fn alive(&self) -> bool {
        u32::try_from(self.pid).ok().and_then(Self::of) == Some(*self)
    }
}

/// Start time from `/proc/<pid>/stat`; none for a dead process that nobody has waited for yet.
#[must_use]
pub fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Records the processes of a run of `rack`.
///
/// # Errors
/// When the record cannot be written.
pub fn record(out: &Path, rack: &str, pids: &[u32]) -> Result<(), dirs::Error> {
    let dir = out.join(rack);
    std::fs::create_dir_all(&dir).map_err(fail("make", &dir))?;
    let proofs: Vec<Proof> = pids.iter().filter_map(|pid| Proof::of(*pid)).collect();
    write_json(&dir.join(RECORD), &proofs)
}

/// The recorded processes of a rack that still run.
#[must_use]
pub fn running(out: &Path, rack: &str) -> Vec<Proof> {
    let text = std::fs::read_to_string(out.join(rack).join(RECORD)).unwrap_or_default();
    let proofs: Vec<Proof> = serde_json::from_str(&text).unwrap_or_default();
    proofs.into_iter().filter(Proof::alive).collect()
}

/// Kills the recorded processes of every rack below `out` and removes their work folders, and the cgroups of any lab that is
/// gone; results and logs stay. `say` gets a line for each.
///
/// # Errors
/// When a folder or cgroup cannot be removed.
pub fn clean(out: &Path, say: &dyn Fn(&str)) -> Result<(), Error> {
    for entry in std::fs::read_dir(out).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !dir.join(RECORD).exists() {
            continue;
        }
        let rack = entry.file_name().to_string_lossy().into_owned();
        for proof in running(out, &rack) {
            say(&format!("{rack}: killing process {}", proof.pid));
            end(proof);
        }
        remove(&dir.join("work"), say)?;
        remove(&dir.join(RECORD), say)?;
    }
    Ok(groups::sweep(say)?)
}

fn end(proof: Proof) {
    let _ = kill(Pid::from_raw(proof.pid), Signal::SIGKILL);
    let deadline = Instant::now() + PATIENCE;
    while proof.alive() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn remove(path: &PathBuf, say: &dyn Fn(&str)) -> Result<(), dirs::Error> {
    if path.is_dir() {
        say(&format!("removing {}", path.display()));
        std::fs::remove_dir_all(path).map_err(fail("remove", path))?;
    } else if path.exists() {
        std::fs::remove_file(path).map_err(fail("remove", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_recorded_process_is_killed() {
        let out = tempfile::tempdir().unwrap();
        let mut mine = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        record(out.path(), "r", &[mine.id()]).unwrap();
        // A process that has the number but not the start time is somebody else's.
        let wrong = [Proof { start: 1, ..Proof::of(other.id()).unwrap() }];
        std::fs::create_dir_all(out.path().join("s/work")).unwrap();
        write_json(&out.path().join("s").join(RECORD), &wrong).unwrap();
        // A folder without a record is not a lab's.
        std::fs::create_dir_all(out.path().join("t/work")).unwrap();
        assert_eq!(running(out.path(), "r").len(), 1);
        assert_eq!(running(out.path(), "s"), []);
        clean(out.path(), &|_| {}).unwrap();
        assert!(!mine.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!out.path().join("s/work").exists());
        assert!(out.path().join("t/work").exists());
    }

    #[test]
    fn reads_the_start_time() {
        let fields: Vec<String> = (4..=30).map(|n| n.to_string()).collect();
        assert_eq!(start_ticks(&format!("1 (a) b) S {}", fields.join(" "))), Some(22));
        assert_eq!(start_ticks(&format!("1 (a) Z {}", fields.join(" "))), None);
        assert_eq!(start_ticks("1 (a) S 1"), None);
    }
}
