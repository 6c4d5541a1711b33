//! Container nodes: a real node's life, its limits, its disk, and nothing left of a lab that is killed.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn_lab::container::groups::{hierarchies, run_name};
use cairn_lab::node::Node;
use cairn_lab::rack::Rack;
use cairn_lab::scenario;
use cairn_protocol::console::Said;
use cairn_protocol::stage::Stage;
use serde_json::Value;

/// An installation takes half of this on two busy cores.
const BOOT: Duration = Duration::from_secs(120);
/// How often central is asked.
const ASK: Duration = Duration::from_millis(300);
/// A file that the node keeps, on DATA.
const KEPT: &str = "/var/lib/cairn/kept";

/// What central knows about a node.
fn detail(rack: &Rack, node: &str) -> Value {
    rack.central().unwrap().node("containers", node).unwrap_or_default()
}

fn wait_central(rack: &Rack, node: &str, condition: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + BOOT;
    loop {
        let now = detail(rack, node);
        if wanted(&now) {
            return now;
        }
        let place = rack.dirs().root().display();
        assert!(Instant::now() < deadline, "{node}, not at central: {condition}; see {place}");
        std::thread::sleep(ASK);
    }
}

/// Waits until a node is well, in another boot than `than`.
fn wait_ready(rack: &Rack, node: &str, than: Option<&Value>) -> Value {
    wait_central(rack, node, "ready", |now| {
        now["state"] == "ready" && than.is_none_or(|than| now["boot_id"] != than["boot_id"])
    })
}

fn sh(node: &mut Node, script: &str) -> String {
    node.execute(&["sh", "-ec", script]).unwrap().trim_end().to_owned()
}

#[test]
fn containers_are_nodes() {
    scenario::run("containers_are_nodes", "containers.toml", |rack| {
        rack.power_on().unwrap();
        let first = wait_ready(rack, "c1", None);
        let other = wait_ready(rack, "c2", None);
        assert_eq!(first["status"]["inventory"]["machine"]["serial"], "LAB-C1");
        assert_eq!(first["status"]["inventory"]["memory_bytes"], 1u64 << 30);

        let c1 = rack.node("c1").unwrap();
        is_a_system_of_its_own(c1);
        stays_within_its_limits(c1);
        sh(c1, &format!("echo kept >{KEPT}; echo lost >/etc/lost; echo lost >/run/lost"));

        // A power cut: it comes back from what it kept, in new namespaces, and the other one did not notice.
        c1.power_off();
        assert!(!c1.running() && c1.execute(&["true"]).is_err());
        assert!(c1.limits("memory").is_none());
        c1.power_on().unwrap();
        let second = wait_ready(rack, "c1", Some(&first));
        for key in ["enrolled", "generation", "serial"] {
            assert_eq!(second[key], first[key], "{key}");
        }
        let c1 = rack.node("c1").unwrap();
        assert_eq!(sh(c1, &format!("cat {KEPT}; ls /etc/lost /run/lost 2>/dev/null || true")), "kept");

        // It reboots by itself, as a machine does.
        let mark = c1.mark();
        sh(c1, "systemctl reboot");
        c1.wait_text(mark, BOOT, "is PID 1").unwrap();
        let third = wait_ready(rack, "c1", Some(&second));
        assert_eq!(third["generation"], first["generation"]);
        assert!(rack.node("c1").unwrap().running());
        assert_eq!(detail(rack, "c2")["boot_id"], other["boot_id"]);
    });
}

/// systemd of the layers is PID 1, on a read-only root of erofs, with names, clocks, processes and network of its own.
fn is_a_system_of_its_own(node: &mut Node) {
    assert_eq!(sh(node, "systemctl is-system-running"), "running");
    assert_eq!(sh(node, "cat /proc/1/comm; systemd-detect-virt; hostname"), "systemd\nsystemd-nspawn\nc1");
    assert_eq!(sh(node, "stat -f -c %T / /etc /tmp"), "erofs\noverlayfs\ntmpfs");
    assert!(node.execute(&["touch", "/usr/x"]).unwrap_err().to_string().contains("Read-only"));
    assert_eq!(sh(node, "ls /sys/class/net"), "host0\nlo");
    let up: f64 = sh(node, "cut -d' ' -f1 /proc/uptime").parse().unwrap();
    assert!(up < BOOT.as_secs_f64(), "it runs for {up} s");
    // What Kubernetes needs later: controllers of its own, mounts that are seen below, settings as the kubelet wants them.
    if Path::new("/sys/fs/cgroup/memory").exists() {
        sh(
            node,
            "mkdir /sys/fs/cgroup/memory/t /sys/fs/cgroup/cpu/t; rmdir /sys/fs/cgroup/memory/t /sys/fs/cgroup/cpu/t",
        );
    }
    assert_eq!(sh(node, "findmnt -n -o PROPAGATION /"), "shared");
    assert_eq!(sh(node, "cat /proc/sys/vm/overcommit_memory"), "1");
    sh(node, "echo 1 >/proc/sys/net/ipv4/ip_forward");
    // The host's clock and kernel are not its own.
    let panic = || std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    let before = panic();
    sh(node, "echo 12345 >/proc/sys/kernel/panic");
    assert_eq!((sh(node, "cat /proc/sys/kernel/panic").as_str(), panic()), ("12345", before));
    assert!(node.execute(&["sh", "-c", "echo 1 >/proc/sys/vm/swappiness"]).is_err());
    // CAP_SYS_MODULE and CAP_SYS_TIME (include/uapi/linux/capability.h), of PID 1 and of what is executed.
    let caps = sh(node, "sed -n 's/^CapBnd:.//p' /proc/1/status; sed -n 's/^CapEff:.//p' /proc/self/status");
    for caps in caps.lines() {
        assert_eq!(u64::from_str_radix(caps, 16).unwrap() & (1 << 16 | 1 << 25), 0, "{caps}");
    }
}

