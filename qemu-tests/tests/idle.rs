//! What the agent costs while nothing happens: an installed node that is well, with heartbeats as often as by default.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cairn_lab::rack::Rack;
use cairn_lab::scenario;
use serde_json::Value;

/// The promise: at most this part of one core.
const LIMIT: f64 = 0.001;
/// Seconds after the node is ready until it counts as at rest: the first minute has the last of the boot in it.
const REST: u64 = 90;
/// Seconds of uptime that are measured: 20 heartbeats, 10 health checks.
const SPAN: u64 = 600;
/// Longer than an installation under emulation on a busy machine, and than what is measured.
const PATIENCE: Duration = Duration::from_secs(1200);
/// How often central is asked.
const ASK: Duration = Duration::from_secs(2);

fn wait(rack: &Rack, condition: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = rack.central().unwrap().node("idle", "n1").unwrap_or_default();
        if wanted(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "not at central: {condition}; it says {now:#}");
        std::thread::sleep(ASK);
    }
}

fn number(view: &Value, key: &str) -> u64 {
    view[key].as_u64().unwrap_or_else(|| panic!("no {key} in {view:#}"))
}

/// The heartbeats carry the agent's processor time and the node's uptime, both of the same moment.
#[test]
#[ignore = "ten minutes of doing nothing: make soak"]
fn the_service_idles_below_a_thousandth_of_a_core() {
    scenario::run("the_service_idles_below_a_thousandth_of_a_core", "idle.toml", |rack| {
        rack.power_on().unwrap();
        let ready = wait(rack, "ready", |now| now["state"] == "ready" && now["stage"] == "service");
        let uptime_of = |now: &Value| now["uptime_seconds"].as_u64().unwrap_or_default();
        let at_rest = number(&ready, "uptime_seconds") + REST;
        let first = wait(rack, "a heartbeat at rest", |now| uptime_of(now) >= at_rest);
        let end = number(&first, "uptime_seconds") + SPAN;
        let last = wait(rack, "ten more minutes", |now| uptime_of(now) >= end);
        for key in ["boot_id", "generation", "state"] {
            assert_eq!(first[key], last[key], "{key}: it was not idle");
        }
        let spent = number(&last, "agent_cpu_millis") - number(&first, "agent_cpu_millis");
        let seconds = number(&last, "uptime_seconds") - number(&first, "uptime_seconds");
        let beats = number(&last, "heartbeats") - number(&first, "heartbeats");
        #[allow(clippy::cast_precision_loss)]
        let part = spent as f64 / 1000.0 / seconds as f64;
        eprintln!(
            "idle: {spent} ms of processor time in {seconds} s, {beats} heartbeats: {:.4} % of a core, {}",
            part * 100.0,
            rack.accel()
        );
        assert!(beats >= SPAN / 60, "only {beats} heartbeats came");
        assert!(part <= LIMIT, "{:.4} % of a core is more than {} %", part * 100.0, LIMIT * 100.0);
    });
}
