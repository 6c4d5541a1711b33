//! Nodes, and keys that wait for an operator.

use cairn_protocol::heartbeat::{BootstrapStep, Event, Severity, StepState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::{Global, Node, NodeAt};
use crate::client::{self, Client};
use crate::error::Error;
use crate::output::{Output, ago, bytes, or_dash, table};
use crate::repo;

/// A node in a list, as far as it is printed; `--output json` passes all on that the controller said.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeView {
    pub(crate) site: String,
    pub(crate) node: String,
    pub(crate) stage: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) generation: Option<String>,
    pub(crate) assigned_generation: Option<String>,
    pub(crate) waiting: Option<Reason>,
    pub(crate) heartbeats: u64,
    pub(crate) last_seen: Option<u64>,
    pub(crate) enrolled: Option<u64>,
    pub(crate) lost: Option<bool>,
    pub(crate) serial: Option<String>,
    pub(crate) failed: Option<FailedView>,
    pub(crate) uptime_seconds: Option<u64>,
    pub(crate) agent_rss_bytes: Option<u64>,
}

/// Why a node waits.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Reason {
    pub(crate) reason: String,
    pub(crate) advice: String,
}

/// A generation that failed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct FailedView {
    id: String,
    reason: String,
}

/// A key that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Waiting {
    id: u64,
    site: String,
    words: String,
    serial: String,
    address: String,
    state: String,
    node: Option<String>,
    first_seen: u64,
    last_seen: u64,
    #[serde(default)]
    inventory: Value,
}

/// An enrolment that was refused.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    id: u64,
    code: String,
    serial: String,
    address: String,
    detail: String,
    first_seen: u64,
    last_seen: u64,
    count: u64,
}

pub(crate) fn run(command: Node, global: &Global, out: &Output) -> Result<(), Error> {
    let client = Client::new(global)?;
    let now = repo::now(global).0;
    client::run(async {
        match command {
            Node::List { site } => {
                let query = site.map(|site| format!("?site={site}")).unwrap_or_default();
                let nodes: Value = client.get(&format!("/v1/nodes{query}")).await?;
                let views: Vec<NodeView> = read(&nodes)?;
                out.print(&nodes, |_| nodes_table(&views, now))
            }
            Node::Show { node } => {
                let detail: Value = client.get(&path(&node, "")).await?;
                let view: NodeView = read(&detail)?;
                out.print(&detail, |detail| node_text(&view, detail, now))
            }
            Node::Events { node, limit } => {
                let events: Vec<Event> = client.get(&path(&node, &format!("/events?limit={limit}"))).await?;
                out.print(&events, |events| events_table(events, now))
            }
            Node::Quarantine => {
                let waiting: Vec<Waiting> = client.get("/v1/quarantine").await?;
                out.print(&waiting, |waiting| quarantine_table(waiting, now))
            }
            Node::Refusals => {
                let refusals: Vec<Refusal> = client.get("/v1/refusals").await?;
                out.print(&refusals, |refusals| refusals_table(refusals, now))
            }
            Node::Approve { id, node, words } => {
                if let Some(words) = words {
                    check_words(&client, id, &words).await?;
                }
                let request = json!({ "site": node.site.as_str(), "node": node.node.as_str() });
                let _: Value = client.post(&format!("/v1/quarantine/{id}/approve"), request).await?;
                done(
                    out,
                    json!({ "approved": id, "site": node.site.as_str(), "node": node.node.as_str() }),
                    || {
                        format!(
                            "approved: the key enrols as node {} of site {} when it asks again",
                            node.node, node.site
                        )
                    },
                )
            }
            Node::Refuse { id } => {
                let _: Value = client.post(&format!("/v1/quarantine/{id}/refuse"), json!({})).await?;
                done(out, json!({ "refused": id }), || format!("refused: key {id}"))
            }
            Node::Release { node } => {
                let answer: Value = client.post(&path(&node, "/release"), json!({})).await?;
                done(out, answer, || {
                    format!("released: another machine may enrol as node {} of site {}", node.node, node.site)
                })
            }
            Node::Reinstall { node, yes } => {
                if !yes {
                    return Err(Error::Usage(format!(
                        "this wipes the system disk of node {} of site {} at its next boot or assignment; say --yes",
                        node.node, node.site
                    )));
                }
                let answer: Value = client.post(&path(&node, "/reinstall"), json!({})).await?;
                done(out, answer, || {
                    format!(
                        "ordered: node {} of site {} wipes itself and installs again",
                        node.node, node.site
                    )
                })
            }
        }
    })
}

