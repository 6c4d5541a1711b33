//! Heartbeats: small, steady, with events until central has them; the full status when central lacks it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::heartbeat::{Heartbeat, HeartbeatAnswer};
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::limits::clean_text;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::clock::{self, Clock};
use crate::report::{Report, read_json, write_json};
use crate::spool::{Spool, boot_id};
use crate::uplink::{Uplink, UplinkError};

/// Seconds between heartbeats until central has said.
const FIRST_INTERVAL: u32 = 5;
/// A change is told at once, but not more often than this: a flapping link is no reason for a storm.
const SOONEST: Duration = Duration::from_secs(2);
/// The longest pause after failed heartbeats.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What the heartbeats are made from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The line.
    pub uplink: Arc<Uplink>,
    /// What to tell.
    pub report: Arc<Report>,
    /// Events to deliver.
    pub spool: Arc<Spool>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Where the count of this boot is kept: `/run/cairn/heartbeat.json`.
    pub count_file: PathBuf,
}

/// The task that sends them.
#[derive(Debug)]
pub struct Beater {
    ask: mpsc::Sender<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    /// Central does not know this node any more: it has to enrol again.
    pub outcast: Arc<std::sync::atomic::AtomicBool>,
}

impl Beater {
    /// Starts the task on the current runtime.
    pub fn start(source: Source) -> Self {
        let (ask, asked) = mpsc::channel(1);
        let outcast = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let task = tokio::spawn(run(source, asked, Arc::clone(&outcast)));
        Self { ask, task, outcast }
    }

    /// Sends one now, waits at most some seconds for it, and ends.
    pub async fn last(self) {
        let (done, wait) = oneshot::channel();
        if self.ask.send(done).await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(5), wait).await;
        }
        self.task.abort();
    }
}

impl Drop for Beater {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    source: Source,
    mut asked: mpsc::Receiver<oneshot::Sender<()>>,
    outcast: Arc<std::sync::atomic::AtomicBool>,
) {
    let (mut interval, mut jitter) = (FIRST_INTERVAL, 10_u8);
    let mut failures = 0_u32;
    loop {
        let sent = Instant::now();
        match beat(&source).await {
            Ok(answer) => {
                failures = 0;
                interval = answer.interval_seconds.clamp(1, 3600);
                jitter = answer.jitter_percent.min(50);
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if error.needs_enrolment() {
                    outcast.store(true, std::sync::atomic::Ordering::Relaxed);
                    source.report.wake.notify_one();
                }
            }
        }
        let pause = if failures == 0 {
            spread(interval, jitter, crate::worker::random())
        } else {
            crate::engine::backoff(failures, crate::worker::random()).min(LONGEST_RETRY)
        };
        tokio::select! {
            () = tokio::time::sleep_until(sent + pause) => {}
            () = source.report.changed.notified() => tokio::time::sleep_until(sent + SOONEST).await,
            Some(done) = asked.recv() => {
                let _ = beat(&source).await;
                let _ = done.send(());
            }
        }
    }
}

/// The pause to the next heartbeat: the interval, off by at most `percent` of it to either side.
fn spread(interval: u32, percent: u8, random: f64) -> Duration {
    let share = f64::from(percent) / 100.0;
    Duration::from_secs(u64::from(interval)).mul_f64(1.0 + share * (2.0 * random - 1.0))
}

/// Resident memory of this process, bytes (proc(5), statm: pages).
fn own_rss() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    // The page size of x86-64; aarch64 kernels of Debian have the same.
    pages * 4096
}

/// Sends one heartbeat and does what its answer asks for.
async fn beat(source: &Source) -> Result<HeartbeatAnswer, UplinkError> {
    let status = serde_json::to_vec(&source.report.status()).map(Bytes::from).unwrap_or_default();
    let facts = source.report.facts();
    let events = source.spool.oldest();
    let sequence = read_json::<u64>(&source.count_file).unwrap_or(0) + 1;
    let heartbeat = Heartbeat {
        sequence,
        boot_id: boot_id(),
        stage: facts.stage,
        waiting: facts.waiting,
        state: facts.state,
        generation: facts.generation,
        failed: facts.failed,
        assignment_sequence: facts.assignment_sequence,
        status_digest: Sha256Digest::of(&status),
        uptime_seconds: clock::since_boot().as_secs(),
        agent_rss_bytes: own_rss(),
        agent_cpu_millis: u64::try_from(clock::own_cpu().as_millis()).unwrap_or(u64::MAX),
        cluster: facts.cluster,
        events: events.clone(),
    };
    let answer = source.uplink.heartbeat(&heartbeat).await.inspect_err(|error| {
        source.report.update(|facts| facts.last_error = Some(clean_text(&error.to_string())));
    })?;
    write_json(&source.count_file, &sequence);
    source.report.cluster_stands.send_replace(Some(answer.cluster_stands));
    if answer.events_stored as usize >= events.len() {
        source.spool.acknowledged(&events);
    }
    source.report.update(|facts| {
        facts.heartbeats = sequence;
        facts.last_contact = source.clock.now();
        facts.controller = source.uplink.current();
        facts.spooled = source.spool.len();
        facts.last_error = None;
        facts.offered_etag.clone_from(&answer.assignment_etag);
    });
    if facts.assignment_etag != answer.assignment_etag {
        source.report.wake.notify_one();
    }
    if answer.want_status {
        source.uplink.status(status).await?;
    }
    if !source.spool.is_empty() {
        source.report.changed.notify_one();
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_around_the_interval() {
        for (random, seconds) in [(0.0, 27.0), (0.5, 30.0), (1.0, 33.0)] {
            assert!((spread(30, 10, random).as_secs_f64() - seconds).abs() < 1e-6);
        }
    }

    #[test]
    fn this_process_has_memory() {
        assert!(own_rss() > 100_000);
    }
}
