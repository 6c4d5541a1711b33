//! The steps by which a node becomes a member, in order.

use cairn_protocol::plan::NodeKubernetes;

/// A step: probed, acted on where it has to be, and probed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Directories, kernel settings, resolver file; memory and version judged.
    Prepare,
    /// containerd configured and running.
    Containerd,
    /// The layer's images known to containerd.
    Images,
    /// The endpoint's address, on a site with one control plane.
    Endpoint,
    /// Whether a cluster stands already, and join material where it does.
    Material,
    /// The file that kubeadm reads.
    Config,
    /// The cluster's certificates and keys.
    Certs,
    /// Credentials of the node's own components.
    Kubeconfig,
    /// etcd's manifest; a further control plane joins its etcd in [`Self::EtcdJoin`].
    Etcd,
    /// Manifests of API server, controller manager and scheduler.
    ControlPlane,
    /// The kubelet configured, known to the cluster and running.
    Kubelet,
    /// A further control plane's member of etcd.
    EtcdJoin,
    /// `/readyz` of the node's own API server.
    ApiServer,
    /// kubeadm's and the kubelet's configuration kept in the cluster.
    UploadConfig,
    /// Label and taint of a control plane.
    MarkControlPlane,
    /// What lets other nodes join by a token.
    BootstrapToken,
    /// The kubelet's own renewing certificate.
    KubeletFinalize,
    /// CoreDNS and kube-proxy.
    Addons,
    /// Join material served to the site.
    Serve,
    /// The node's part of the pod network, and routes to the others'.
    PodNetwork,
    /// Roles of all nodes as labels.
    Labels,
    /// Serving certificates of kubelets approved.
    Approve,
    /// The cluster calls the node Ready.
    Ready,
    /// Objects that the bundles bring.
    Workloads,
}

/// How a node comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Begins the cluster.
    Init,
    /// Joins as a control plane.
    JoinControlPlane,
    /// Joins as a worker.
    JoinWorker,
}

impl Way {
    /// The way of a node: the first control plane begins the cluster unless one stands already.
    pub fn of(place: &NodeKubernetes, cluster_stands: bool) -> Self {
        match (place.is_control_plane(), place.is_first() && !cluster_stands) {
            (true, true) => Self::Init,
            (true, false) => Self::JoinControlPlane,
            (false, _) => Self::JoinWorker,
        }
    }

    /// Its steps, in order.
    pub fn steps(self) -> &'static [Step] {
        use Step::{
            Addons, ApiServer, Approve, BootstrapToken, Certs, Config, Containerd, ControlPlane, Endpoint,
            Etcd, EtcdJoin, Images, Kubeconfig, Kubelet, KubeletFinalize, Labels, MarkControlPlane, Material,
            PodNetwork, Prepare, Ready, Serve, UploadConfig, Workloads,
        };
        match self {
            Self::Init => &[
                Prepare,
                Containerd,
                Images,
                Endpoint,
                Config,
                Certs,
                Kubeconfig,
                Etcd,
                ControlPlane,
                Kubelet,
                ApiServer,
                UploadConfig,
                MarkControlPlane,
                BootstrapToken,
                KubeletFinalize,
                Addons,
                Serve,
                PodNetwork,
                Labels,
                Approve,
                Ready,
                Workloads,
            ],
            Self::JoinControlPlane => &[
                Prepare,
                Containerd,
                Images,
                Material,
                Config,
                Certs,
                Kubeconfig,
                ControlPlane,
                Kubelet,
                EtcdJoin,
                ApiServer,
                MarkControlPlane,
                Serve,
                PodNetwork,
                Labels,
                Approve,
                Ready,
                Workloads,
            ],
            Self::JoinWorker => &[Prepare, Containerd, Images, Material, Config, Kubelet, PodNetwork, Ready],
        }
    }
}

impl Step {
    /// Its name in statuses and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Containerd => "containerd",
            Self::Images => "images",
            Self::Endpoint => "endpoint",
            Self::Material => "material",
            Self::Config => "config",
            Self::Certs => "certs",
            Self::Kubeconfig => "kubeconfig",
            Self::Etcd => "etcd",
            Self::ControlPlane => "control-plane",
            Self::Kubelet => "kubelet",
            Self::EtcdJoin => "etcd-join",
            Self::ApiServer => "api-server",
            Self::UploadConfig => "upload-config",
            Self::MarkControlPlane => "mark-control-plane",
            Self::BootstrapToken => "bootstrap-token",
            Self::KubeletFinalize => "kubelet-finalize",
            Self::Addons => "addons",
            Self::Serve => "serve",
            Self::PodNetwork => "pod-network",
            Self::Labels => "labels",
            Self::Approve => "approve",
            Self::Ready => "ready",
            Self::Workloads => "workloads",
        }
    }

    /// Whether it is probed again all the time once everything is done: what others or a fault can take away, seen
    /// cheaply.
    pub fn is_kept(self) -> bool {
        matches!(
            self,
            Self::Containerd
                | Self::Endpoint
                | Self::Kubelet
                | Self::ApiServer
                | Self::Serve
                | Self::PodNetwork
                | Self::Labels
                | Self::Approve
                | Self::Ready
        )
    }

    /// Whether being done is remembered on the disk, with a digest of what it was done with; the others are seen in the
    /// running system.
    pub fn is_recorded(self) -> bool {
        matches!(
            self,
            Self::Images
                | Self::Certs
                | Self::Kubeconfig
                | Self::Etcd
                | Self::ControlPlane
                | Self::Kubelet
                | Self::EtcdJoin
                | Self::UploadConfig
                | Self::MarkControlPlane
                | Self::BootstrapToken
                | Self::KubeletFinalize
                | Self::Addons
                | Self::Workloads
        )
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::Name;
    use cairn_protocol::limits::BOOTSTRAP_STEPS;

    use super::*;

    #[test]
    fn each_way_has_its_steps_once_and_few_enough() {
        for way in [Way::Init, Way::JoinControlPlane, Way::JoinWorker] {
            let mut steps = way.steps().to_vec();
            assert!(steps.len() <= BOOTSTRAP_STEPS);
            steps.sort_unstable();
            steps.dedup();
            assert_eq!(steps.len(), way.steps().len());
            assert!(steps.iter().all(|step| Name::new(step.name()).is_ok()));
        }
    }
}
