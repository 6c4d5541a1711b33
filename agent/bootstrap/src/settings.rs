//! What the renderers and steps have to know of a node, all of it plain data.

use std::net::Ipv4Addr;

use cairn_protocol::plan::NodeKubernetes;

use crate::images::Inventory;
use crate::profile::Profile;

/// The API server's port. kubeadm's default.
pub const API_PORT: u16 = 6443;
/// Where control planes hand out join material: beside the API server, and no port of Kubernetes' own
/// (<https://kubernetes.io/docs/reference/networking/ports-and-protocols/>).
pub const MATERIAL_PORT: u16 = 7443;

/// A node's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its place, from the plan.
    pub place: NodeKubernetes,
    /// Its own address, in the network of the endpoint.
    pub address: Ipv4Addr,
    /// What the layer brings.
    pub inventory: Inventory,
    /// Whether it runs in a container: the host's kernel is not ours to set up.
    pub container: bool,
    /// Time limits.
    pub profile: Profile,
}

impl Settings {
    /// `10.77.0.100:6443`.
    pub fn api(&self) -> String {
        format!("{}:{API_PORT}", self.place.endpoint)
    }
}
