use cairn_protocol::ids::{Name, Sha256Digest};
use cairn_protocol::plan::{NodeKubernetes, Timeouts};

use super::{cni, containerd, kubeadm, kubelet};
use crate::images::Inventory;
use crate::material::{CaHash, Token};
use crate::profile::Profile;
use crate::settings::Settings;

fn settings(node: &str, control_planes: &[&str], speed: Timeouts, container: bool) -> Settings {
    let name = |text: &str| Name::new(text).unwrap();
    Settings {
        place: NodeKubernetes {
            node: name(node),
            endpoint: "10.77.0.100".parse().unwrap(),
            pod_network: "10.244.0.0/16".parse().unwrap(),
            service_network: "10.96.0.0/16".parse().unwrap(),
            control_planes: control_planes.iter().map(|text| name(text)).collect(),
            takes_pods: !control_planes.contains(&node),
        },
        address: "10.77.0.11".parse().unwrap(),
        inventory: Inventory {
            version: "v1.36.3".to_owned(),
            pause: "registry.k8s.io/pause:3.10.2".to_owned(),
            coredns: "v1.14.2".to_owned(),
            etcd: "3.6.8-0".to_owned(),
            images: Vec::new(),
        },
        container,
        profile: Profile::of(speed),
    }
}

fn token() -> Token {
    "abcdef.0123456789abcdef".parse().unwrap()
}

#[test]
fn files_are_the_golden_ones() {
    let first = settings("cp1", &["cp1"], Timeouts::Slow, false);
    let held = settings("cp1", &["cp1"], Timeouts::Fast, true);
    let second = settings("cp2", &["cp1", "cp2", "cp3"], Timeouts::Fast, true);
    let worker = settings("w1", &["cp1"], Timeouts::Slow, false);
    let ca = CaHash(Sha256Digest::of(b"ca"));
    let pods = "10.244.3.0/24".parse().unwrap();
    let cases = [
        ("init-vm.yaml", kubeadm::init(&first, &token()), include_str!("golden/init-vm.yaml")),
        ("init-container.yaml", kubeadm::init(&held, &token()), include_str!("golden/init-container.yaml")),
        (
            "join-control-plane.yaml",
            kubeadm::join(&second, &token(), &ca),
            include_str!("golden/join-control-plane.yaml"),
        ),
        ("join-worker.yaml", kubeadm::join(&worker, &token(), &ca), include_str!("golden/join-worker.yaml")),
        ("containerd-vm.toml", containerd::config(&first), include_str!("golden/containerd-vm.toml")),
        (
            "containerd-container.toml",
            containerd::config(&held),
            include_str!("golden/containerd-container.toml"),
        ),
        ("10-cairn.conflist", cni::conflist(pods), include_str!("golden/10-cairn.conflist")),
        (
            "masquerade.nft",
            cni::masquerade(pods, first.place.pod_network, first.address),
            include_str!("golden/masquerade.nft"),
        ),
    ];
    for (name, rendered, golden) in cases {
        assert_eq!(rendered, golden, "{name}");
    }
}

#[test]
fn no_resolver_of_the_loopback_reaches_the_pods() {
    for (text, expect) in [
        (
            "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch edge.example\n",
            "nameserver 10.0.0.1\nsearch edge.example\n",
        ),
        ("nameserver ::1\nnameserver fd00::1\n", "nameserver fd00::1\n"),
        ("# nothing\noptions edns0\n", "nameserver 192.0.2.1\n"),
        ("nameserver x; rm\n", "nameserver 192.0.2.1\n"),
    ] {
        assert_eq!(kubelet::resolv_conf(text), expect, "{text}");
    }
}