fn path(node: &NodeAt, rest: &str) -> String {
    format!("/v1/nodes/{}/{}{rest}", node.site, node.node)
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(value).map_err(|e| {
        Error::Failed(format!("the controller's answer is not understood ({e}); update cairnctl"))
    })
}

fn done(out: &Output, value: Value, text: impl FnOnce() -> String) -> Result<(), Error> {
    out.print(&value, |_| text())
}

async fn check_words(client: &Client, id: u64, words: &str) -> Result<(), Error> {
    let waiting: Vec<Waiting> = client.get("/v1/quarantine").await?;
    let found = waiting.iter().find(|key| key.id == id);
    let found = found.ok_or_else(|| Error::Refused {
        status: 404,
        code: "unknown-quarantine".to_owned(),
        detail: format!("no key {id} waits in quarantine"),
    })?;
    if found.words != words.trim() {
        return Err(Error::Failed(format!(
            "key {id} has the words {}, not {}: it is not the machine that shows them; nothing was approved",
            found.words,
            words.trim()
        )));
    }
    Ok(())
}

/// Nodes as a table.
pub(crate) fn nodes_table(nodes: &[NodeView], now: u64) -> String {
    let rows: Vec<_> = nodes.iter().map(|node| node_row(node, now)).collect();
    table(&["SITE", "NODE", "STATE", "STAGE", "GENERATION", "HEARTBEATS", "SEEN", "WAITS FOR"], &rows)
}

/// One node as a table's row.
pub(crate) fn node_row(node: &NodeView, now: u64) -> Vec<String> {
    let state = match (node.lost, node.state.as_deref(), node.enrolled) {
        (Some(true), ..) => "lost",
        (_, Some(state), _) => state,
        (_, None, Some(_)) => "enrolled",
        _ => "expected",
    };
    let waiting = node.waiting.as_ref().map(|waiting| waiting.reason.as_str());
    vec![
        node.site.clone(),
        node.node.clone(),
        state.to_owned(),
        or_dash(node.stage.as_deref()),
        or_dash(node.generation.as_deref()),
        node.heartbeats.to_string(),
        ago(now, node.last_seen),
        or_dash(waiting),
    ]
}

