//! One node through three generations: installed, updated, and back from one that is not well.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cairn_lab::prepare::Prepared;
use cairn_lab::rack::Rack;
use cairn_lab::scenario;
use cairn_protocol::console::{Line, Said};
use cairn_protocol::stage::Stage;
use serde_json::Value;

/// A boot under emulation on a busy machine, an installation included.
const BOOT: Duration = Duration::from_secs(500);
/// How often central is asked.
const ASK: Duration = Duration::from_millis(700);
/// A unit that every boot starts; in the third release its program has another name.
const UNIT: &[u8] = b"ExecStart=/usr/lib/systemd/systemd-sysctl";
/// What that unit is called.
const UNIT_NAME: &str = "systemd-sysctl.service";

fn detail(rack: &Rack) -> Value {
    rack.central().unwrap().node("generations", "n1").unwrap_or_default()
}

fn wait_central(rack: &Rack, condition: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + BOOT;
    loop {
        let now = detail(rack);
        if wanted(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "not at central: {condition}; it says {now:#}");
        std::thread::sleep(ASK);
    }
}

fn text(detail: &Value, key: &str) -> String {
    detail[key].as_str().unwrap_or_default().to_owned()
}

/// Waits until the node runs the generation that is assigned to it, and is well.
fn wait_ready_as_assigned(rack: &Rack) -> Value {
    wait_central(rack, "ready on the assigned generation", |now| {
        now["state"] == "ready"
            && now["generation"].is_string()
            && now["generation"] == now["assigned_generation"]
    })
}

fn count(detail: &Value, code: &str) -> usize {
    detail["events"].as_array().map_or(0, |all| all.iter().filter(|event| event["code"] == code).count())
}

/// The operator's work place: the release keys, the repository, and the first bundle.
struct Desk {
    dir: PathBuf,
    keys: PathBuf,
    uki: PathBuf,
    recipe: PathBuf,
}

impl Desk {
    fn new(rack: &Rack) -> Self {
        let prepared = Prepared::locate("10.81.0.1".parse().unwrap()).unwrap();
        let dir = rack.dirs().work().join("desk");
        fs::create_dir_all(&dir).unwrap();
        let bundle = prepared.repository().with_file_name("bundle");
        copy(&prepared.repository(), &dir.join("repo"));
        copy(&bundle, &dir.join("1.0.0"));
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/recipes/base.toml");
        Self { dir, keys: prepared.keys(), uki: prepared.image().join("cairn.efi"), recipe }
    }

    fn layer(&self) -> PathBuf {
        self.dir.join("1.0.0/base.erofs")
    }

    /// Builds, signs and publishes a release of `layer`. It starts from the first one's chunks, so only new ones are compressed.
    fn release(&self, rack: &Rack, version: &str, layer: &Path) {
        let out = self.dir.join(version);
        copy(&self.dir.join("1.0.0"), &out);
        let s = |path: &Path| path.to_string_lossy().into_owned();
        let repo = self.dir.join("repo");
        let build = ["bundle", "build", &s(&self.recipe), "--layer", &s(layer), "--uki", &s(&self.uki)];
        let build: Vec<&str> = build.into_iter().chain(["--bundle-version", version, "--out"]).collect();
        let (out, repo) = (s(&out), s(&repo));
        rack.operate(&[build, vec![&out]].concat()).unwrap();
        rack.operate(&["bundle", "add", &out, "--keys", &s(&self.keys), "--repo", &repo]).unwrap();
        rack.operate(&["publish", "--repo", &repo]).unwrap();
    }

    fn plan(&self, rack: &Rack, version: &str, more: &str) {
        let plan = fs::read_to_string(rack.spec().site.plan.as_ref().unwrap()).unwrap();
        let plan = plan.replace("os/base: 1.0.0", &format!("os/base: {version}")) + more;
        let file = self.dir.join(format!("{version}.yaml"));
        fs::write(&file, plan).unwrap();
        rack.operate(&["site", "plan", "apply", &file.to_string_lossy()]).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success(), "cp -a {} {}", from.display(), to.display());
}

/// The layer with a program's name misspelt in one unit.
fn spoil(layer: &Path, to: &Path) {
    let mut bytes = fs::read(layer).unwrap();
    let places: Vec<_> = (0..bytes.len() - UNIT.len()).filter(|at| bytes[*at..].starts_with(UNIT)).collect();
    assert_eq!(places.len(), 1, "{UNIT_NAME} lies in the image at {places:?}");
    bytes[places[0] + UNIT.len() - 1] = b'X';
    fs::write(to, bytes).unwrap();
}

