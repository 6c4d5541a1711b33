use super::*;

const GOOD: &str = r#"version: 1
site: lab-1
bundles: { os/base: 1.0.0, kubernetes/kubernetes: 1.36.3 }
disks:
  system:
    match: { path: "*" }
kubernetes:
  endpoint: 10.77.0.100
nodes:
  cp1: { serial: LAB-1, roles: [control-plane] }
  w1:
    roles: [worker]
    network:
      version: 2
      ethernets:
        lan: { match: { name: "*" }, addresses: [10.77.0.12/24] }
  spare: { serial: LAB-3 }
"#;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[test]
fn each_node_knows_its_place() {
    let plan = Plan::parse(GOOD).unwrap();
    let of = |text: &str| plan.node_plan(&name(text), &plan.nodes[&name(text)]).kubernetes;
    let first = of("cp1").unwrap();
    assert!(first.is_first() && first.is_control_plane() && !first.takes_pods);
    assert_eq!((first.pod_network, first.service_network), (pod_network(), service_network()));
    let worker = of("w1").unwrap();
    assert!(!worker.is_first() && !worker.is_control_plane() && worker.takes_pods);
    assert_eq!(worker.control_planes, [name("cp1")]);
    assert_eq!(of("spare"), None);
}

#[test]
fn a_site_without_workers_runs_pods_on_its_control_planes() {
    let alone = GOOD.replace("[worker]", "[]");
    let plan = Plan::parse(&alone).unwrap();
    assert!(plan.node_plan(&name("cp1"), &plan.nodes[&name("cp1")]).kubernetes.unwrap().takes_pods);
}

#[test]
fn each_refusal_names_its_key_and_line() {
    let cases = [
        ("[control-plane]", "[worker]", "line 7: kubernetes: no node has the role control-plane"),
        ("[worker]", "[control-plane]", "line 7: kubernetes: 2 control planes bear the loss"),
        ("[worker]", "[worker, worker]", "line 12: nodes.w1.roles: names a role twice"),
        ("kubernetes:\n  endpoint: 10.77.0.100\n", "", "line 8: nodes.cp1.roles: takes part in a cluster"),
        (
            ", kubernetes/kubernetes: 1.36.3",
            "",
            "line 10: nodes.cp1.roles: has a role and no kubernetes bundle",
        ),
        (
            "0.100\n",
            "0.100\n  pod-network: 10.96.128.0/17\n",
            "line 9: kubernetes.pod-network: 10.96.128.0/17 overlaps service-network",
        ),
        (
            "0.100\n",
            "0.100\n  pod-network: 10.0.0.0/9\n  service-network: 172.30.0.0/16\n",
            "line 8: kubernetes.endpoint: 10.77.0.100 lies in pod-network",
        ),
        (
            "0.100\n",
            "0.101\n  service-network: 10.77.0.0/26\n",
            "line 9: kubernetes.service-network: takes an IPv4 network of /12 to /24",
        ),
        (
            "10.77.0.100\n",
            "10.78.0.1\n  service-network: 10.77.0.0/24\n",
            "line 9: kubernetes.service-network: 10.77.0.0/24 overlaps 10.77.0.0/24 of node w1",
        ),
        (
            "10.77.0.100",
            "10.77.0.12",
            "line 8: kubernetes.endpoint: 10.77.0.12 is the own address of node w1",
        ),
        (
            "0.100\n",
            "0.100\n  pod-network: fd00::/64\n",
            "line 9: kubernetes.pod-network: takes an IPv4 network",
        ),
        (
            "0.100\n",
            "0.100\n  pod-network: 10.244.0.0/24\n",
            "line 9: kubernetes.pod-network: takes an IPv4 network of /8 to /23",
        ),
        (
            "0.100\n",
            "0.100\n  pod-network: 10.244.0.1/16\n",
            "line 9: kubernetes.pod-network: takes an IPv4 network",
        ),
        ("endpoint:", "endpiont:", "line 8"),
        ("[worker]", "[boss]", "line 12"),
    ];
    for (from, to, expect) in cases {
        let error = Plan::parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(expect), "{to:?}: {error}");
    }
}

#[test]
fn an_even_number_is_taken_when_it_is_meant() {
    let even = GOOD
        .replace("[worker]", "[control-plane]")
        .replace("0.100\n", "0.100\n  allow-even-control-planes: true\n");
    assert!(Plan::parse(&even).is_ok());
}

#[test]
fn a_cluster_goes_one_minor_version_at_a_time() {
    for (before, after) in
        [("1.36.1", "1.36.3"), ("v1.36.3", "1.37.0"), ("1.36.3", "1.36.3"), ("1.36.3-1", "1.36.3+cairn2")]
    {
        assert_eq!(version_step(before, after), Ok(()), "{before} {after}");
    }
    for (before, after, expect) in [
        ("1.35.2", "1.37.0", "go through 1.36 first"),
        ("1.36.3", "1.36.1", "does not go back"),
        ("1.36.3", "1.35.9", "does not go back"),
        ("1.36.3", "2.0.0", "at once"),
        ("1.36", "1.36.3", "is not a version"),
        ("1.36.3", "latest", "is not a version"),
    ] {
        let error = version_step(before, after).unwrap_err().to_string();
        assert!(error.contains(expect), "{before} {after}: {error}");
    }
}