fn node_text(node: &NodeView, detail: &Value, now: u64) -> String {
    let mut text = nodes_table(std::slice::from_ref(node), now);
    let mut say = |label: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{:<20} {}\n", label, cairn_protocol::limits::clean_text(&value)));
        }
    };
    say("serial", node.serial.clone().unwrap_or_default());
    if let Some(waiting) = &node.waiting {
        say("what to do", waiting.advice.clone());
    }
    if let Some(failed) = &node.failed {
        say("failed generation", format!("{}: {}", failed.id, failed.reason));
    }
    say("assigned generation", node.assigned_generation.clone().unwrap_or_default());
    say("uptime", node.uptime_seconds.map(|seconds| ago(seconds, Some(0))).unwrap_or_default());
    say("agent memory", node.agent_rss_bytes.map(bytes).unwrap_or_default());
    let inventory = &detail["inventory"];
    let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    say(
        "machine",
        format!("{} {}", field(&inventory["machine"]["vendor"]), field(&inventory["machine"]["product"]))
            .trim()
            .to_owned(),
    );
    say("firmware", field(&inventory["firmware"]["kind"]));
    for nic in inventory["nics"].as_array().into_iter().flatten() {
        let link = if nic["link"].as_bool() == Some(true) { "up" } else { "down" };
        say(
            "nic",
            format!("{} {} {} {link}", field(&nic["name"]), field(&nic["mac"]), field(&nic["driver"])),
        );
    }
    for disk in inventory["disks"].as_array().into_iter().flatten() {
        let size = bytes(disk["size_bytes"].as_u64().unwrap_or(0));
        let kind = field(&disk["content"]["kind"]);
        say(
            "disk",
            format!(
                "{} {} {size} {} ({kind})",
                field(&disk["name"]),
                field(&disk["transport"]),
                field(&disk["model"])
            ),
        );
    }
    for check in detail["status"]["health"].as_array().into_iter().flatten() {
        let passed = if check["passed"].as_bool() == Some(true) { "passed" } else { "FAILED" };
        say("health", format!("{} {passed}: {}", field(&check["name"]), field(&check["line"])));
    }
    say("cluster", field(&detail["cluster"]["line"]));
    let steps: Vec<BootstrapStep> =
        serde_json::from_value(detail["status"]["bootstrap"].clone()).unwrap_or_default();
    for step in steps {
        text.push_str(&step_text(&step));
    }
    let events: Vec<Event> = serde_json::from_value(detail["events"].clone()).unwrap_or_default();
    if !events.is_empty() {
        text.push('\n');
        text.push_str(&events_table(&events, now));
    }
    text
}

/// A step of the cluster's bootstrap; what an open one waits for and what its programs said last stand below it.
fn step_text(step: &BootstrapStep) -> String {
    let state = match step.state {
        StepState::Pending => "pending",
        StepState::Running => "running",
        StepState::Waiting => "waiting",
        StepState::Done => "done",
    };
    let clean = cairn_protocol::limits::clean_text;
    let mut text = format!("{:<20} {:<18} {state:<8} {:>6.1} s", "step", step.name.as_str(), step.seconds);
    if step.tries > 0 {
        text.push_str(&format!(", tries {}", step.tries));
    }
    text.push('\n');
    if let Some(waiting) = &step.waiting {
        text.push_str(&format!("{:<20}   {}\n", "", clean(&waiting.reason)));
        text.push_str(&format!("{:<20}   do: {}\n", "", clean(&waiting.advice)));
    }
    if step.state != StepState::Done {
        for line in &step.log {
            text.push_str(&format!("{:<20}   | {}\n", "", clean(line)));
        }
    }
    text
}

fn events_table(events: &[Event], now: u64) -> String {
    let row = |event: &Event| {
        let severity = match event.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let when = Some(event.unix_seconds).filter(|seconds| *seconds > 0);
        vec![
            ago(now, when),
            event.stage.to_string(),
            severity.to_owned(),
            event.code.clone(),
            event.line.clone(),
        ]
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    table(&["AGO", "STAGE", "SEVERITY", "CODE", "EVENT"], &rows)
}

fn quarantine_table(waiting: &[Waiting], now: u64) -> String {
    let row = |key: &Waiting| {
        vec![
            key.id.to_string(),
            key.site.clone(),
            key.words.clone(),
            or_dash(Some(&key.serial)),
            key.address.clone(),
            key.state.clone(),
            ago(now, Some(key.last_seen)),
        ]
    };
    let rows: Vec<_> = waiting.iter().map(row).collect();
    table(&["ID", "SITE", "WORDS", "SERIAL", "ADDRESS", "STATE", "SEEN"], &rows)
}

fn refusals_table(refusals: &[Refusal], now: u64) -> String {
    let row = |refusal: &Refusal| {
        vec![
            refusal.code.clone(),
            or_dash(Some(&refusal.serial)),
            refusal.address.clone(),
            refusal.count.to_string(),
            ago(now, Some(refusal.last_seen)),
            refusal.detail.clone(),
        ]
    };
    let rows: Vec<_> = refusals.iter().map(row).collect();
    table(&["CODE", "SERIAL", "ADDRESS", "COUNT", "SEEN", "WHY"], &rows)
}
