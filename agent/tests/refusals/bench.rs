//! A release made once with the real cairnctl; for each test a controller that has it, and nodes that trust it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_protocol::console::Said;
use cairn_protocol::stage::Stage;

use crate::common::{Controller, Node, program};

/// Bytes of the layer: some 25 chunks of noise.
const LAYER_BYTES: usize = 400 * 4096;

/// A plan with one bundle for all nodes, and small partitions. Hosted nodes without a disk install into a directory.
pub const PLAN: &str = "
version: 1
site: s1
heartbeat: {interval-seconds: 1}
bundles: {os/base: 1.0.0}
disks: {system: {match: {transport: virtio}, esp-size: 256MiB, state-size: 256MiB}}
nodes: {n1: {serial: S1}, n2: {serial: S2}, n3: {}}
";

/// Runs cairnctl without a controller.
pub fn offline(dir: &Path, args: &[&str]) {
    let output = Command::new(program("cairnctl")).current_dir(dir).args(args).output().unwrap();
    assert!(output.status.success(), "cairnctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a folder's contents into another.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What every test begins with, in one folder: keys `K` and repository `R` with os/base 1.0.0; `evil-K` and `evil-R` of
/// somebody else, with the same names and versions; the layers; and `R0`, `R` before the bundle.
fn release() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // What test runs that are over have left.
        for entry in fs::read_dir(parent).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let over = |pid: &str| !Path::new("/proc").join(pid).exists();
            if name.strip_prefix("refusals-").is_some_and(over) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = parent.join(format!("refusals-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let recipe = "format = 1\n[bundle]\nname = \"os/base\"\nversion = \"1.0.0\"\n\
                      [layer]\nname = \"base\"\nsuite = \"trixie\"\npackages = [\"systemd\"]\n";
        fs::write(dir.join("recipe.toml"), recipe).unwrap();
        for (bundle, seed) in [("good", 1), ("other", 2)] {
            let layer = format!("{bundle}.erofs");
            fs::write(dir.join(&layer), noise(seed)).unwrap();
            let build =
                ["bundle", "build", "recipe.toml", "--level", "1", "--layer", &layer, "--out", bundle];
            offline(&dir, &build);
        }
        for (keys, repo, bundle) in [("K", "R", "good"), ("evil-K", "evil-R", "other")] {
            offline(&dir, &["keys", "init", "--dir", keys]);
            offline(&dir, &["repo", "init", "--keys", keys, "--repo", repo]);
            if repo == "R" {
                copy(&dir.join("R"), &dir.join("R0"));
            }
            offline(&dir, &["bundle", "add", bundle, "--keys", keys, "--repo", repo]);
        }
        dir
    })
}

/// Bytes that no compression makes shorter (the generator of D. Knuth's MMIX).
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..LAYER_BYTES).map(next).collect()
}

/// A controller with the release published, and the folder of keys and repository that belongs to it alone.
pub struct Site {
    pub controller: Controller,
    /// Where `K`, `R` and the rest of the release lie.
    pub made: PathBuf,
}

impl Site {
    /// The release published and the plan applied.
    pub fn new(plan: &str) -> Self {
        let controller = Controller::started();
        let made = controller.dir.path().join("release");
        copy(release(), &made);
        let site = Self { controller, made };
        site.publish();
        site.controller.apply(plan);
        site
    }

    /// Uploads `R` as it is.
    pub fn publish(&self) {
        self.controller.cairnctl(&["publish", "--repo", self.made.join("R").to_str().unwrap()]);
    }

    /// Signs newer metadata and uploads it: what an operator does after metadata was tampered with.
    pub fn refresh_and_publish(&self) {
        self.sign_timestamp(now());
        self.publish();
    }

    /// Signs a newer timestamp in `R`, as at `time`.
    pub fn sign_timestamp(&self, time: u64) {
        offline(&self.made, &["--now", &time.to_string(), "repo", "refresh", "--keys", "K", "--repo", "R"]);
    }

    /// The folder of the controller's repository.
    pub fn repo(&self) -> PathBuf {
        self.controller.ctl().join("repo")
    }

    /// The file of the controller's repository in `folder` whose name ends with `end`; the largest, where there are more.
    pub fn file(&self, folder: &str, end: &str) -> PathBuf {
        let output =
            Command::new("find").arg(self.repo().join(folder)).args(["-type", "f"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let files = text.lines().map(PathBuf::from).filter(|path| path.to_string_lossy().ends_with(end));
        files
            .max_by_key(|path| fs::metadata(path).unwrap().len())
            .unwrap_or_else(|| panic!("no {folder}/*{end}"))
    }

    /// A node that trusts this controller and this release, by a real `trust export`.
    pub fn node(&self, serial: &str) -> Node {
        let node = Node::of(&self.controller, serial);
        let (repo, out) = (self.made.join("R"), node.root.path().join("trust"));
        let args = ["trust", "export", "--image-version", "0.1.0", "--build-time", "1700000000"];
        let paths = ["--repo", repo.to_str().unwrap(), "--out", out.to_str().unwrap()];
        self.controller.cairnctl(&[&args[..], &paths].concat());
        copy(&out, &node.root.path().join("etc/cairn"));
        node
    }

    /// A node that walks to the end of `verify`.
    pub fn started(&self, serial: &str) -> Node {
        let mut node = self.node(serial);
        node.start(&["--until", "verify"]);
        node
    }

    /// The refusal's line, which is on the console; its event is at central.
    pub fn refused(&self, node: &Node, name: &str, code: &str) -> String {
        let line = node.wait_refused(code);
        assert!(line.contains(" | do: "), "no advice in: {line}");
        let event = self.controller.wait_for_event("s1", name, code);
        assert!(event.to_string().contains("error"), "{event}");
        line
    }

    /// The cause is gone: the same process goes on to the end of `verify`, nothing was lost, and it complained once.
    pub fn goes_on(&self, node: &Node) {
        node.wait_done(Stage::Verify);
        assert_eq!(refusals(node), 1, "one line for one refusal");
        self.installed(node, "good.erofs");
    }

    /// The layer is on the node, byte for byte.
    pub fn installed(&self, node: &Node, layer: &str) {
        let expected = fs::read(self.made.join(layer)).unwrap();
        let layers = fs::read_dir(node.run("data/layers")).unwrap().flatten().map(|entry| entry.path());
        let layers: Vec<_> =
            layers.filter(|path| path.extension().is_some_and(|end| end == "erofs")).collect();
        assert_eq!(layers.len(), 1, "{layers:?}");
        assert!(fs::read(&layers[0]).unwrap() == expected, "the layer has other bytes");
    }
}

/// How many refusals the console has shown.
pub fn refusals(node: &Node) -> usize {
    let count = Cell::new(0);
    node.has_said(|line| {
        count.set(count.get() + usize::from(matches!(line.said, Said::Refused { .. })));
        false
    });
    count.get()
}

/// Flips the lowest bit of a byte in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}
