//! What a running agent tells central, and what central answers.

use serde::{Deserialize, Serialize};

use crate::ids::{Name, Sha256Digest};
use crate::inventory::Inventory;
use crate::stage::Stage;

/// `POST /v1/node/heartbeat`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Grows by one with each heartbeat of this boot, from 1.
    pub sequence: u64,
    /// The kernel's boot id: tells one boot from the next.
    pub boot_id: String,
    /// The stage the node is in.
    pub stage: Stage,
    /// What it waits for, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The state of the node as it sees itself.
    pub state: NodeState,
    /// The generation it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// The generation that failed last on this node and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedGeneration>,
    /// The sequence of the assignment it acts on; 0 for none.
    #[serde(default)]
    pub assignment_sequence: u64,
    /// Digest of the last full [`Status`] it has; central asks for it when it differs.
    pub status_digest: Sha256Digest,
    /// Seconds since the kernel started.
    pub uptime_seconds: u64,
    /// Resident memory of the agent in bytes.
    pub agent_rss_bytes: u64,
    /// CPU time of the agent in milliseconds, user and system.
    pub agent_cpu_millis: u64,
    /// Its place in the site's cluster, where its plan gives it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterBeat>,
    /// Events since the last acknowledged one, oldest first, at most [`crate::limits::EVENTS_PER_HEARTBEAT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

/// A reason for waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// Why.
    pub reason: String,
    /// What a person can do about it.
    pub advice: String,
}

/// A generation that did not pass its health checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedGeneration {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// The state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Enrolled, in the initramfs, nothing to install.
    Waiting,
    /// Fetching and writing a generation.
    Installing,
    /// Running a generation that is not committed yet.
    Trying,
    /// Running a committed generation from its own disk, health checks passed.
    Ready,
    /// Running a committed generation that is well; its part in the site's cluster is not taken up yet.
    Bootstrapping,
    /// Running, with a health check failing.
    Degraded,
}

/// Something that happened, kept on the node until central has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Grows with each event of one boot, from 1; with the boot id it is unique.
    pub id: u64,
    /// The boot in which it happened.
    pub boot_id: String,
    /// When, seconds since 1970 by the node's clock; 0 before the clock was set.
    pub unix_seconds: u64,
    /// The stage in which it happened.
    pub stage: Stage,
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for machines, such as `metadata-expired`.
    pub code: String,
    /// One line for people.
    pub line: String,
}

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Something was refused or failed; the node goes on by itself.
    Warning,
    /// Somebody has to act.
    Error,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatAnswer {
    /// The etag of the node's assignment now; empty for none.
    pub assignment_etag: String,
    /// Seconds until the next heartbeat. Default 30, 1 to 3600.
    pub interval_seconds: u32,
    /// Jitter in percent of the interval. 0 to 50.
    pub jitter_percent: u8,
    /// Whether central lacks the status whose digest the heartbeat named.
    pub want_status: bool,
    /// How many of the heartbeat's events were stored: all, or none (0) when the store failed.
    pub events_stored: u32,
    /// Central's time, seconds since 1970.
    pub unix_seconds: u64,
    /// Whether another control plane of the site has said that it is a member of the site's cluster: then this node joins,
    /// and never begins a second cluster beside it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster_stands: bool,
}

/// `PUT /v1/node/status`: the full status, sent when it changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The machine.
    pub inventory: Inventory,
    /// Agent's version.
    pub agent_version: String,
    /// Kernel's version.
    pub kernel_version: String,
    /// How this boot started: `netboot`, `usb`, `disk`, `direct`, `unknown`.
    pub boot_source: String,
    /// Addresses in CIDR form by link name.
    pub addresses: Vec<(String, Vec<String>)>,
    /// Layers that the root is stacked from: name and verity root hash.
    pub layers: Vec<(String, String)>,
    /// Named health checks: name, passed, one line.
    pub health: Vec<HealthCheck>,
    /// Seconds each stage of this boot took, in order; the initramfs' stages are carried over.
    pub stage_seconds: Vec<(Stage, f64)>,
    /// Steps of the cluster's bootstrap on this node, in order; at most [`crate::limits::BOOTSTRAP_STEPS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bootstrap: Vec<BootstrapStep>,
}

/// How a member of the cluster is, small enough for each heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterBeat {
    /// Whether it is a control plane.
    pub control_plane: bool,
    /// Whether it is a member: its bootstrap came to its end once on this disk.
    pub member: bool,
    /// Whether it is well: all steps done, the node Ready, on a control plane `/readyz` too.
    pub ready: bool,
    /// One line: the step it is at, what that waits for, or how the cluster is.
    pub line: String,
}

/// One step of the bootstrap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapStep {
    /// Its name.
    pub name: Name,
    /// How far it is.
    pub state: StepState,
    /// Seconds that it took or has taken so far in this boot.
    pub seconds: f64,
    /// How often it was tried in this boot.
    pub tries: u32,
    /// What it waits for, or why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The last lines of what its programs said, oldest first; at most [`crate::limits::STEP_LOG_LINES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Not begun.
    Pending,
    /// At work.
    Running,
    /// Waits for something, or for its next try.
    Waiting,
    /// Done, and seen to be.
    Done,
}

impl Status {
    /// Cuts what grows with what others say to its limits.
    pub fn clean(&mut self) {
        use crate::limits::{BOOTSTRAP_STEPS, STEP_LOG_LINES, clean_text};
        self.bootstrap.truncate(BOOTSTRAP_STEPS);
        for step in &mut self.bootstrap {
            step.log.truncate(STEP_LOG_LINES);
            for line in &mut step.log {
                *line = clean_text(line);
            }
            if let Some(waiting) = &mut step.waiting {
                waiting.reason = clean_text(&waiting.reason);
                waiting.advice = clean_text(&waiting.advice);
            }
        }
    }
}

/// One health check's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Its name.
    pub name: Name,
    /// Whether it passed.
    pub passed: bool,
    /// One line: what was seen.
    pub line: String,
}
