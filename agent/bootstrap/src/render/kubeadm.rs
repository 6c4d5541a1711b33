//! kubeadm's configuration, `kubeadm.k8s.io/v1beta4`
//! (<https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/>), as JSON documents of a YAML stream.

use serde::Serialize;

use super::kubelet;
use crate::material::{CaHash, Token};
use crate::settings::{API_PORT, Settings};

const API_VERSION: &str = "kubeadm.k8s.io/v1beta4";
/// containerd's socket.
pub const CRI_SOCKET: &str = "unix:///run/containerd/containerd.sock";
/// Where volume plugins of the flex kind would go: `/usr` is read-only.
pub const VOLUME_PLUGINS: &str = "/var/lib/kubelet/volumeplugins";
/// The taint of control planes that take no pods of others.
pub const CONTROL_PLANE_TAINT: &str = "node-role.kubernetes.io/control-plane";
/// kubeadm's own checks that do not fit: memory and processors are judged by the `prepare` step, and the kernel's
/// configuration cannot be read in a container.
const IGNORED: [&str; 4] = ["Mem", "NumCPU", "Swap", "SystemVerification"];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InitConfiguration {
    api_version: &'static str,
    kind: &'static str,
    bootstrap_tokens: Vec<BootstrapToken>,
    #[serde(rename = "localAPIEndpoint")]
    local_api_endpoint: LocalEndpoint,
    node_registration: NodeRegistration,
    timeouts: KubeadmTimeouts,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BootstrapToken {
    token: String,
    ttl: String,
    description: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LocalEndpoint {
    advertise_address: String,
    bind_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRegistration {
    name: String,
    cri_socket: &'static str,
    image_pull_policy: &'static str,
    image_pull_serial: bool,
    ignore_preflight_errors: [&'static str; 4],
    taints: Vec<Taint>,
    kubelet_extra_args: Vec<Arg>,
}

#[derive(Serialize)]
struct Taint {
    key: &'static str,
    effect: &'static str,
}

#[derive(Serialize)]
struct Arg {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KubeadmTimeouts {
    control_plane_component_health_check: String,
    kubelet_health_check: String,
    #[serde(rename = "kubernetesAPICall")]
    kubernetes_api_call: String,
    #[serde(rename = "etcdAPICall")]
    etcd_api_call: String,
    tls_bootstrap: String,
    discovery: String,
    upgrade_manifests: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterConfiguration {
    api_version: &'static str,
    kind: &'static str,
    kubernetes_version: String,
    cluster_name: &'static str,
    control_plane_endpoint: String,
    encryption_algorithm: &'static str,
    networking: Networking,
    etcd: Etcd,
    api_server: Component,
    controller_manager: Component,
    scheduler: Component,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Networking {
    pod_subnet: String,
    service_subnet: String,
    dns_domain: &'static str,
}

#[derive(Serialize)]
struct Etcd {
    local: LocalEtcd,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LocalEtcd {
    data_dir: &'static str,
    extra_args: Vec<Arg>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Component {
    #[serde(rename = "certSANs", skip_serializing_if = "Vec::is_empty")]
    cert_sans: Vec<String>,
    extra_args: Vec<Arg>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JoinConfiguration {
    api_version: &'static str,
    kind: &'static str,
    discovery: Discovery,
    node_registration: NodeRegistration,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<JoinControlPlane>,
    timeouts: KubeadmTimeouts,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Discovery {
    bootstrap_token: BootstrapDiscovery,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BootstrapDiscovery {
    token: String,
    api_server_endpoint: String,
    ca_cert_hashes: [String; 1],
}

#[derive(Serialize)]
struct JoinControlPlane {
    #[serde(rename = "localAPIEndpoint")]
    local_api_endpoint: LocalEndpoint,
}

fn seconds(seconds: u32) -> String {
    format!("{seconds}s")
}

fn arg(name: &'static str, value: impl Into<String>) -> Arg {
    Arg { name, value: value.into() }
}

fn timeouts(settings: &Settings) -> KubeadmTimeouts {
    let profile = &settings.profile;
    let patience = || seconds(profile.patience);
    KubeadmTimeouts {
        control_plane_component_health_check: seconds(profile.control_plane),
        kubelet_health_check: patience(),
        kubernetes_api_call: patience(),
        etcd_api_call: patience(),
        tls_bootstrap: patience(),
        discovery: patience(),
        upgrade_manifests: seconds(profile.control_plane),
    }
}

fn registration(settings: &Settings) -> NodeRegistration {
    let tainted = settings.place.is_control_plane() && !settings.place.takes_pods;
    let taint = Taint { key: CONTROL_PLANE_TAINT, effect: "NoSchedule" };
    NodeRegistration {
        name: settings.place.node.to_string(),
        cri_socket: CRI_SOCKET,
        image_pull_policy: "Never",
        image_pull_serial: true,
        ignore_preflight_errors: IGNORED,
        taints: tainted.then_some(taint).into_iter().collect(),
        kubelet_extra_args: vec![arg("node-ip", settings.address.to_string())],
    }
}

fn local_endpoint(settings: &Settings) -> LocalEndpoint {
    LocalEndpoint { advertise_address: settings.address.to_string(), bind_port: API_PORT }
}

fn leases(settings: &Settings) -> Vec<Arg> {
    let profile = &settings.profile;
    vec![
        arg("leader-elect-lease-duration", seconds(profile.lease)),
        arg("leader-elect-renew-deadline", seconds(profile.lease_renew)),
        arg("leader-elect-retry-period", seconds(profile.lease_retry)),
    ]
}

fn cluster(settings: &Settings) -> ClusterConfiguration {
    let (place, profile) = (&settings.place, &settings.profile);
    let mut controller_manager = leases(settings);
    controller_manager.push(arg("flex-volume-plugin-dir", VOLUME_PLUGINS));
    let etcd = vec![
        arg("heartbeat-interval", profile.etcd_heartbeat.to_string()),
        arg("election-timeout", profile.etcd_election.to_string()),
    ];
    ClusterConfiguration {
        api_version: API_VERSION,
        kind: "ClusterConfiguration",
        kubernetes_version: settings.inventory.version.clone(),
        cluster_name: "cairn",
        control_plane_endpoint: settings.api(),
        // Made in milliseconds where RSA takes seconds of an emulated processor.
        encryption_algorithm: "ECDSA-P256",
        networking: Networking {
            pod_subnet: place.pod_network.to_string(),
            service_subnet: place.service_network.to_string(),
            dns_domain: "cluster.local",
        },
        etcd: Etcd { local: LocalEtcd { data_dir: "/var/lib/etcd", extra_args: etcd } },
        api_server: Component {
            cert_sans: vec![place.endpoint.to_string()],
            extra_args: vec![arg("profiling", "false")],
        },
        controller_manager: Component { cert_sans: Vec::new(), extra_args: controller_manager },
        scheduler: Component { cert_sans: Vec::new(), extra_args: leases(settings) },
    }
}

/// JSON documents as one YAML stream.
fn documents(documents: &[serde_json::Result<String>]) -> String {
    let texts: Vec<&str> = documents.iter().filter_map(|document| document.as_deref().ok()).collect();
    format!("{}\n", texts.join("\n---\n"))
}

/// The file that all phases of `kubeadm init` read. `token` is the one that kubeadm makes itself; it is never handed out.
pub fn init(settings: &Settings, token: &Token) -> String {
    let init = InitConfiguration {
        api_version: API_VERSION,
        kind: "InitConfiguration",
        bootstrap_tokens: vec![BootstrapToken {
            token: token.secret_text(),
            ttl: seconds(settings.profile.token),
            description: "cairn: made with the cluster",
        }],
        local_api_endpoint: local_endpoint(settings),
        node_registration: registration(settings),
        timeouts: timeouts(settings),
    };
    documents(&[
        serde_json::to_string_pretty(&init),
        serde_json::to_string_pretty(&cluster(settings)),
        serde_json::to_string_pretty(&kubelet::configuration(settings)),
        serde_json::to_string_pretty(&kubelet::proxy(settings)),
    ])
}

/// The file that all phases of `kubeadm join` read; the kubelet's own settings come from the cluster.
pub fn join(settings: &Settings, token: &Token, ca: &CaHash) -> String {
    let control_plane = settings.place.is_control_plane();
    let join = JoinConfiguration {
        api_version: API_VERSION,
        kind: "JoinConfiguration",
        discovery: Discovery {
            bootstrap_token: BootstrapDiscovery {
                token: token.secret_text(),
                api_server_endpoint: settings.api(),
                ca_cert_hashes: [ca.to_string()],
            },
        },
        node_registration: registration(settings),
        control_plane: control_plane
            .then(|| JoinControlPlane { local_api_endpoint: local_endpoint(settings) }),
        timeouts: timeouts(settings),
    };
    documents(&[serde_json::to_string_pretty(&join)])
}
