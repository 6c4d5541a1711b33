//! The agent, hosted, against the real controller: enrolment, heartbeats, and what it refuses on the way.
#![allow(clippy::unwrap_used)]

mod common;

use cairn_protocol::stage::Stage;
use common::{Controller, Node, wait_until};

const PLAN: &str = "
version: 1
site: s1
heartbeat: {interval-seconds: 1}
nodes:
  n1: {serial: S1}
  n2: {serial: S2}
";

#[test]
fn a_node_enrols_by_its_serial_waits_and_sends_heartbeats() {
    let controller = Controller::with_plan(PLAN);
    let mut node = Node::of(&controller, "S1");
    node.start(&[]);
    assert!(node.wait_waiting(Stage::Disks).contains("no bundle"));
    let seen = wait_until("3 heartbeats and an inventory", || {
        let seen = controller.node("s1", "n1");
        (seen["heartbeats"].as_u64()? >= 3 && !seen["status"].is_null()).then_some(seen)
    });
    assert_eq!(seen["state"], "waiting");
    assert_eq!(seen["stage"], "disks");
    assert!(seen["agent_rss_bytes"].as_u64().unwrap() < 40 << 20, "{seen}");
    assert_eq!(seen["status"]["inventory"]["machine"]["serial"], "S1");

    // The next worker of this boot is the same node, by the same key, and counts its heartbeats on.
    let key = std::fs::read(node.run("identity/key.pem")).unwrap();
    node.start(&[]);
    node.wait_waiting(Stage::Disks);
    assert_eq!(std::fs::read(node.run("identity/key.pem")).unwrap(), key);
    let before = seen["heartbeats"].as_u64().unwrap();
    wait_until("more heartbeats", || {
        (controller.node("s1", "n1")["heartbeats"].as_u64()? > before).then_some(())
    });
}

#[test]
fn another_ca_is_refused_before_anything_is_said_to_it() {
    let (ours, theirs) = (Controller::made(), Controller::with_plan(PLAN));
    let mut node = Node::new("S1", &ours.pin(), &theirs.url);
    node.start(&[]);
    let line = node.wait_refused("ca-pin");
    assert!(line.contains(ours.pin().trim()) && line.contains(theirs.pin().trim()), "{line}");
    assert!(theirs.node("s1", "n1")["enrolled"].is_null());
}

#[test]
fn an_unknown_serial_is_refused_on_the_console_and_at_central() {
    let controller = Controller::with_plan(PLAN);
    let mut node = Node::of(&controller, "S9");
    node.start(&[]);
    assert!(node.wait_refused("unknown-serial").contains("\"S9\""));
    let refusals = controller.cairnctl(&["node", "refusals"]);
    assert!(refusals.to_string().contains("S9"), "{refusals}");
    // Once the plan knows it, it goes on by itself.
    controller.apply(&format!("{PLAN}  n9: {{serial: S9}}\n"));
    node.wait_done(Stage::Enrol);
}

#[test]
fn a_clock_ten_years_off_does_not_matter_and_is_told() {
    let ten_years = 10 * 365 * 86_400;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let controller = Controller::with_plan(PLAN);
    for (serial, node_name, clock) in [("S1", "n1", now - ten_years), ("S2", "n2", now + ten_years)] {
        let mut node = Node::of(&controller, serial);
        node.start(&["--clock", &clock.to_string()]);
        assert!(node.wait_refused("clock-unbelievable").contains("the signed time holds"));
        node.wait_waiting(Stage::Disks);
        controller.wait_for_event("s1", node_name, "clock-unbelievable");
    }
}

#[test]
fn a_controller_that_is_down_is_waited_for_at_every_stage() {
    let mut controller = Controller::with_plan(PLAN);
    let mut node = Node::of(&controller, "S1");
    controller.kill();
    node.start(&[]);
    assert!(node.wait_waiting(Stage::Time).contains("cannot be reached"));
    controller.start();
    node.wait_waiting(Stage::Disks);
    // It goes away while the node waits for work, and comes back.
    controller.kill();
    controller.start();
    let before = controller.node("s1", "n1")["heartbeats"].as_u64().unwrap();
    wait_until("heartbeats after the return", || {
        (controller.node("s1", "n1")["heartbeats"].as_u64()? > before + 1).then_some(())
    });
}

/// A listener that takes connections and says nothing; what it accepts is kept.
fn silent() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        held.extend(listener.incoming());
    });
    url
}

#[test]
fn a_controller_that_hangs_does_not_hide_the_next_one() {
    let controller = Controller::with_plan(PLAN);
    let mut node = Node::with_controllers("S1", &controller.pin(), &[&silent(), &controller.url]);
    node.start(&[]);
    node.wait_done(Stage::Enrol);
}

