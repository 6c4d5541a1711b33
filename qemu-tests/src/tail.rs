//! Following a log file, and waiting for what it says.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the file is looked at. QEMU flushes each character; this only bounds how late a line is seen.
const LOOK: Duration = Duration::from_millis(50);
/// Longest line kept; firmware that draws menus writes very long ones.
const MAX_LINE: usize = 4096;
/// Lines kept. A node that says more than this is not read further; its file still holds everything.
const MAX_LINES: usize = 500_000;

/// A line, and when the lab saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// The text without control characters.
    pub text: String,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<Seen>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// A file being followed. The file may appear later.
#[derive(Debug)]
pub struct Tail {
    shared: Arc<Shared>,
    path: PathBuf,
}

/// Nothing of the kind was said in time.
#[derive(Debug, Clone, thiserror::Error)]
#[error("waited {} s for {condition}; see {}{}", waited.as_secs(), path.display(), last_words(last))]
pub struct Timeout {
    /// What was waited for.
    pub condition: String,
    /// How long.
    pub waited: Duration,
    /// The file.
    pub path: PathBuf,
    /// Its last line.
    pub last: Option<String>,
}

fn last_words(last: &Option<String>) -> String {
    last.as_ref().map(|line| format!(", whose last line is: {line}")).unwrap_or_default()
}

impl Tail {
    /// Follows `path` from its beginning.
    #[must_use]
    pub fn follow(path: &Path) -> Self {
        Self::start(path, 0)
    }

    /// Follows `path` from where it ends now.
    #[must_use]
    pub fn follow_end(path: &Path) -> Self {
        Self::start(path, std::fs::metadata(path).map_or(0, |meta| meta.len()))
    }

    fn start(path: &Path, from: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let weak = Arc::downgrade(&shared);
        let file = path.to_owned();
        // Failing to start a thread shows as silence, which every wait reports with the file's name.
        let _ = std::thread::Builder::new().name("tail".to_owned()).spawn(move || {
            let mut reader = Reader { from, ..Reader::default() };
            while let Some(shared) = weak.upgrade() {
                let fresh = reader.read(&file);
                if !fresh.is_empty() {
                    let at = Instant::now();
                    let mut inner = lock(&shared);
                    let room = MAX_LINES.saturating_sub(inner.lines.len());
                    inner.lines.extend(fresh.into_iter().take(room).map(|text| Seen { at, text }));
                    drop(inner);
                    shared.changed.notify_all();
                }
                if lock(&shared).closed {
                    return;
                }
                drop(shared);
                std::thread::sleep(LOOK);
            }
        });
        Self { shared, path: path.to_owned() }
    }

    /// How many lines were seen so far: the place from which a later wait looks.
    #[must_use]
    pub fn mark(&self) -> usize {
        lock(&self.shared).lines.len()
    }

    /// The lines since `mark`.
    #[must_use]
    pub fn since(&self, mark: usize) -> Vec<Seen> {
        lock(&self.shared).lines.get(mark..).unwrap_or_default().to_vec()
    }

    /// Waits until a line since `mark` makes `pick` answer; `condition` names it when it does not come before `patience` ends.
    ///
    /// # Errors
    /// [`Timeout`].
    pub fn wait<T>(
        &self,
        mark: usize,
        patience: Duration,
        condition: &str,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, Timeout> {
        let start = Instant::now();
        let mut next = mark;
        let mut inner = lock(&self.shared);
        loop {
            while let Some(line) = inner.lines.get(next) {
                next += 1;
                if let Some(found) = pick(&line.text) {
                    return Ok(found);
                }
            }
            let Some(left) = patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                return Err(Timeout {
                    condition: condition.to_owned(),
                    waited: start.elapsed(),
                    path: self.path.clone(),
                    last: inner.lines.last().map(|line| line.text.clone()),
                });
            };
            let waited = self.shared.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        lock(&self.shared).closed = true;
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Inner> {
    shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Reader {
    file: Option<File>,
    from: u64,
    splitter: Splitter,
}

impl Reader {
    fn read(&mut self, path: &Path) -> Vec<String> {
        if self.file.is_none() {
            self.file = File::open(path)
                .and_then(|mut file| file.seek(SeekFrom::Start(self.from)).map(|_| file))
                .ok();
        }
        let Some(file) = &mut self.file else { return Vec::new() };
        let mut bytes = Vec::new();
        // What cannot be read now is read at the next look.
        let _ = file.take(1 << 20).read_to_end(&mut bytes);
        let mut lines = Vec::new();
        self.splitter.push(&bytes, &mut lines);
        lines
    }
}

/// Cuts bytes of a terminal into lines of plain text: escape sequences and control characters go.
#[derive(Debug, Default)]
pub struct Splitter {
    line: Vec<u8>,
    escape: Escape,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Start,
    /// After ESC [, until a final byte (ECMA-48 5.4).
    Control,
}

impl Splitter {
    /// Takes bytes as they come; complete lines are added to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<String>) {
        for byte in bytes {
            match (self.escape, byte) {
                (Escape::None, b'\n') => {
                    out.push(String::from_utf8_lossy(&self.line).into_owned());
                    self.line.clear();
                }
                (Escape::None, 0x1b) => self.escape = Escape::Start,
                (Escape::None, byte) => {
                    if (*byte >= b' ' || *byte == b'\t') && *byte != 0x7f && self.line.len() < MAX_LINE {
                        self.line.push(*byte);
                    }
                }
                (Escape::Start, b'[') => self.escape = Escape::Control,
                (Escape::Start, _) => self.escape = Escape::None,
                (Escape::Control, 0x40..=0x7e) => self.escape = Escape::None,
                // A sequence does not span lines; whatever this was, text goes on.
                (Escape::Control, b'\n') => self.escape = Escape::None,
                (Escape::Control, _) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_for_a_line_and_names_what_did_not_come() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial.log");
        let tail = Tail::follow(&path);
        let mut file = File::create(&path).unwrap();
        let writer = std::thread::spawn(move || {
            for line in
                ["BdsDxe: \x1b[2J\x1b[01;01Hloading", "cairn[1.0] enrol: do", "cairn[1.1] enrol: done"]
            {
                writeln!(file, "{line}\r").unwrap();
            }
            write!(file, "unfinished").unwrap();
        });
        let number = tail.wait(0, Duration::from_secs(10), "enrolment", |line| {
            line.ends_with("enrol: done").then_some(line.len())
        });
        assert_eq!(number.unwrap(), 22);
        writer.join().unwrap();
        assert_eq!(tail.since(0)[0].text, "BdsDxe: loading");
        let error =
            tail.wait(tail.mark(), Duration::from_millis(20), "heartbeats", |_| Some(())).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("heartbeats") && text.contains("serial.log") && text.contains("enrol: done"),
            "{text}"
        );
    }

    proptest! {
        /// How the bytes are cut into reads makes no difference, and no control character comes through.
        #[test]
        fn reads_may_be_cut_anywhere(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let mut whole = Vec::new();
            Splitter::default().push(&bytes, &mut whole);
            let mut parts = Vec::new();
            let mut splitter = Splitter::default();
            let cut = cut.min(bytes.len());
            splitter.push(&bytes[..cut], &mut parts);
            splitter.push(&bytes[cut..], &mut parts);
            prop_assert_eq!(&whole, &parts);
            prop_assert!(whole.iter().all(|line| line.chars().all(|c| c == '\t' || !c.is_ascii_control())));
        }
    }
}