/// 1 GiB and one processor, as the rack file says.
fn stays_within_its_limits(node: &mut Node) {
    let hog = |mib: u32| format!("head -c {mib}M /dev/zero | tail -c {mib}M | wc -c");
    let unit = |script: &str| format!("systemd-run --quiet --wait --pipe sh -c '{script}'");
    assert_eq!(sh(node, &unit(&hog(200))), "209715200");
    let killed = node.execute(&["sh", "-ec", &unit(&hog(1500))]);
    assert!(!killed.is_ok_and(|said| said.trim_end() == "1572864000"), "1500 MiB fit into 1 GiB");
    assert_eq!(sh(node, "systemctl is-active cairn-agent dbus"), "active\nactive");
    sh(node, "systemctl reset-failed");

    let Some(cpu) = node.limits("cpu").filter(|cpu| cpu.join("cpu.cfs_quota_us").exists()) else { return };
    let read = |file: &str| std::fs::read_to_string(cpu.join(file)).unwrap();
    assert_eq!((read("cpu.cfs_quota_us").trim(), read("cpu.cfs_period_us").trim()), ("100000", "100000"));
    let (begun, before) = (Instant::now(), node.cpu_seconds());
    sh(node, "for n in 1 2 3; do timeout 2 sh -c 'while :; do :; done' & done; wait");
    let (wall, used) = (begun.elapsed().as_secs_f64(), node.cpu_seconds() - before);
    assert!(used > 0.1 && used < wall * 1.15 + 0.1, "{used} s of one processor in {wall} s");
}

#[test]
fn a_container_with_another_disk_is_an_empty_server() {
    scenario::run("a_container_with_another_disk_is_an_empty_server", "containers.toml", |rack| {
        let installed = |rack: &Rack| rack.dirs().work().join("c2-disk0/data/var/lib/cairn/kept").exists();
        rack.node("c2").unwrap().power_on().unwrap();
        let first = wait_ready(rack, "c2", None);
        let c2 = rack.node("c2").unwrap();
        sh(c2, &format!("echo kept >{KEPT}"));
        assert!(c2.replace_disk(0).is_err(), "a disk was taken out of a running node");
        assert!(installed(rack));

        // A reinstall that is ordered wipes the disk and brings the same node back.
        rack.operate(&["node", "reinstall", "containers", "c2", "--yes"]).unwrap();
        let again = wait_central(rack, "c2", "installed anew", |now| {
            now["state"] == "ready" && !installed(rack) && now["boot_id"] != first["boot_id"]
        });
        sh(rack.node("c2").unwrap(), &format!("echo kept >{KEPT}"));

        // Another disk: an empty server, whose new key an operator lets in.
        let c2 = rack.node("c2").unwrap();
        c2.power_off();
        c2.replace_disk(0).unwrap();
        let mark = c2.mark();
        c2.power_on().unwrap();
        let refused = c2.wait_refused(mark, BOOT, "serial-already-enrolled").unwrap();
        assert_eq!(refused.stage, Stage::Enrol);
        rack.operate(&["node", "release", "containers", "c2"]).unwrap();
        let c2 = rack.node("c2").unwrap();
        let fetched =
            |line: &cairn_protocol::console::Line| line.stage == Stage::Fetch && line.said == Said::Done;
        c2.wait_said(mark, BOOT, "everything fetched anew", fetched).unwrap();
        wait_ready(rack, "c2", Some(&again));
        assert!(!installed(rack));
    });
}

/// A process that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Lines of a file that hold `word`.
fn lines_with(path: &str, word: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
}

