//! A lab that is ended while it prepares leaves no program running.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Set for the process that stands for the lab: where it is to work.
const DIR: &str = "CAIRN_TEST_ORPHANS";

/// Prepares by a program that says who it is and does not end. A test of its own only when it is told where.
#[test]
fn a_lab_that_prepares() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let script = "echo $$ >pid.new && mv pid.new pid && exec sleep 600".to_owned();
    let words = ["-c".to_owned(), format!("cd {} && {script}", dir.display())];
    let _ = cairn_lab::prepare::run(Path::new("sh"), &words, &Path::new(&dir).join("log"));
}

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the process runs; one that ended and was not waited for does not.
fn runs(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn programs_of_the_preparation_end_with_the_lab() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGHUP] {
        let dir = tempfile::tempdir().unwrap();
        let mut lab = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_lab_that_prepares"])
            .env(DIR, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid: i32 = eventually("the program", || {
            std::fs::read_to_string(dir.path().join("pid")).ok()?.trim().parse().ok()
        });
        assert!(runs(pid));
        kill(Pid::from_raw(i32::try_from(lab.id()).unwrap()), signal).unwrap();
        lab.wait().unwrap();
        eventually("its end", || (!runs(pid)).then_some(()));
    }
}
