//! A site's plan: the declared state of its nodes, YAML for people, JSON on the wire.

mod kubernetes;
mod line;
mod size;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use kubernetes::{Kubernetes, NodeKubernetes, StepRefused, version_step};
pub use size::Size;

use crate::ids::Name;
use crate::limits;
use crate::netplan::{Netplan, NetplanError};

/// A site's plan. Keys at the top are defaults for all its nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The format: 1.
    pub version: u32,
    /// The site.
    pub site: Name,
    /// Bundles of every node, by kind and name: `os/base: 1.0.0`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bundles: BTreeMap<String, String>,
    /// Network of every node that has none of its own; without one, DHCP on every link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Netplan>,
    /// Disks of every node that has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Disks>,
    /// Heartbeats.
    #[serde(default)]
    pub heartbeat: HeartbeatPlan,
    /// Health checks.
    #[serde(default)]
    pub health: HealthPlan,
    /// Machine speed.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The site's Kubernetes cluster; nodes with a role are its members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// The nodes by name.
    pub nodes: BTreeMap<Name, Node>,
}

/// A node of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The chassis serial that enrols as this node by itself; without one the node needs a token and an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What the node does at its site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Bundles added to, or in place of, the site's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bundles: BTreeMap<String, String>,
    /// Network in place of the site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Netplan>,
    /// Disks in place of the site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Disks>,
}

/// What a node does; grows with the bundles that give it work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs etcd, the API server and the controllers of the site's cluster.
    ControlPlane,
    /// Runs pods.
    Worker,
}

/// Disks by what they are for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disks {
    /// The disk with ESP, STATE and DATA.
    pub system: SystemDisk,
}

/// The system disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SystemDisk {
    /// Which disk; two that match are an error.
    #[serde(rename = "match")]
    pub selector: Selector,
    /// Whether foreign data on it may be overwritten. Default no.
    pub wipe: bool,
    /// Size of the STATE partition. Default 4GiB, 256MiB to 64GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_size: Option<Size>,
    /// Size of the ESP. Default 2GiB, 256MiB to 16GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub esp_size: Option<Size>,
}

/// Properties of one disk; all that are given must hold. Texts may carry `*` and `?`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Selector {
    /// At least this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Size>,
    /// At most this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
    /// `virtio`, `nvme`, `sata`, `sas`, `usb`, `scsi`, `mmc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World-wide name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Bus path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct HeartbeatPlan {
    /// Seconds between two. Default 30, 1 to 3600.
    pub interval_seconds: u32,
    /// Jitter in percent. Default 10, 0 to 50.
    pub jitter_percent: u8,
}

impl Default for HeartbeatPlan {
    fn default() -> Self {
        Self { interval_seconds: 30, jitter_percent: 10 }
    }
}

/// Health checks of a new generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct HealthPlan {
    /// Seconds from the agent's start as a service within which a new generation's checks must pass.
    /// Default 600, 30 to 7200.
    pub timeout_seconds: u32,
}

impl Default for HealthPlan {
    fn default() -> Self {
        Self { timeout_seconds: 600 }
    }
}

/// The speed of machines, one profile for all time limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timeouts {
    /// Measured at boot.
    #[default]
    Auto,
    /// Real hardware.
    Fast,
    /// Software emulation.
    Slow,
}

/// One node's part of a plan, all defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlan {
    /// What the node does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Network; `None` is DHCP on every link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Netplan>,
    /// Disks; `None` leaves all disks alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Disks>,
    /// Heartbeats.
    pub heartbeat: HeartbeatPlan,
    /// Health checks.
    pub health: HealthPlan,
    /// Machine speed.
    pub timeouts: Timeouts,
    /// The node's place in the site's cluster; `None` for a node without a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<NodeKubernetes>,
}