#[test]
fn a_search_begins_where_it_is_told_to() {
    let controller = Controller::started();
    let urls = vec![silent(), controller.url.clone(), silent()];
    let pin = controller.pin().trim().parse().unwrap();
    let clock = std::sync::Arc::new(cairn_agent::clock::Clock::new(0));
    let uplink = cairn_agent::uplink::Uplink::new(urls, pin, clock);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let hour = std::time::Duration::from_secs(3600);
    for round in [1, 4] {
        // The first would be waited for for an hour.
        assert!(runtime.block_on(uplink.search(round, hour)).is_ok());
        assert_eq!(uplink.current(), Some(controller.url.clone()));
    }
    // Each gets its share of patience, and no more.
    assert!(runtime.block_on(uplink.search(2, std::time::Duration::from_secs(2))).is_ok());
}

#[test]
fn a_worker_killed_at_each_stage_converges() {
    let controller = Controller::with_plan(PLAN);
    let mut node = Node::of(&controller, "S1");
    for stage in [Stage::Devices, Stage::Time, Stage::Identity, Stage::Enrol, Stage::Plan, Stage::Disks] {
        node.start(&[]);
        node.wait_started(stage);
        node.kill();
    }
    node.start(&[]);
    node.wait_waiting(Stage::Disks);
    wait_until("a heartbeat", || (controller.node("s1", "n1")["heartbeats"].as_u64()? > 0).then_some(()));
}

/// What a worker that PID 1 saw crash is told to central once, by the next one.
#[test]
fn a_crash_is_told_to_central() {
    let controller = Controller::with_plan(PLAN);
    let mut node = Node::of(&controller, "S1");
    let crash = cairn_agent::pid1::crash::Crash {
        stage: Stage::Fetch,
        line: "the worker was ended by SIGSEGV".to_owned(),
    };
    crash.keep(&node.run("crashes"));
    node.start(&[]);
    let event = controller.wait_for_event("s1", "n1", "worker-crash");
    assert!(event.to_string().contains("SIGSEGV"), "{event}");
    wait_until("an empty spool", || {
        let spool = std::fs::read_to_string(node.run("spool.json")).ok()?;
        spool.contains("\"events\":[]").then_some(())
    });
}

#[test]
fn status_says_what_the_node_waits_for() {
    let controller = Controller::with_plan(PLAN);
    let mut node = Node::of(&controller, "S1");
    node.start(&[]);
    node.wait_waiting(Stage::Disks);
    let text = wait_until("the status", || {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cairn-agent"))
            .args(["status", "--root"])
            .arg(node.root.path())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.contains("no bundle").then_some(text)
    });
    assert!(text.contains("n1 of site s1"), "{text}");
}

mod tokens {
    use super::*;

    fn seed(controller: &Controller, name: &str) -> std::path::PathBuf {
        let file = controller.dir.path().join(name);
        controller.cairnctl(&["site", "seed", "s1", "--with-token", "--out", file.to_str().unwrap()]);
        file
    }

    #[test]
    fn a_token_leads_to_quarantine_until_an_operator_compares_the_words() {
        let controller = Controller::with_plan(&format!("{PLAN}  n3: {{}}\n"));
        let seed = seed(&controller, "seed.json");
        let mut node = Node::of(&controller, "UNKNOWN");
        node.start(&["--seed", seed.to_str().unwrap()]);
        let reason = node.wait_waiting(Stage::Enrol);
        let quarantined = controller.cairnctl(&["node", "quarantine"]);
        let words = quarantined[0]["words"].as_str().unwrap().to_owned();
        assert!(reason.contains(&words), "{reason} {quarantined}");
        let id = quarantined[0]["id"].to_string().trim_matches('"').to_owned();
        controller.cairnctl(&["node", "approve", &id, "s1", "n3"]);
        node.wait_done(Stage::Enrol);

        let mut other = Node::of(&controller, "UNKNOWN");
        other.start(&["--seed", seed.to_str().unwrap()]);
        other.wait_refused("token-used");
    }

    #[test]
    fn a_forged_seed_is_refused_and_ignored() {
        let controller = Controller::with_plan(PLAN);
        let seed = seed(&controller, "seed.json");
        let text = std::fs::read_to_string(&seed)
            .unwrap()
            .replace("\\\"site\\\":\\\"s1\\\"", "\\\"site\\\":\\\"s2\\\"");
        std::fs::write(&seed, text).unwrap();
        let mut node = Node::of(&controller, "S1");
        node.start(&["--seed", seed.to_str().unwrap()]);
        node.wait_refused("seed-forged");
        node.wait_waiting(Stage::Disks);
        controller.wait_for_event("s1", "n1", "seed-forged");
    }
}

/// A controller whose database was tampered with hands one node the other's assignment, rightly signed.
#[test]
fn an_assignment_for_another_node_is_refused() {
    let controller = Controller::with_plan(PLAN);
    let database = rusqlite::Connection::open(controller.ctl().join("controller.db")).unwrap();
    let changed = database
        .execute(
            "UPDATE assignments SET (envelope, etag) = \
             (SELECT o.envelope, o.etag FROM assignments AS o WHERE o.site = 's1' AND o.node = 'n2') \
             WHERE site = 's1' AND node = 'n1'",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    let mut node = Node::of(&controller, "S1");
    node.start(&[]);
    let line = node.wait_refused("assignment-other");
    assert!(line.contains("for node n2") && line.contains("this is node n1"), "{line}");
    controller.wait_for_event("s1", "n1", "assignment-other");
}