/// What of a lab whose files have `word` in their paths is left on the machine.
fn left_of(word: &str, group: &str) -> Vec<String> {
    let mut left = lines_with("/proc/self/mountinfo", word);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if !own && (line.contains(word) || line.contains(group)) {
            left.push(line);
        }
    }
    left.extend(loops(&Path::new(word).join("killed/work/killed1-disk0/data/layers")));
    left.extend(groups(Path::new("/sys/fs/cgroup"), group, 8));
    left.extend(nspawns());
    left
}

/// Loop devices of files in `layers`, known by their inodes: the kernel shows paths as the node saw them.
fn loops(layers: &Path) -> Vec<String> {
    let files = std::fs::read_dir(layers).into_iter().flatten().flatten();
    let inodes: Vec<u64> = files.map(|file| file.metadata().unwrap().ino()).collect();
    let out = Command::new("losetup")
        .args(["--list", "--noheadings", "--output", "BACK-INO,NAME"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let ours = |line: &&str| {
        line.split_whitespace().next().is_some_and(|ino| inodes.contains(&ino.parse().unwrap()))
    };
    text.lines().filter(ours).map(|line| format!("loop device {line}")).collect()
}

/// Cgroups of this name.
fn groups(dir: &Path, name: &str, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy() == name {
            found.push(entry.path().display().to_string());
        } else if depth > 0 {
            found.extend(groups(&entry.path(), name, depth - 1));
        }
    }
    found
}

/// What systemd-nspawn leaves of itself when it is killed.
fn nspawns() -> Vec<String> {
    let list = |dir: &str| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = list("/tmp").chain(list("/run/systemd/nspawn/propagate"));
    let names: Vec<PathBuf> = found
        .filter(|path| {
            path.file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name.starts_with("nspawn-") || name == "killed1"
            })
        })
        .collect();
    names.iter().map(|path| path.display().to_string()).collect()
}

#[test]
fn cgroups_of_a_lab_that_is_gone_are_cleaned_up() {
    let own = |name: &str| -> Vec<PathBuf> {
        hierarchies().iter().map(|hierarchy| hierarchy.own.join(name)).collect()
    };
    // A process-id that no kernel gives (PID_MAX_LIMIT is 2^22), and this process's.
    let (gone, alive) = (own("cairn-lab-999999999-1"), own(&run_name()));
    assert!(!gone.is_empty(), "no cgroups are mounted here");
    for group in gone.iter().chain(&alive) {
        std::fs::create_dir_all(group.join("node/payload")).unwrap();
    }
    let mut said = Vec::new();
    let out = tempfile::tempdir().unwrap();
    let lines = std::cell::RefCell::new(&mut said);
    cairn_lab::clean::clean(out.path(), &|line| lines.borrow_mut().push(line.to_owned())).unwrap();
    assert!(gone.iter().all(|group| !group.exists()), "{said:?}");
    assert!(alive.iter().all(|group| group.exists()), "{said:?}");
    for group in &alive {
        for dir in [group.join("node/payload"), group.join("node"), group.clone()] {
            std::fs::remove_dir(dir).unwrap();
        }
    }
}

#[test]
fn a_killed_lab_leaves_nothing_of_its_containers() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = tempfile::tempdir().unwrap();
    let word = dir.path().to_string_lossy().into_owned();
    let before = nspawns();
    let plan = std::fs::read_to_string(home.join("qemu-tests/racks/containers.plan.yaml")).unwrap();
    std::fs::write(dir.path().join("plan.yaml"), plan.replace("c1:", "killed1:")).unwrap();
    let text = "name = \"killed\"\n[site]\nname = \"containers\"\nplan = \"plan.yaml\"\nsubnet = \"10.82.0.0/24\"\n\
                [[node]]\nname = \"killed1\"\nserial = \"LAB-C1\"\nboot = \"container\"\n[[node.disk]]\nsize = \"20GiB\"\n\
                [expect]\nconsole = \"never said\"\n";
    let rack = dir.path().join("rack.toml");
    std::fs::write(&rack, text).unwrap();
    let lab = Command::new(env!("CARGO_BIN_EXE_cairn-lab"))
        .current_dir(&home)
        .arg("run")
        .arg(&rack)
        .arg("--out")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lab = Killed(lab);
    let proof = cairn_lab::clean::Proof::of(lab.0.id()).unwrap();
    let group = format!("cairn-lab-{}-{}", proof.pid, proof.start);
    let mut lines = BufReader::new(lab.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("central says ready")), "the node did not become ready");
    let there = left_of(&word, &group);
    for what in ["systemd-nspawn", "cgroup", "loop device"] {
        assert!(there.iter().any(|line| line.contains(what)), "no {what} to be seen in {there:#?}");
    }
    drop(lab);
    let deadline = Instant::now() + BOOT;
    let left = loop {
        let left: Vec<_> = left_of(&word, &group).into_iter().filter(|line| !before.contains(line)).collect();
        if left.is_empty() || Instant::now() > deadline {
            break left;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(left.is_empty(), "still there: {left:#?}");
}
