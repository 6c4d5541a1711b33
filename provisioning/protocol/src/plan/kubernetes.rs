//! The `kubernetes` section: one cluster for a site, and each node's place in it.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{Name, Node, Plan, PlanError, Role, rule};
use crate::netplan::Cidr;

/// Pods of one node share a network of this prefix length: the controller manager's default for IPv4.
const NODE_PREFIX: u8 = 24;
/// A control plane of more than this many members answers slower, not safer (etcd's own advice).
const MOST_CONTROL_PLANES: usize = 7;

/// A site's cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kubernetes {
    /// The address of the API server, held by one control plane at a time; a free one in the network of the nodes.
    pub endpoint: Ipv4Addr,
    /// Addresses of pods; each node takes a /24 of it. Default 10.244.0.0/16, /8 to /23.
    #[serde(default = "pod_network")]
    pub pod_network: Cidr,
    /// Addresses of services. Default 10.96.0.0/16, /12 to /24.
    #[serde(default = "service_network")]
    pub service_network: Cidr,
    /// Whether an even number of control planes is taken, which bears the loss of no more than one less. Default no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_even_control_planes: bool,
}

/// One node's place in its site's cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeKubernetes {
    /// The node's own name.
    pub node: Name,
    /// See [`Kubernetes::endpoint`].
    pub endpoint: Ipv4Addr,
    /// See [`Kubernetes::pod_network`].
    pub pod_network: Cidr,
    /// See [`Kubernetes::service_network`].
    pub service_network: Cidr,
    /// Names of the control planes, sorted; the first one begins the cluster.
    pub control_planes: Vec<Name>,
    /// Whether pods without a toleration are scheduled here: a worker, or a control plane of a site without workers.
    pub takes_pods: bool,
}

impl NodeKubernetes {
    /// Whether this node is a control plane.
    pub fn is_control_plane(&self) -> bool {
        self.control_planes.contains(&self.node)
    }

    /// Whether this node begins the cluster where there is none yet.
    pub fn is_first(&self) -> bool {
        self.control_planes.first() == Some(&self.node)
    }
}

fn pod_network() -> Cidr {
    v4([10, 244, 0, 0], 16)
}

fn service_network() -> Cidr {
    v4([10, 96, 0, 0], 16)
}

fn v4(address: [u8; 4], prefix: u8) -> Cidr {
    Cidr::new(IpAddr::from(address), prefix).unwrap_or(Cidr::DEFAULT_V4)
}

/// The place of the node `name` in the cluster of `plan`.
pub(super) fn of_node(plan: &Plan, name: &Name, node: &Node) -> Option<NodeKubernetes> {
    let cluster = plan.kubernetes.as_ref()?;
    if node.roles.is_empty() {
        return None;
    }
    let with = |role: Role| plan.nodes.iter().filter(move |(_, node)| node.roles.contains(&role));
    Some(NodeKubernetes {
        node: name.clone(),
        endpoint: cluster.endpoint,
        pod_network: cluster.pod_network,
        service_network: cluster.service_network,
        control_planes: with(Role::ControlPlane).map(|(name, _)| name.clone()).collect(),
        takes_pods: node.roles.contains(&Role::Worker) || with(Role::Worker).next().is_none(),
    })
}

/// The rules of the section and of the nodes' roles.
pub(super) fn check(plan: &Plan) -> Result<(), PlanError> {
    for (name, node) in &plan.nodes {
        let twice = node.roles.iter().enumerate().any(|(at, role)| node.roles[..at].contains(role));
        if twice {
            return Err(rule(format!("nodes.{name}.roles"), "names a role twice"));
        }
        if !node.roles.is_empty() && plan.kubernetes.is_none() {
            return Err(rule(
                format!("nodes.{name}.roles"),
                "takes part in a cluster and the plan has no kubernetes section: add `kubernetes: { endpoint: … }`",
            ));
        }
    }
    let Some(cluster) = &plan.kubernetes else { return Ok(()) };
    check_counts(plan, cluster)?;
    check_networks(plan, cluster)?;
    for (name, node) in plan.nodes.iter().filter(|(_, node)| !node.roles.is_empty()) {
        if !plan.bundles_of(node).keys().any(|bundle| bundle.starts_with("kubernetes/")) {
            return Err(rule(
                format!("nodes.{name}.roles"),
                "has a role and no kubernetes bundle: add kubernetes/kubernetes to the bundles",
            ));
        }
    }
    Ok(())
}

fn check_counts(plan: &Plan, cluster: &Kubernetes) -> Result<(), PlanError> {
    let control_planes = plan.nodes.values().filter(|node| node.roles.contains(&Role::ControlPlane)).count();
    let why = match control_planes {
        0 => "no node has the role control-plane: give it to one or three".to_owned(),
        count if count > MOST_CONTROL_PLANES => {
            format!(
                "{count} nodes have the role control-plane, {MOST_CONTROL_PLANES} at most: 3 or 5 are enough"
            )
        }
        count if count.is_multiple_of(2) && !cluster.allow_even_control_planes => format!(
            "{count} control planes bear the loss of no more than {} would: use an odd number, or say \
             `allow-even-control-planes: true`",
            count - 1
        ),
        _ => return Ok(()),
    };
    Err(rule("kubernetes", why))
}

