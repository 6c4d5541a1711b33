//! Events that central has not acknowledged yet: in memory, and as a file that survives a crash and, once STATE is
//! mounted, a power cut. Bounded: when it is full the oldest mild event goes first.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cairn_protocol::heartbeat::{Event, Severity};
use cairn_protocol::limits::{EVENTS_PER_HEARTBEAT, clean_text};
use cairn_protocol::stage::Stage;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::paths::Paths;

/// Events kept. A node that is offline for weeks tells how it began and how it is; 500 events have 200 KB at most.
pub const KEEP: usize = 500;
/// The longest spool file that is read, bytes.
const FILE_LIMIT: u64 = 1 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    /// The boot whose ids `next_id` counts.
    boot_id: String,
    next_id: u64,
    events: Vec<Event>,
}

/// The spool.
#[derive(Debug)]
pub struct Spool {
    content: Mutex<Content>,
    /// The file in /run, and the one on STATE once there is one.
    files: Mutex<Vec<PathBuf>>,
    boot_id: String,
}

/// The kernel's id of this boot.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl Spool {
    /// Goes on from what an earlier process of this boot left in /run.
    pub fn open(paths: &Paths) -> Self {
        let boot_id = boot_id();
        let file = paths.in_run("spool.json");
        let mut content = read(&file).unwrap_or_default();
        if content.boot_id != boot_id {
            content.boot_id.clone_from(&boot_id);
            content.next_id = 1;
        }
        content.next_id = content.next_id.max(1);
        Self { content: Mutex::new(content), files: Mutex::new(vec![file]), boot_id }
    }

    /// Keeps events on STATE from now on, and takes up those that earlier boots left there.
    pub fn attach(&self, state: &Path) {
        let dir = state.join("spool");
        let _ = fs::create_dir_all(&dir);
        let file = dir.join("events.json");
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.contains(&file) {
            return;
        }
        let mut content = self.lock();
        if let Some(earlier) = read(&file) {
            let known: Vec<_> =
                content.events.iter().map(|event| (event.boot_id.clone(), event.id)).collect();
            let mut events: Vec<_> = earlier
                .events
                .into_iter()
                .filter(|event| !known.contains(&(event.boot_id.clone(), event.id)))
                .collect();
            if earlier.boot_id == self.boot_id {
                content.next_id = content.next_id.max(earlier.next_id);
            }
            events.append(&mut content.events);
            content.events = events;
            bound(&mut content.events);
        }
        files.push(file);
        save(&files, &content);
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event.
    pub fn event(&self, clock: &Clock, stage: Stage, severity: Severity, code: &str, line: &str) {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut content = self.lock();
        let id = content.next_id;
        content.next_id += 1;
        content.events.push(Event {
            id,
            boot_id: self.boot_id.clone(),
            unix_seconds: clock.stamp(),
            stage,
            severity,
            code: code.to_owned(),
            line: clean_text(line),
        });
        bound(&mut content.events);
        save(&files, &content);
    }

    /// The oldest events, as many as one heartbeat carries.
    pub fn oldest(&self) -> Vec<Event> {
        self.lock().events.iter().take(EVENTS_PER_HEARTBEAT).cloned().collect()
    }

    /// Central has stored these; they are forgotten. Events that came meanwhile stay.
    pub fn acknowledged(&self, stored: &[Event]) {
        if stored.is_empty() {
            return;
        }
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut content = self.lock();
        content
            .events
            .retain(|event| !stored.iter().any(|s| (s.id, &s.boot_id) == (event.id, &event.boot_id)));
        save(&files, &content);
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.lock().events.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Drops the oldest of the mildest until the list fits.
fn bound(events: &mut Vec<Event>) {
    while events.len() > KEEP {
        let mildest = events.iter().map(|event| event.severity).min();
        let at = events.iter().position(|event| Some(event.severity) == mildest).unwrap_or(0);
        events.remove(at);
    }
}

fn read(file: &Path) -> Option<Content> {
    if fs::metadata(file).ok()?.len() > FILE_LIMIT {
        return None;
    }
    parse(&fs::read(file).ok()?)
}

/// Reads a spool file; `None` where it is damaged: an event is not worth a node.
fn parse(bytes: &[u8]) -> Option<Content> {
    let mut content: Content = serde_json::from_slice(bytes).ok()?;
    bound(&mut content.events);
    Some(content)
}

/// For the fuzzer: reads a spool file.
pub fn fuzz(bytes: &[u8]) {
    let _ = parse(bytes);
}

/// Writes all files; the console has the lines already, so a full disk costs only their delivery after a power cut.
fn save(files: &[PathBuf], content: &Content) {
    for file in files {
        if let Ok(json) = serde_json::to_vec(content) {
            let _ = crate::durable::write(file, &json);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> (tempfile::TempDir, Paths, Spool, Clock) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        fs::create_dir_all(paths.run()).unwrap();
        let spool = Spool::open(&paths);
        (dir, paths, spool, Clock::new(0))
    }

    #[test]
    fn events_survive_the_process_and_keep_their_count() {
        let (_dir, paths, spool, clock) = spool();
        for code in ["one", "two"] {
            spool.event(&clock, Stage::Time, Severity::Error, code, "line");
        }
        let oldest = spool.oldest();
        spool.acknowledged(&oldest[..1]);
        drop(spool);
        let spool = Spool::open(&paths);
        spool.event(&clock, Stage::Time, Severity::Error, "three", "line");
        let events: Vec<_> = spool.oldest().into_iter().map(|event| (event.id, event.code)).collect();
        assert_eq!(events, [(2, "two".to_owned()), (3, "three".to_owned())]);
    }

    #[test]
    fn events_of_earlier_boots_on_state_come_first_and_once() {
        let (_dir, paths, spool, clock) = spool();
        let state = paths.state();
        fs::create_dir_all(state.join("spool")).unwrap();
        let earlier = Content {
            boot_id: "earlier".to_owned(),
            next_id: 8,
            events: vec![Event {
                id: 7,
                boot_id: "earlier".to_owned(),
                unix_seconds: 5,
                stage: Stage::Service,
                severity: Severity::Warning,
                code: "old".to_owned(),
                line: "line".to_owned(),
            }],
        };
        fs::write(state.join("spool/events.json"), serde_json::to_vec(&earlier).unwrap()).unwrap();
        spool.event(&clock, Stage::Time, Severity::Error, "new", "line");
        spool.attach(&state);
        spool.attach(&state);
        let codes: Vec<_> = spool.oldest().into_iter().map(|event| event.code).collect();
        assert_eq!(codes, ["old", "new"]);
        // The next process of this boot sees the same through either file.
        let next = Spool::open(&paths);
        next.attach(&state);
        assert_eq!(next.len(), 2);
    }

    #[test]
    fn a_full_spool_drops_the_mildest_first() {
        let mut events: Vec<Event> = (0..=KEEP as u64)
            .map(|id| Event {
                id,
                boot_id: String::new(),
                unix_seconds: 0,
                stage: Stage::Time,
                severity: if id == 3 { Severity::Info } else { Severity::Error },
                code: String::new(),
                line: String::new(),
            })
            .collect();
        bound(&mut events);
        assert_eq!(events.len(), KEEP);
        assert!(!events.iter().any(|event| event.id == 3));
    }
}
