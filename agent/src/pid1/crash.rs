//! Crashes of the worker: named on the console, kept for central until the next worker has told it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cairn_protocol::limits::clean_text;
use cairn_protocol::stage::Stage;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// Crashes kept at most; a node that crashes every minute for hours tells of the first ones, they are the cause.
const KEEP: usize = 16;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With an exit code.
    Exit(i32),
    /// By a signal.
    Signal(Signal),
}

/// A crash, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// The stage the worker was in.
    pub stage: Stage,
    /// One line: how it ended and what its panic said.
    pub line: String,
}

impl Crash {
    /// Describes a crash at `now`.
    pub fn new(now: Duration, stage: Stage, how: How, panic: Option<String>) -> Self {
        let how = match how {
            How::Exit(code) => format!("ended with exit code {code}"),
            How::Signal(signal) => format!("was ended by {signal}"),
        };
        let panic = panic.map(|text| format!(": {text}")).unwrap_or_default();
        let line = format!("the worker {how} in stage {stage}, {} s after power-on{panic}", now.as_secs());
        Self { stage, line: clean_text(&line) }
    }

    /// Keeps it in `dir`, one file each; best effort, the console has the line already.
    pub fn keep(&self, dir: &Path) {
        let kept = fs::read_dir(dir).map_or(0, Iterator::count);
        if kept >= KEEP {
            return;
        }
        if let Ok(json) = serde_json::to_vec(self) {
            let _ = fs::create_dir_all(dir);
            let _ = fs::write(dir.join(format!("{kept:02}.json")), json);
        }
    }
}

/// The crashes kept in `dir`, oldest first, each with its file, to be removed once it is an event.
pub fn kept(dir: &Path) -> Vec<(std::path::PathBuf, Crash)> {
    let mut files: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
        .into_iter()
        .filter_map(|file| {
            let crash = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            Some((file, crash))
        })
        .collect()
}

/// Takes what the last panic wrote.
pub fn take_panic(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let _ = fs::remove_file(file);
    let text = clean_text(text.trim());
    (!text.is_empty()).then_some(text)
}

/// Makes panics of this process one line on standard error and one in `file`, for PID 1 to find.
pub fn hook_panics(file: std::path::PathBuf) {
    std::panic::set_hook(Box::new(move |info| {
        let line = clean_text(&info.to_string());
        eprintln!("cairn: panic: {line}");
        let _ = fs::write(&file, line);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_are_kept_in_order_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for second in 0..20 {
            Crash::new(Duration::from_secs(second), Stage::Fetch, How::Signal(Signal::SIGKILL), None)
                .keep(dir.path());
        }
        let kept = kept(dir.path());
        assert_eq!(kept.len(), KEEP);
        assert_eq!(kept[0].1.line, "the worker was ended by SIGKILL in stage fetch, 0 s after power-on");
        assert_eq!(kept[1].1.line, "the worker was ended by SIGKILL in stage fetch, 1 s after power-on");
    }

    #[test]
    fn a_panic_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("panic");
        fs::write(&file, "index out\nof bounds").unwrap();
        let panic = take_panic(&file);
        let crash = Crash::new(Duration::from_secs(9), Stage::Disks, How::Exit(101), panic);
        assert!(
            crash.line.ends_with("exit code 101 in stage disks, 9 s after power-on: index out of bounds")
        );
        assert_eq!(take_panic(&file), None);
    }
}