fn check_networks(plan: &Plan, cluster: &Kubernetes) -> Result<(), PlanError> {
    let sized = [
        ("pod-network", cluster.pod_network, 8..=NODE_PREFIX - 1),
        ("service-network", cluster.service_network, 12..=24),
    ];
    for (key, network, prefixes) in sized {
        let at = format!("kubernetes.{key}");
        if !network.is_ipv4() || network.network() != network || !prefixes.contains(&network.prefix()) {
            let why = format!("takes an IPv4 network of /{} to /{}", prefixes.start(), prefixes.end());
            return Err(rule(at, why));
        }
        if network.contains(cluster.endpoint.into()) {
            return Err(rule("kubernetes.endpoint", format!("{} lies in {key} {network}", cluster.endpoint)));
        }
    }
    if overlap(cluster.pod_network, cluster.service_network) {
        let why = format!("{} overlaps service-network {}", cluster.pod_network, cluster.service_network);
        return Err(rule("kubernetes.pod-network", why));
    }
    let members = plan.nodes.values().filter(|node| !node.roles.is_empty()).count();
    let room = 1_usize << (NODE_PREFIX - cluster.pod_network.prefix());
    if members > room {
        let why = format!("has room for {room} nodes with a /{NODE_PREFIX} each, the plan has {members}");
        return Err(rule("kubernetes.pod-network", why));
    }
    for (whose, address) in addresses(plan) {
        for (key, network) in
            [("pod-network", cluster.pod_network), ("service-network", cluster.service_network)]
        {
            if overlap(network, address) {
                let why = format!("{network} overlaps {} of {whose}", address.network());
                return Err(rule(format!("kubernetes.{key}"), why));
            }
        }
        if address.address() == IpAddr::V4(cluster.endpoint) {
            let why = format!("{} is the own address of {whose}; take a free one", cluster.endpoint);
            return Err(rule("kubernetes.endpoint", why));
        }
    }
    Ok(())
}

/// All fixed addresses of the plan, with whose they are.
fn addresses(plan: &Plan) -> impl Iterator<Item = (String, Cidr)> {
    let of_site = plan.network.iter().map(|network| ("the site's network".to_owned(), network));
    let of_nodes =
        plan.nodes.iter().filter_map(|(name, node)| Some((format!("node {name}"), node.network.as_ref()?)));
    of_site.chain(of_nodes).flat_map(|(whose, network)| {
        let links: Vec<Cidr> =
            network.links().flat_map(|(_, _, common)| common.addresses.iter().copied()).collect();
        links.into_iter().map(move |cidr| (whose.clone(), cidr))
    })
}

/// Whether two networks share an address.
fn overlap(a: Cidr, b: Cidr) -> bool {
    a.contains(b.network().address()) || b.contains(a.network().address())
}

/// Why a cluster does not go from one version to another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepRefused {
    /// Not `1.36.3`.
    #[error("{0:?} is not a version of Kubernetes: write 1.36.3")]
    Version(String),
    /// Back.
    #[error("kubernetes {before} does not go back to {after}: etcd's data would not be read")]
    Downgrade {
        /// What runs.
        before: String,
        /// What was asked for.
        after: String,
    },
    /// Over a minor version.
    #[error("kubernetes {before} does not go to {after} at once: go through 1.{} first", next)]
    Skip {
        /// What runs.
        before: String,
        /// What was asked for.
        after: String,
        /// The minor version that comes next.
        next: u32,
    },
}

/// Whether a cluster may go from `before` to `after` (`1.36.3`, a `v` before it or not) in one step: no way back, and no
/// minor version left out (<https://kubernetes.io/releases/version-skew-policy/>).
///
/// # Errors
/// [`StepRefused`].
pub fn version_step(before: &str, after: &str) -> Result<(), StepRefused> {
    let (from, to) = (version(before)?, version(after)?);
    let (before, after) = (before.to_owned(), after.to_owned());
    if to < from {
        return Err(StepRefused::Downgrade { before, after });
    }
    if to.0 != from.0 || to.1 > from.1 + 1 {
        return Err(StepRefused::Skip { before, after, next: from.1 + 1 });
    }
    Ok(())
}

/// Major, minor, patch; what follows a `-` or `+` (a build of ours) does not count.
fn version(text: &str) -> Result<(u32, u32, u32), StepRefused> {
    let refused = || StepRefused::Version(crate::limits::clean_text(text));
    let plain = text.strip_prefix('v').unwrap_or(text);
    let plain = plain.split(['-', '+', '~']).next().unwrap_or(plain);
    let mut parts = plain.split('.').map(|part| part.parse::<u32>().ok().filter(|n| *n < 1_000_000));
    match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten(), parts.next()) {
        (Some(major), Some(minor), Some(patch), None) => Ok((major, minor, patch)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests;
