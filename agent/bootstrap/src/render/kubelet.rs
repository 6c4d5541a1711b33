//! KubeletConfiguration and KubeProxyConfiguration
//! (<https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/>).

use std::collections::BTreeMap;

use serde::Serialize;

use super::kubeadm::VOLUME_PLUGINS;
use crate::settings::Settings;

/// The resolver file of pods that use the node's own resolver, CoreDNS above all. Never one that names a resolver of the
/// node's loopback: CoreDNS would ask itself.
pub const RESOLV_CONF: &str = "/var/lib/cairn/kubernetes/resolv.conf";

/// What the kubelet reads, with kubeadm's defaults for the rest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeletConfiguration {
    api_version: &'static str,
    kind: &'static str,
    cgroup_driver: &'static str,
    fail_swap_on: bool,
    #[serde(rename = "serverTLSBootstrap")]
    server_tls_bootstrap: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_cgroup_v1: Option<bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    eviction_hard: BTreeMap<&'static str, &'static str>,
    resolv_conf: &'static str,
    volume_plugin_dir: &'static str,
    runtime_request_timeout: String,
    node_status_update_frequency: String,
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_gc_high_threshold_percent: u8,
}

/// What kube-proxy reads.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeProxyConfiguration {
    api_version: &'static str,
    kind: &'static str,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conntrack: Option<Conntrack>,
}

/// kube-proxy's limits of connection tracking; 0 leaves the kernel's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Conntrack {
    max_per_core: u32,
    min: u32,
}

/// The kubelet's configuration of the whole cluster: kubeadm keeps it in a ConfigMap for those that join.
pub fn configuration(settings: &Settings) -> KubeletConfiguration {
    // A container node sees the host's memory and disks: shares of them say nothing.
    let absolute = [
        ("imagefs.available", "1Gi"),
        ("memory.available", "100Mi"),
        ("nodefs.available", "1Gi"),
        ("nodefs.inodesFree", "1%"),
    ];
    KubeletConfiguration {
        api_version: "kubelet.config.k8s.io/v1beta1",
        kind: "KubeletConfiguration",
        cgroup_driver: "systemd",
        fail_swap_on: false,
        // A certificate of the cluster's CA for the kubelet's own server; a control plane's agent approves it.
        server_tls_bootstrap: true,
        fail_cgroup_v1: settings.container.then_some(false),
        eviction_hard: if settings.container { absolute.into() } else { BTreeMap::new() },
        resolv_conf: RESOLV_CONF,
        volume_plugin_dir: VOLUME_PLUGINS,
        runtime_request_timeout: format!("{}s", settings.profile.runtime),
        node_status_update_frequency: format!("{}s", settings.profile.node_status),
        // There is no registry to fetch an image from again.
        image_gc_high_threshold_percent: 100,
    }
}

/// kube-proxy's configuration of the whole cluster.
pub fn proxy(settings: &Settings) -> KubeProxyConfiguration {
    KubeProxyConfiguration {
        api_version: "kubeproxy.config.k8s.io/v1alpha1",
        kind: "KubeProxyConfiguration",
        mode: "nftables",
        conntrack: settings.container.then_some(Conntrack { max_per_core: 0, min: 0 }),
    }
}

/// [`RESOLV_CONF`] for a node whose own resolver file is `text`: its servers but those on the loopback. A site without a
/// resolver gets one of TEST-NET-1 (RFC 5737) that never answers, for CoreDNS does not start without any.
pub fn resolv_conf(text: &str) -> String {
    let mut servers: Vec<&str> = Vec::new();
    let mut search = "";
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) => {
                let usable = server.parse::<std::net::IpAddr>().is_ok_and(|ip| !ip.is_loopback());
                if usable && servers.len() < 3 {
                    servers.push(server);
                }
            }
            (Some("search"), Some(_)) => search = line.trim(),
            _ => {}
        }
    }
    if servers.is_empty() {
        servers.push("192.0.2.1");
    }
    let mut out: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !search.is_empty() {
        out.push_str(&format!("{search}\n"));
    }
    out
}