/// Why a plan was refused. The text names the line wherever the document has one.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] limits::TooLong),
    /// Not a plan: bad YAML, an unknown key, a missing one, a wrong type.
    #[error("{0}")]
    Malformed(String),
    /// A rule that spans several keys.
    #[error("{}{at}: {why}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
    Rule {
        /// The line of the key, counted from 1, where the text was at hand.
        line: Option<usize>,
        /// The key path, such as `nodes.n1.disks.system`.
        at: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

fn rule(at: impl Into<String>, why: impl Into<String>) -> PlanError {
    PlanError::Rule { line: None, at: at.into(), why: why.into() }
}

impl Plan {
    /// Reads and checks a plan's YAML.
    ///
    /// # Errors
    /// [`PlanError`], with line and column for unknown keys and wrong types.
    pub fn parse(yaml: &str) -> Result<Self, PlanError> {
        limits::check("the plan", yaml.as_bytes(), limits::PLAN_BYTES)?;
        let plan: Self = crate::yaml::read(yaml).map_err(PlanError::Malformed)?;
        match plan.check() {
            Ok(()) => Ok(plan),
            Err(PlanError::Rule { at, why, .. }) => {
                Err(PlanError::Rule { line: line::of_key(yaml, &at), at, why })
            }
            Err(other) => Err(other),
        }
    }

    /// Checks the rules that types cannot say.
    ///
    /// # Errors
    /// [`PlanError::Rule`] for the first one that does not hold.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.version != 1 {
            return Err(rule(
                "version",
                format!("{} is not known; this program reads version 1", self.version),
            ));
        }
        if self.nodes.is_empty() {
            return Err(rule("nodes", "a plan names at least one node"));
        }
        if !(1..=3600).contains(&self.heartbeat.interval_seconds) {
            return Err(rule("heartbeat.interval-seconds", "takes 1 to 3600"));
        }
        if self.heartbeat.jitter_percent > 50 {
            return Err(rule("heartbeat.jitter-percent", "takes 0 to 50"));
        }
        if !(30..=7200).contains(&self.health.timeout_seconds) {
            return Err(rule("health.timeout-seconds", "takes 30 to 7200"));
        }
        check_bundles("bundles", &self.bundles)?;
        check_disks("disks", self.disks.as_ref())?;
        check_network("network", self.network.as_ref())?;
        let mut serials = BTreeMap::new();
        for (name, node) in &self.nodes {
            let at = format!("nodes.{name}");
            check_bundles(&format!("{at}.bundles"), &node.bundles)?;
            check_disks(&format!("{at}.disks"), node.disks.as_ref())?;
            check_network(&format!("{at}.network"), node.network.as_ref())?;
            if let Some(serial) = &node.serial {
                if serial.trim().is_empty() || serial.len() > 128 {
                    return Err(rule(format!("{at}.serial"), "takes 1 to 128 characters"));
                }
                if let Some(other) = serials.insert(serial, name) {
                    return Err(rule(format!("{at}.serial"), format!("node {other} has {serial:?} already")));
                }
            }
            if !self.bundles_of(node).is_empty() && node.disks.is_none() && self.disks.is_none() {
                return Err(rule(at, "has bundles and no disks.system to install them on"));
            }
        }
        kubernetes::check(self)
    }

    /// The bundles of `node`: the site's, with the node's own added or in their place.
    pub fn bundles_of<'a>(&'a self, node: &'a Node) -> BTreeMap<&'a str, &'a str> {
        let own = node.bundles.iter();
        self.bundles.iter().chain(own).map(|(kind, version)| (kind.as_str(), version.as_str())).collect()
    }

    /// The part of `node`, whose name is `name`.
    pub fn node_plan(&self, name: &Name, node: &Node) -> NodePlan {
        NodePlan {
            roles: node.roles.clone(),
            network: node.network.clone().or_else(|| self.network.clone()),
            disks: node.disks.clone().or_else(|| self.disks.clone()),
            heartbeat: self.heartbeat.clone(),
            health: self.health.clone(),
            timeouts: self.timeouts,
            kubernetes: kubernetes::of_node(self, name, node),
        }
    }

    /// The node whose serial is `serial`.
    pub fn node_by_serial(&self, serial: &str) -> Option<(&Name, &Node)> {
        self.nodes.iter().find(|(_, node)| node.serial.as_deref() == Some(serial))
    }
}

/// The TUF target of a bundle's manifest: `os/base` at `1.0.0` is `os/base/1.0.0/manifest.json`.
pub fn manifest_target(bundle: &str, version: &str) -> String {
    format!("{bundle}/{version}/manifest.json")
}

fn check_bundles(at: &str, bundles: &BTreeMap<String, String>) -> Result<(), PlanError> {
    for (bundle, version) in bundles {
        let at = format!("{at}.{bundle}");
        let Some((kind, name)) = bundle.split_once('/') else {
            return Err(rule(at, "is written kind/name, such as os/base"));
        };
        if !["os", "kubernetes", "openstack", "images"].contains(&kind) || Name::new(name).is_err() {
            return Err(rule(
                at,
                "the kind is os, kubernetes, openstack or images, the name of a-z, 0-9 and -",
            ));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-+~".contains(&b);
        if version.is_empty() || version.len() > 64 || !version.bytes().all(plain) || version.starts_with('.')
        {
            return Err(rule(at, "a version has 1 to 64 of letters, digits and . - + ~"));
        }
    }
    if bundles.keys().filter(|bundle| bundle.starts_with("os/")).count() > 1 {
        return Err(rule(at, "a node runs one os bundle, not two"));
    }
    Ok(())
}

fn check_network(at: &str, network: Option<&Netplan>) -> Result<(), PlanError> {
    match network.map(Netplan::check) {
        Some(Err(NetplanError::Rule { at: below, why })) => Err(rule(format!("{at}.{below}"), why)),
        Some(Err(error)) => Err(rule(at, error.to_string())),
        Some(Ok(())) | None => Ok(()),
    }
}

fn check_disks(at: &str, disks: Option<&Disks>) -> Result<(), PlanError> {
    let Some(Disks { system }) = disks else { return Ok(()) };
    let sizes = [
        ("state-size", system.state_size, 256 << 20, 64 << 30),
        ("esp-size", system.esp_size, 256 << 20, 16_u64 << 30),
    ];
    for (key, size, min, max) in sizes {
        if size.is_some_and(|size| !(min..=max).contains(&size.0)) {
            return Err(rule(format!("{at}.system.{key}"), format!("takes {} to {}", Size(min), Size(max))));
        }
    }
    let selector = &system.selector;
    if *selector == Selector::default() {
        return Err(rule(
            format!("{at}.system.match"),
            "names no property; `path: \"*\"` takes any single disk",
        ));
    }
    if let Some(transport) = &selector.transport
        && !["virtio", "nvme", "sata", "sas", "usb", "scsi", "mmc"].contains(&transport.as_str())
    {
        return Err(rule(
            format!("{at}.system.match.transport"),
            "takes virtio, nvme, sata, sas, usb, scsi or mmc",
        ));
    }
    if let (Some(min), Some(max)) = (selector.min_size, selector.max_size)
        && min.0 > max.0
    {
        return Err(rule(format!("{at}.system.match"), format!("min-size {min} is above max-size {max}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
