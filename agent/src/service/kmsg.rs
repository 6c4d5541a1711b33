//! The kernel's log, watched for damaged layers from the start of the boot on.

use std::fs::File;
use std::io::Read as _;

use tokio::sync::mpsc;

use crate::verity_watch::{BadBlock, parse_record};

/// A record of /dev/kmsg has at most this many bytes (kernel: PRINTKRB_RECORD_MAX with its escapes).
const RECORD: usize = 8192;
/// Damaged blocks remembered, so that each is told once.
const SEEN: usize = 10_000;
/// The watching thread's stack: it keeps one record.
const STACK: usize = 64 << 10;

/// Starts to watch on a thread of its own, which sleeps in read(2). Without a kernel log the channel stays silent.
pub(super) fn watch() -> (mpsc::Sender<BadBlock>, mpsc::Receiver<BadBlock>) {
    let (sender, receiver) = mpsc::channel(64);
    let theirs = sender.clone();
    let thread = std::thread::Builder::new().name("kmsg".to_owned()).stack_size(STACK);
    let started = thread.spawn(move || {
        if let Err(error) = follow(&theirs) {
            tracing::warn!(%error, "the kernel's log is not watched any more");
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "the kernel's log is not watched");
    }
    // The caller keeps a sender, so that the receiver never sees an end.
    (sender, receiver)
}

/// What [`watch`] answers where there is nothing to watch.
pub(super) fn silent() -> (mpsc::Sender<BadBlock>, mpsc::Receiver<BadBlock>) {
    mpsc::channel(1)
}

fn follow(sender: &mpsc::Sender<BadBlock>) -> std::io::Result<()> {
    let mut file = File::open("/dev/kmsg")?;
    let mut seen = std::collections::HashSet::new();
    let mut buffer = vec![0; RECORD];
    loop {
        match file.read(&mut buffer) {
            Ok(length) => {
                if let Some(bad) = parse_record(&buffer[..length])
                    && seen.len() < SEEN
                    && seen.insert(bad)
                    && sender.blocking_send(bad).is_err()
                {
                    return Ok(());
                }
            }
            // EPIPE: records were overwritten before they were read; the next read goes on.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EPIPE as i32) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
