//! What the controller knows, asked through `cairnctl` as an operator would.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How often the controller is asked.
const ASK: Duration = Duration::from_secs(1);

/// A node as the controller lists it; what the lab does not use is passed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeView {
    /// Site.
    pub site: String,
    /// Name in the plan.
    pub node: String,
    /// Stage of the last heartbeat.
    pub stage: Option<String>,
    /// State of the last heartbeat.
    pub state: Option<String>,
    /// Generation it runs.
    pub generation: Option<String>,
    /// Heartbeats received.
    pub heartbeats: u64,
    /// Resident memory of its agent in bytes.
    pub agent_rss_bytes: Option<u64>,
    /// Processor time of its agent in milliseconds.
    pub agent_cpu_millis: Option<u64>,
    /// Its place in its site's cluster.
    pub cluster: Option<Cluster>,
}

/// A node's place in its site's cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Whether it is well.
    pub ready: bool,
    /// The step it is at, what that waits for, or how the cluster is.
    pub line: String,
}

/// A step of a node's bootstrap, as its status has it; what the lab does not use is passed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// `pending`, `running`, `waiting`, `done`.
    pub state: String,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Why the controller did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `cairnctl` could not be run.
    #[error("cannot run {}", program.display())]
    Run {
        /// Where it should be.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It failed.
    #[error("cairnctl {verb} failed ({status}): {said}")]
    Failed {
        /// What was asked.
        verb: String,
        /// Exit status.
        status: std::process::ExitStatus,
        /// Its last line.
        said: String,
    },
    /// Its answer is not what was expected.
    #[error("cairnctl {verb} answered something unexpected")]
    Answer {
        /// What was asked.
        verb: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// An operator's hands.
#[derive(Debug, Clone)]
pub struct Central {
    /// The `cairnctl` program.
    pub program: PathBuf,
    /// Operator credential folder.
    pub credentials: PathBuf,
    /// Base URL of the controller.
    pub url: String,
}

impl Central {
    /// The words that follow `cairnctl`: who and where, then `words`.
    #[must_use]
    pub fn words(&self, words: &[&str]) -> Vec<String> {
        let credentials = self.credentials.to_string_lossy();
        let global = ["--credentials", &credentials, "--controller", &self.url, "--output", "json"];
        global.iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    /// Runs `cairnctl` with these words and returns its JSON.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn call(&self, words: &[&str]) -> Result<Value, Error> {
        let verb = words.join(" ");
        let mut command = Command::new(&self.program);
        command.arg("--credentials").arg(&self.credentials).args([
            "--controller",
            &self.url,
            "--output",
            "json",
        ]);
        let out = command.args(words).stdin(Stdio::null()).output();
        let out = out.map_err(|source| Error::Run { program: self.program.clone(), source })?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            let said = said.trim_end().lines().last().unwrap_or_default().to_owned();
            return Err(Error::Failed { verb, status: out.status, said });
        }
        if out.stdout.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&out.stdout).map_err(|source| Error::Answer { verb, source })
    }

    /// All nodes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn nodes(&self) -> Result<Vec<NodeView>, Error> {
        let value = self.call(&["node", "list"])?;
        read_nodes(value).map_err(|source| Error::Answer { verb: "node list".to_owned(), source })
    }

    /// Everything about one node.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn node(&self, site: &str, node: &str) -> Result<Value, Error> {
        self.call(&["node", "show", site, node])
    }

    /// The steps of a node's bootstrap, in order; none for a node without a role.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn steps(&self, site: &str, node: &str) -> Result<Vec<Step>, Error> {
        let mut detail = self.node(site, node)?;
        let steps = detail["status"]["bootstrap"].take();
        if steps.is_null() {
            return Ok(Vec::new());
        }
        serde_json::from_value(steps).map_err(|source| Error::Answer { verb: "node show".to_owned(), source })
    }

    /// Asks for all nodes again and again until the answer is dropped; a controller that is away leaves the last answer.
    #[must_use]
    pub fn watch(&self) -> Watch {
        let asker = self.clone();
        let shared = Arc::new(Mutex::new(Vec::new()));
        let weak = Arc::downgrade(&shared);
        let _ = std::thread::Builder::new().name("central".to_owned()).spawn(move || {
            while weak.strong_count() > 0 {
                if let (Ok(nodes), Some(shared)) = (asker.nodes(), weak.upgrade()) {
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
                }
                std::thread::sleep(ASK);
            }
        });
        Watch { shared }
    }
}

/// The nodes of `cairnctl node list`: a list, alone or under `nodes`.
///
/// # Errors
/// When it is neither.
pub fn read_nodes(mut value: Value) -> Result<Vec<NodeView>, serde_json::Error> {
    if let Some(nodes) = value.get_mut("nodes") {
        value = nodes.take();
    }
    if value.is_null() { Ok(Vec::new()) } else { serde_json::from_value(value) }
}

/// The last answer of the controller.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Mutex<Vec<NodeView>>>,
}

impl Watch {
    /// All nodes, as last heard.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_both_shapes_and_refuses_others() {
        let node =
            json!({"site": "edge-1", "node": "node-a", "state": "ready", "heartbeats": 3, "later": {}});
        let want = NodeView {
            site: "edge-1".to_owned(),
            node: "node-a".to_owned(),
            state: Some("ready".to_owned()),
            heartbeats: 3,
            ..NodeView::default()
        };
        assert_eq!(read_nodes(json!([node])).unwrap(), std::slice::from_ref(&want));
        assert_eq!(read_nodes(json!({"nodes": [node]})).unwrap(), [want]);
        assert_eq!(read_nodes(Value::Null).unwrap(), []);
        assert!(read_nodes(json!([{"heartbeats": "many"}])).is_err());
    }
}
