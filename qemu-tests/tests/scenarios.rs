//! Whole nodes against a real controller, with faults.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cairn_lab::central::Central;
use cairn_lab::rack::Rack;
use cairn_lab::scenario;
use cairn_protocol::console::Said;
use cairn_protocol::stage::Stage;

/// A boot under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(300);

fn heartbeats(central: &Central) -> u64 {
    let nodes = central.nodes().unwrap_or_default();
    nodes.iter().find(|node| node.node == "known").map_or(0, |node| node.heartbeats)
}

fn wait_heartbeats(rack: &Rack, wanted: u64) {
    let central = rack.central().unwrap();
    let deadline = Instant::now() + BOOT;
    while heartbeats(central) < wanted {
        assert!(Instant::now() < deadline, "no {wanted} heartbeats; see {}", rack.dirs().root().display());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_node_waits_for_its_controller_and_a_stranger_is_refused() {
    scenario::run("a_node_waits_for_its_controller_and_a_stranger_is_refused", "waiting.toml", |rack| {
        rack.site.stop_controller();
        let node = rack.node("known").unwrap();
        node.power_on().unwrap();
        let waits = node
            .wait_said(0, BOOT, "waiting for the controller", |line| {
                matches!(line.said, Said::Waiting { .. })
            })
            .unwrap();
        assert_eq!(waits.stage, Stage::Time, "{waits}");
        rack.site.start_controller().unwrap();
        rack.node("known").unwrap().wait_stage(0, BOOT, Stage::Enrol).unwrap();
        wait_heartbeats(rack, 2);
        // What it acknowledged survives its death, and the node goes on by itself.
        let before = heartbeats(rack.central().unwrap());
        rack.site.kill_controller();
        rack.site.start_controller().unwrap();
        assert!(heartbeats(rack.central().unwrap()) >= before, "acknowledged heartbeats were lost");
        wait_heartbeats(rack, before + 2);
        // A cut link, mended: the same.
        rack.cut("known", 0, true).unwrap();
        let before = heartbeats(rack.central().unwrap());
        rack.cut("known", 0, false).unwrap();
        wait_heartbeats(rack, before + 2);
        rack.node("known").unwrap().power_off();

        let stranger = rack.node("stranger").unwrap();
        stranger.power_on().unwrap();
        stranger.wait_refused(0, BOOT, "unknown-serial").unwrap();
        let known = rack.central().unwrap().nodes().unwrap();
        assert!(known.iter().all(|node| node.node != "stranger"), "{known:?}");
    });
}
