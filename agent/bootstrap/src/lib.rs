//! Turns a node into a member of its site's Kubernetes cluster, step by step.
//!
//! - A step is probed, acted on where there is need, and probed again ([`engine`], [`steps`]). It may be cut off at any
//!   instant: what is not on the disk as done is done again, from a clean place.
//! - What kubeadm, containerd and the CNI plugins read is computed ([`render`]) from plain [`settings`]; one
//!   [`profile`] has all time limits.
//! - What nodes hand to each other is read within limits ([`material`]) and travels over mTLS with their own certificates
//!   ([`edge`]). Keys of the cluster are made on the first control plane and never leave the site.
//! - [`driver`] is the whole of it for the agent: it runs as one task and publishes how far it is.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod csr;
pub mod driver;
pub mod edge;
pub mod election;
pub mod engine;
pub mod etcd;
mod host;
pub mod images;
pub mod material;
pub mod profile;
pub mod record;
pub mod render;
pub mod settings;
pub mod steps;

/// Everything that reads foreign bytes, for the fuzzer: lists of images, join material, requests, etcd's members.
pub fn fuzz(data: &[u8]) {
    let _ = images::parse_inventory(data);
    let _ = images::parse_more(data);
    let _ = material::parse_worker(data);
    let _ = material::parse_control_plane(data);
    let _ = material::parse_peers(data, cairn_protocol::netplan::Cidr::DEFAULT_V4);
    let _ = record::Record::parse(data);
    let _ = etcd::parse_members(data);
    csr::fuzz(data);
    let _ = edge::serve::path(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = images::parse_listing(text);
        let _ = render::kubelet::resolv_conf(text);
    }
}