#[test]
#[ignore = "two installations and several reboots: make soak"]
fn a_node_is_updated_and_falls_back_from_a_release_that_is_not_well() {
    scenario::run(
        "a_node_is_updated_and_falls_back_from_a_release_that_is_not_well",
        "generations.toml",
        |rack| {
            rack.node("n1").unwrap().power_on().unwrap();
            let desk = Desk::new(rack);
            let spoilt = desk.dir.join("spoilt.erofs");
            spoil(&desk.layer(), &spoilt);
            let first = wait_ready_as_assigned(rack);

            let second = update(rack, &desk, &first);
            fall_back(rack, &desk, &spoilt, &second);
        },
    );
}

/// The same layer under another version: nothing is fetched but metadata, shown by a controller that has no chunk at all.
fn update(rack: &mut Rack, desk: &Desk, first: &Value) -> Value {
    desk.release(rack, "1.0.1", &desk.layer());
    let chunks = rack.site.repository().unwrap().join("chunks.castr");
    let away = chunks.with_extension("away");
    fs::rename(&chunks, &away).unwrap();
    let mark = rack.node("n1").unwrap().mark();
    desk.plan(rack, "1.0.1", "");
    let node = rack.node("n1").unwrap();
    node.wait_text(mark, BOOT, "is on trial").unwrap();
    let committed = |line: &Line| line.stage == Stage::Service && line.said == Said::Done;
    node.wait_said(mark, BOOT, "the second generation is kept", committed).unwrap();
    let second = wait_ready_as_assigned(rack);
    fs::rename(&away, &chunks).unwrap();
    assert_ne!(text(&second, "generation"), text(first, "generation"));
    assert_ne!(text(&second, "boot_id"), text(first, "boot_id"));
    assert_eq!(second["serial"], first["serial"]);
    assert_eq!(second["enrolled"], first["enrolled"]);
    assert!(second["failed"].is_null(), "{second:#}");
    second
}

/// A release with a unit that fails: given up after its time, the second one runs again and central knows why.
fn fall_back(rack: &mut Rack, desk: &Desk, spoilt: &Path, second: &Value) {
    desk.release(rack, "1.0.2", spoilt);
    let mark = rack.node("n1").unwrap().mark();
    desk.plan(rack, "1.0.2", "health:\n  timeout-seconds: 30\n");
    let node = rack.node("n1").unwrap();
    node.wait_text(mark, BOOT, "is on trial").unwrap();
    node.wait_text(mark, BOOT, "[generation-failed]").unwrap();
    let back = wait_central(rack, "ready again on the second generation", |now| {
        now["state"] == "ready"
            && now["generation"] == second["generation"]
            && now["boot_id"] != second["boot_id"]
    });
    assert_eq!(back["failed"]["id"], back["assigned_generation"], "{back:#}");
    let reason = back["failed"]["reason"].as_str().unwrap();
    assert!(reason.contains("not healthy within 30 s") && reason.contains(UNIT_NAME), "{reason}");
    assert_eq!(count(&back, "generation-failed"), 1, "{back:#}");
    // It stays there: what failed is not tried again.
    let beats = back["heartbeats"].as_u64().unwrap();
    let later =
        wait_central(rack, "ten more heartbeats", |now| now["heartbeats"].as_u64() >= Some(beats + 10));
    assert_eq!(later["boot_id"], back["boot_id"]);
    assert_eq!(later["generation"], second["generation"]);
    assert_eq!(later["state"], "ready");
}

/// A reinstall of a running node: it asks its controller instead of starting what it has, and its disk is made anew once.
#[test]
#[ignore = "two installations and several reboots: make soak"]
fn a_running_node_is_reinstalled_when_it_is_ordered() {
    scenario::run("a_running_node_is_reinstalled_when_it_is_ordered", "generations.toml", |rack| {
        rack.node("n1").unwrap().power_on().unwrap();
        let before = wait_ready_as_assigned(rack);
        let mark = rack.node("n1").unwrap().mark();
        rack.operate(&["node", "reinstall", "generations", "n1", "--yes"]).unwrap();
        let node = rack.node("n1").unwrap();
        node.wait_text(mark, BOOT, "reinstall 1 was ordered: the controller is asked about it").unwrap();
        node.wait_text(mark, BOOT, "the disk is made anew").unwrap();
        node.wait_text(mark, BOOT, "partitioning").unwrap();
        let after = wait_central(rack, "ready on the reinstalled disk", |now| {
            now["state"] == "ready"
                && now["reinstall_pending"] == false
                && now["generation"] == now["assigned_generation"]
                && now["generation"] != before["generation"]
        });
        assert_eq!(after["node"], before["node"]);
        assert_eq!(after["serial"], before["serial"]);
        assert_eq!(count(&after, "reinstall-put-off") + count(&after, "reinstall-failed"), 0, "{after:#}");
        // Once: the order is done.
        let beats = after["heartbeats"].as_u64().unwrap();
        let later =
            wait_central(rack, "ten more heartbeats", |now| now["heartbeats"].as_u64() >= Some(beats + 10));
        assert_eq!(later["boot_id"], after["boot_id"]);
    });
}
