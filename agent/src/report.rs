//! What the agent knows about itself and tells: to `cairn-agent status`, to heartbeats, to the next process of this
//! boot. One value behind a lock; published as files below /run/cairn.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_protocol::heartbeat::{
    BootstrapStep, ClusterBeat, FailedGeneration, HealthCheck, NodeState, Status, Waiting,
};
use cairn_protocol::ids::Name;
use cairn_protocol::inventory::Inventory;
use cairn_protocol::stage::Stage;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::paths::Paths;

/// The agent's state, as `/run/cairn/status.json` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The agent's version.
    pub agent_version: String,
    /// The stage.
    pub stage: Stage,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// The state of the node.
    pub state: NodeState,
    /// The site, once enrolled.
    pub site: Option<Name>,
    /// The node's name, once enrolled.
    pub node: Option<Name>,
    /// The controller that answered last.
    pub controller: Option<String>,
    /// The words to compare while in quarantine.
    pub words: Option<String>,
    /// The generation that runs.
    pub generation: Option<String>,
    /// The one that failed last.
    pub failed: Option<FailedGeneration>,
    /// The sequence of the assignment it acts on.
    pub assignment_sequence: u64,
    /// The etag of that assignment.
    pub assignment_etag: String,
    /// The etag of the assignment that central has for this node by the last heartbeat's answer.
    pub offered_etag: String,
    /// Bytes fetched and to fetch, while it fetches.
    pub progress: Option<(u64, u64)>,
    /// Health checks, in the booted root.
    pub health: Vec<HealthCheck>,
    /// The node's place in its site's cluster, in the booted root.
    pub cluster: Option<ClusterBeat>,
    /// The steps that lead to it.
    pub bootstrap: Vec<BootstrapStep>,
    /// Heartbeats acknowledged in this boot.
    pub heartbeats: u64,
    /// Why the last heartbeat failed, until one arrives again.
    pub last_error: Option<String>,
    /// When central was reached last, seconds since 1970.
    pub last_contact: u64,
    /// Events that wait for central.
    pub spooled: usize,
    /// Process id and machine time of the last change, seconds since the kernel started.
    pub changed_at: f64,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            stage: Stage::Devices,
            waiting: None,
            state: NodeState::Installing,
            site: None,
            node: None,
            controller: None,
            words: None,
            generation: None,
            failed: None,
            assignment_sequence: 0,
            assignment_etag: String::new(),
            offered_etag: String::new(),
            progress: None,
            health: Vec::new(),
            cluster: None,
            bootstrap: Vec::new(),
            heartbeats: 0,
            last_error: None,
            last_contact: 0,
            spooled: 0,
            changed_at: 0.0,
        }
    }
}

/// The shared report.
#[derive(Debug)]
pub struct Report {
    facts: Mutex<Facts>,
    stages: Mutex<Vec<(Stage, f64)>>,
    status: Mutex<Status>,
    paths: Paths,
    /// Something changed that central should hear of soon.
    pub changed: Notify,
    /// Central has another assignment, or a pause should end for another reason.
    pub wake: Notify,
    /// The cluster calls the node Ready, or does not any more: health is to be judged now.
    pub judge: Notify,
    /// Whether central says that the site's cluster stands; `None` until it was heard in this process.
    pub cluster_stands: watch::Sender<Option<bool>>,
}

impl Report {
    /// Starts from what an earlier process of this boot published.
    pub fn new(paths: Paths) -> Self {
        let stages = read_json(&paths.stages()).unwrap_or_default();
        let earlier: Facts = read_json(&paths.status()).unwrap_or_default();
        let facts = Facts {
            site: earlier.site,
            node: earlier.node,
            heartbeats: earlier.heartbeats,
            last_contact: earlier.last_contact,
            failed: earlier.failed,
            ..Facts::default()
        };
        Self {
            facts: Mutex::new(facts),
            stages: Mutex::new(stages),
            status: Mutex::new(Status {
                inventory: Inventory::default(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                kernel_version: kernel_version(),
                boot_source: "unknown".to_owned(),
                addresses: Vec::new(),
                layers: Vec::new(),
                health: Vec::new(),
                stage_seconds: Vec::new(),
                bootstrap: Vec::new(),
            }),
            paths,
            changed: Notify::new(),
            wake: Notify::new(),
            judge: Notify::new(),
            cluster_stands: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the facts.
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Changes the facts; publishes them and calls for a heartbeat when something differs.
    pub fn change(&self, change: impl FnOnce(&mut Facts)) {
        if self.update(change) {
            self.changed.notify_one();
        }
    }

    /// Changes the facts and publishes them, without calling for a heartbeat. Says whether something differed.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) -> bool {
        let mut facts = self.lock();
        let before = facts.clone();
        change(&mut facts);
        if *facts == before {
            return false;
        }
        facts.changed_at = crate::clock::since_boot().as_secs_f64();
        let now = facts.clone();
        drop(facts);
        write_json(&self.paths.status(), &now);
        true
    }

    /// Notes the time that a stage took; the first of this boot counts, a restart's repetition does not.
    pub fn finished(&self, stage: Stage, took: Duration) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        if !stages.iter().any(|(known, _)| *known == stage) {
            stages.push((stage, (took.as_secs_f64() * 1000.0).round() / 1000.0));
            write_json(&self.paths.stages(), &*stages);
        }
    }

    /// Changes what the full status says.
    pub fn change_status(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The full status now.
    pub fn status(&self) -> Status {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (health, bootstrap) = {
            let facts = self.lock();
            (facts.health.clone(), facts.bootstrap.clone())
        };
        Status { stage_seconds: self.stage_seconds(), health, bootstrap, ..status }
    }

    /// The stages of this boot with their seconds.
    pub fn stage_seconds(&self) -> Vec<(Stage, f64)> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn kernel_version() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// The longest of these files that is read, bytes.
const FILE_LIMIT: u64 = 256 << 10;

/// Reads a small JSON file of ours; `None` when it is missing, too long or not what it should be.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    if fs::metadata(path).ok()?.len() > FILE_LIMIT {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a file of /run whole: readers see the old or the new one. It need not survive a power cut.
pub fn write_json<T: Serialize>(path: &Path, value: &T) {
    let temporary = path.with_extension("tmp");
    if let Ok(json) = serde_json::to_vec(value)
        && fs::write(&temporary, json).is_ok()
    {
        let _ = fs::rename(&temporary, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_of_a_boot_goes_on_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        fs::create_dir_all(paths.run()).unwrap();
        let report = Report::new(paths.clone());
        report.finished(Stage::Devices, Duration::from_millis(1234));
        report.finished(Stage::Devices, Duration::from_secs(9));
        report.change(|facts| facts.heartbeats = 3);
        let next = Report::new(paths);
        assert_eq!(next.facts().heartbeats, 3);
        assert_eq!(next.stage_seconds(), [(Stage::Devices, 1.234)]);
    }

    #[test]
    fn a_change_that_changes_nothing_calls_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let report = Report::new(Paths::new(dir.path()));
        assert!(!report.update(|facts| facts.stage = Stage::Devices));
        assert!(report.update(|facts| facts.stage = Stage::Time));
    }
}
