//! `summary.json`: what a run showed, for machines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::dirs::{Error, fail};
use crate::qemu::args::Accel;

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Rack.
    pub rack: String,
    /// Whether every expectation held.
    pub ok: bool,
    /// What executed the guests.
    pub accel: Accel,
    /// Seconds of preparation: image, keys, bundle.
    pub prepare_seconds: f64,
    /// Seconds from the first power-on to the end.
    pub wall_seconds: f64,
    /// What went wrong with the run as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Files that tell more, when it failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<PathBuf>,
    /// The nodes.
    pub nodes: Vec<NodeSummary>,
}

/// A node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeSummary {
    /// Name.
    pub name: String,
    /// Chassis serial.
    pub serial: String,
    /// Boot way.
    pub boot: &'static str,
    /// State at the controller.
    pub state: Option<String>,
    /// Generation at the controller.
    pub generation: Option<String>,
    /// Heartbeats received.
    pub heartbeats: u64,
    /// Kernel starts.
    pub boots: u32,
    /// Seconds from power-on until everything expected held, or until the end.
    pub wall_seconds: f64,
    /// Processor seconds of its QEMU.
    pub cpu_seconds: f64,
    /// Seconds in each stage, over all boots, by the node's own clock.
    pub stage_seconds: BTreeMap<String, f64>,
    /// Seconds of each step of its cluster's bootstrap, in order, by the node's own clock; none for a node without a role.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bootstrap: Vec<crate::central::Step>,
    /// Resident memory of its agent, as it reported last.
    pub agent_rss_bytes: Option<u64>,
    /// Processor time of its agent, as it reported last.
    pub agent_cpu_millis: Option<u64>,
    /// What did not come true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

impl Summary {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        write_json(path, self)
    }
}

/// Writes a value as JSON, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| fail("format", path)(error.into()))?;
    let tmp = path.with_extension("tmp");
    std::fs::write(&tmp, text + "\n").map_err(fail("write", &tmp))?;
    std::fs::rename(&tmp, path).map_err(fail("rename", path))
}
