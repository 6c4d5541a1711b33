//! A site's cluster on container nodes: it comes up by itself, bears kills and power cuts at any step, and a whole site's
//! reboot without central.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cairn_lab::rack::Rack;
use cairn_lab::scenario;
use serde_json::Value;

/// From power-on to a whole cluster; two busy cores take a third of this.
const CLUSTER: Duration = Duration::from_secs(420);
/// How often is asked.
const ASK: Duration = Duration::from_millis(500);
/// The site of the rack.
const SITE: &str = "kubernetes-native";

/// Waits for `condition`, which answers what it still misses.
fn wait(rack: &mut Rack, what: &str, mut condition: impl FnMut(&mut Rack) -> Result<(), String>) {
    let deadline = Instant::now() + CLUSTER;
    loop {
        let Err(missing) = condition(rack) else { return };
        let place = rack.dirs().root().display().to_string();
        assert!(Instant::now() < deadline, "{what}: {missing}; see {place}");
        std::thread::sleep(ASK);
    }
}

fn kubectl(rack: &mut Rack, words: &[&str]) -> Result<String, String> {
    let mut all = vec!["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "--request-timeout=10s"];
    all.extend(words);
    let node = rack.node("cp1").map_err(|error| error.to_string())?;
    node.execute(&all).map_err(|error| error.to_string())
}

fn json(rack: &mut Rack, words: &[&str]) -> Result<Value, String> {
    let text = kubectl(rack, &[words, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// Whether every node of the rack is Ready in the cluster's own words.
fn all_ready(rack: &mut Rack) -> Result<(), String> {
    let nodes = json(rack, &["get", "nodes"])?;
    for name in ["cp1", "w1"] {
        let node =
            nodes["items"].as_array().into_iter().flatten().find(|node| node["metadata"]["name"] == name);
        let conditions = node.map(|node| node["status"]["conditions"].clone()).unwrap_or_default();
        let ready = conditions
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        if !ready {
            return Err(format!("{name} is not Ready"));
        }
    }
    let dns = json(rack, &["-n", "kube-system", "get", "deployment", "coredns"])?;
    let available = dns["status"]["availableReplicas"].as_u64().unwrap_or(0);
    if available == 0 { Err("CoreDNS is not available".to_owned()) } else { Ok(()) }
}

/// Asks the workload's Service from a node, by its address, with real traffic.
fn hello_from(rack: &mut Rack, node: &str) -> Result<(), String> {
    let service = json(rack, &["get", "service", "hello"])?;
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let script = format!(
        "exec 3<>/dev/tcp/{address}/80; printf 'GET / HTTP/1.0\\r\\nHost: hello\\r\\n\\r\\n' >&3; cat <&3"
    );
    let from = rack.node(node).map_err(|error| error.to_string())?;
    match from.execute(&["timeout", "5", "bash", "-c", &script]) {
        Ok(answer) if answer.contains(" 200 ") => Ok(()),
        Ok(answer) => Err(format!("hello answered {answer:?} to {node}")),
        Err(error) => Err(error.to_string()),
    }
}

fn whole(rack: &mut Rack) -> Result<(), String> {
    all_ready(rack)?;
    hello_from(rack, "cp1")?;
    hello_from(rack, "w1")
}

/// What a cluster must not lose: its identity.
fn cluster_id(rack: &mut Rack) -> String {
    let namespace = json(rack, &["get", "namespace", "kube-system"]).unwrap();
    namespace["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn steps(rack: &Rack, node: &str) -> Vec<(String, String)> {
    let steps = rack.central().unwrap().steps(SITE, node).unwrap_or_default();
    steps.into_iter().map(|step| (step.name, step.state)).collect()
}

#[test]
#[ignore = "builds Kubernetes, a quarter of an hour on two cores: make soak"]
fn a_control_plane_and_a_worker_become_a_cluster() {
    scenario::run("a_control_plane_and_a_worker_become_a_cluster", "kubernetes-native.toml", |rack| {
        rack.power_on().unwrap();
        wait(rack, "a whole cluster", whole);
        wait(rack, "central hears of it", |rack| {
            for node in ["cp1", "w1"] {
                let detail = rack.central().unwrap().node(SITE, node).unwrap_or_default();
                if detail["state"] != "ready" || detail["cluster"]["ready"] != true {
                    return Err(format!("{node} is {} ({})", detail["state"], detail["cluster"]["line"]));
                }
                if let Some((name, state)) = steps(rack, node).into_iter().find(|(_, state)| state != "done")
                {
                    return Err(format!("{node}: step {name} is {state}"));
                }
            }
            Ok(())
        });
        let id = cluster_id(rack);

        // The whole site loses its power while central is gone.
        rack.site.stop_controller();
        for node in ["cp1", "w1"] {
            rack.node(node).unwrap().power_off();
        }
        rack.power_on().unwrap();
        wait(rack, "the cluster is back without central", whole);
        assert_eq!(cluster_id(rack), id, "it is the same cluster");
        rack.site.start_controller().unwrap();
    });
}

/// A small generator (SplitMix64), so that a failure can be seen again with its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }
}

/// How often in one run the agent is killed or the power cut: 10 in `make test`, more by `CAIRN_KILLS` in `make soak`.
fn kills() -> u64 {
    std::env::var("CAIRN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[test]
#[ignore = "builds Kubernetes, a quarter of an hour on two cores: make soak"]
fn a_bootstrap_that_is_cut_off_anywhere_converges() {
    scenario::run("a_bootstrap_that_is_cut_off_anywhere_converges", "kubernetes-native.toml", |rack| {
        let seed = std::env::var("CAIRN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(36);
        eprintln!("CAIRN_SEED={seed}");
        let mut random = Random(seed);
        rack.power_on().unwrap();
        for kill in 0..kills() {
            // Spread over an installation and a bootstrap, whose steps take from tenths of a second to half a minute.
            std::thread::sleep(Duration::from_millis(1000 + random.below(7000)));
            let name = if random.below(3) == 0 { "w1" } else { "cp1" };
            let node = rack.node(name).unwrap();
            if random.below(2) == 0 {
                node.cycle().unwrap();
                eprintln!("{kill}: {name} lost its power");
            } else {
                let killed = node.execute(&["systemctl", "kill", "--signal=KILL", "cairn-agent.service"]);
                eprintln!("{kill}: the agent of {name} was killed: {}", killed.is_ok());
            }
        }
        wait(rack, "a whole cluster after it all", whole);
        let ids = json(rack, &["get", "nodes"]).unwrap();
        assert_eq!(ids["items"].as_array().map(Vec::len), Some(2), "two nodes, each once");
    });
}
