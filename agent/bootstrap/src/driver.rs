//! The bootstrap as one task of the agent.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_bundle::durable;
use cairn_net::kernel::Kernel;
use cairn_protocol::heartbeat::{BootstrapStep, ClusterBeat};
use cairn_protocol::plan::{NodeKubernetes, Timeouts};
use tokio::sync::watch;

use crate::engine::{Engine, Next, ROUND};
use crate::host::Host;
pub use crate::host::{Identify, Places};
use crate::profile::Profile;
use crate::record::{RECORD_BYTES, Record};
use crate::steps::Way;

/// What the agent gives to the bootstrap.
pub struct Start {
    /// Where things lie.
    pub places: Places,
    /// The node's place, from its plan.
    pub place: NodeKubernetes,
    /// The speed of the machine: the plan's word, or what was measured. What was measured at the first bootstrap stays:
    /// another word would change every configuration file.
    pub speed: Timeouts,
    /// Whether the plan says the speed.
    pub speed_is_planned: bool,
    /// Whether it runs in a container.
    pub container: bool,
    /// The memory that the node may use, bytes, where it is less than the machine's.
    pub memory_bytes: Option<u64>,
    /// The node's identity.
    pub identity: Arc<dyn Identify>,
    /// Whether central says that a cluster stands; `None` until it was heard.
    pub stands: watch::Receiver<Option<bool>>,
    /// Where is published how far it is.
    pub report: watch::Sender<Report>,
}

/// How far the bootstrap is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// For heartbeats.
    pub beat: ClusterBeat,
    /// For the status.
    pub steps: Vec<BootstrapStep>,
}

/// Makes the node a member and keeps it one; never ends.
pub async fn run(mut start: Start) {
    let mut failures = 0_u32;
    loop {
        match once(&mut start).await {
            // The cluster that it was a member of is gone for another: it comes in anew.
            Ok(()) => failures = 0,
            Err(why) => {
                failures = failures.saturating_add(1);
                tracing::error!(why, "the bootstrap could not start");
                say(&start, &why);
                tokio::time::sleep(ROUND * failures.min(6)).await;
            }
        }
    }
}

fn say(start: &Start, line: &str) {
    let line = cairn_protocol::limits::clean_text(line);
    start.report.send_modify(|report| {
        report.beat.control_plane = start.place.is_control_plane();
        (report.beat.ready, report.beat.line) = (false, line);
    });
}

/// Reads the record of this disk; a damaged one is a fault that a person looks at, not a new cluster.
fn read_record(path: &Path) -> Result<Record, String> {
    match durable::read(path, RECORD_BYTES as u64 + 1).map_err(|e| e.to_string())? {
        Some(bytes) => Record::parse(&bytes).map_err(|e| format!("{}: {e}", path.display())),
        None => Ok(Record::default()),
    }
}

/// The way in: decided once, from the plan and central's word.
async fn way(start: &mut Start, record: &Record) -> Way {
    if let Some(way) = record.way {
        let way = Way::from(way);
        // A worker that the plan made a control plane, or the other way round, comes in anew.
        if start.place.is_control_plane() == (way != Way::JoinWorker) {
            return way;
        }
    }
    let mut stands = false;
    if start.place.is_first() && start.place.control_planes.len() > 1 {
        say(start, "asks central whether a cluster stands already");
        let heard = start.stands.wait_for(Option::is_some).await.map(|word| word.unwrap_or(false)).ok();
        match heard {
            Some(word) => stands = word,
            None => std::future::pending().await,
        }
    }
    Way::of(&start.place, stands)
}

async fn once(start: &mut Start) -> Result<(), String> {
    let mut record = read_record(&start.places.record())?;
    let way = way(start, &record).await;
    if record.way != Some(way.into()) {
        record = Record { way: Some(way.into()), ..Record::default() };
    }
    let measured = *record.speed.get_or_insert(start.speed);
    let speed = if start.speed_is_planned { start.speed } else { measured };
    let kernel = Kernel::open(Path::new("/proc/sys"), Path::new("/sys")).map_err(|e| e.to_string())?.0;
    let mut host = Host::new(
        start.places.clone(),
        start.place.clone(),
        (start.container, start.memory_bytes),
        Profile::of(speed),
        Arc::clone(&start.identity),
        kernel,
        (way, record),
    );
    host.save().map_err(|trouble| trouble.reason)?;
    let begun = Instant::now();
    let mut engine = Engine::new(way);
    let mut next = engine.begin(Duration::ZERO);
    let mut told = String::new();
    loop {
        publish(start, &host, &engine, begun.elapsed());
        tell(&engine, &mut told);
        next = match next {
            Next::Probe(step) => engine.seen(host.probe(step).await, begun.elapsed(), random()),
            Next::Act(step) => {
                tracing::info!(step = step.name(), "acts");
                // While it acts the seconds go on to be published.
                let acting = host.act(step);
                engine.acted(acting.await, random())
            }
            Next::Pause(_, pause) => {
                tokio::time::sleep(pause).await;
                if host.is_orphan() {
                    return orphan(start, &host);
                }
                engine.again(begun.elapsed())
            }
            Next::Rest(pause) => {
                host.is_member().map_err(|trouble| trouble.reason)?;
                publish(start, &host, &engine, begun.elapsed());
                tokio::time::sleep(pause).await;
                if host.is_orphan() {
                    return orphan(start, &host);
                }
                engine.round(begun.elapsed())
            }
        };
    }
}

/// The site's cluster was begun anew: what this node knows of the old one is forgotten.
fn orphan(start: &Start, host: &Host) -> Result<(), String> {
    tracing::warn!("the site's cluster is another one now: this node joins it");
    durable::remove(&host.places.record()).map_err(|e| e.to_string())?;
    say(start, "the site's cluster is another one now: this node joins it");
    Ok(())
}

/// Logs what changed, for the journal.
fn tell(engine: &Engine, told: &mut String) {
    let line = match engine.current() {
        Some((step, Some(trouble))) => format!("{}: {}", step.name(), trouble.reason),
        Some((step, None)) => step.name().to_owned(),
        None => "all steps are done".to_owned(),
    };
    if line != *told {
        tracing::info!("{line}");
        *told = line;
    }
}

fn publish(start: &Start, host: &Host, engine: &Engine, now: Duration) {
    let line = match engine.current() {
        Some((step, Some(trouble))) => format!("{}: {}", step.name(), trouble.reason),
        Some((step, None)) => step.name().to_owned(),
        None => "Ready".to_owned(),
    };
    let report = Report {
        beat: ClusterBeat {
            control_plane: host.place.is_control_plane(),
            member: host.record.member || engine.is_done(),
            ready: engine.is_done(),
            line: cairn_protocol::limits::clean_text(&line),
        },
        steps: engine.report(now),
    };
    start.report.send_if_modified(|have| {
        let changed = *have != report;
        *have = report;
        changed
    });
}

/// From 0 to 1.
fn random() -> f64 {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; 2];
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}
