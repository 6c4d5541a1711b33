//! Disks that must not be taken. A file stands for the disk; its partitions are loop devices, its file systems real.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_disk::layout::{MARK, MARK_AT};
use cairn_protocol::stage::Stage;

use crate::bench::{PLAN, Site, copy};
use crate::common::Node;

/// Bytes of a disk that is large enough: 256 MiB, 256 MiB, 1 GiB and what lies between.
const ENOUGH: u64 = 1700 << 20;

/// A node with disks; what it mounted is unmounted with it.
struct Racked {
    node: Node,
    disks: PathBuf,
}

impl Racked {
    /// Disks of these names, all of them blank and `bytes` long.
    fn new(site: &Site, names: &[&str], bytes: u64) -> Self {
        let node = site.node("S1");
        let disks = node.root.path().join("disks");
        fs::create_dir(&disks).unwrap();
        for name in names {
            File::create(disks.join(name)).unwrap().set_len(bytes).unwrap();
        }
        Self { node, disks }
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.disks.join(name)
    }

    fn start(&mut self) {
        let mut names: Vec<_> =
            fs::read_dir(&self.disks).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let disks = names.iter().flat_map(|disk| ["--disk", disk.to_str().unwrap()]);
        let args: Vec<&str> = ["--until", "verify"].into_iter().chain(disks).collect();
        self.node.start(&args);
    }

    /// The cause is gone: it goes on, onto the disk.
    fn goes_on(&self, site: &Site) {
        site.goes_on(&self.node);
        let state = fs::metadata(self.node.run("state")).unwrap();
        assert_ne!(state.dev(), fs::metadata(self.node.root.path()).unwrap().dev(), "STATE is mounted");
    }
}

impl Racked {
    /// Power off: the agent is gone, and nothing is mounted.
    fn off(&mut self) {
        self.node.kill();
        for name in ["esp", "data", "state"] {
            let path = self.node.run(name);
            let _ =
                Command::new("umount").arg("--quiet").arg(path).stderr(std::process::Stdio::null()).status();
        }
    }
}

impl Drop for Racked {
    fn drop(&mut self) {
        self.off();
    }
}

fn plan(selector: &str, more: &str) -> String {
    PLAN.replace("{transport: virtio}", selector).replace("esp-size", &format!("{more}esp-size"))
}

#[test]
fn a_disk_too_small() {
    let site = Site::new(PLAN);
    let mut racked = Racked::new(&site, &["a"], 1 << 30);
    racked.start();
    let line = site.refused(&racked.node, "n1", "disk-too-small");
    assert!(line.contains("disk a has 1GiB"), "{line}");
    File::options().write(true).open(racked.disk("a")).unwrap().set_len(ENOUGH).unwrap();
    racked.goes_on(&site);
}

#[test]
fn two_disks_that_match_where_one_is_wanted() {
    let site = Site::new(PLAN);
    let mut racked = Racked::new(&site, &["a", "b"], ENOUGH);
    racked.start();
    let line = site.refused(&racked.node, "n1", "disk-ambiguous");
    assert!(line.contains('a') && line.contains('b'), "{line}");
    site.controller.apply(&plan("{serial: b}", ""));
    racked.goes_on(&site);
    assert_eq!(fs::metadata(racked.disk("a")).unwrap().blocks(), 0, "the other disk is as it was");
}

#[test]
fn no_disk_that_matches() {
    let site = Site::new(&plan("{serial: c}", ""));
    let mut racked = Racked::new(&site, &["a"], ENOUGH);
    racked.start();
    site.refused(&racked.node, "n1", "disk-none");
    assert_eq!(fs::metadata(racked.disk("a")).unwrap().blocks(), 0, "the disk is as it was");
    site.controller.apply(&plan("{serial: a}", ""));
    racked.goes_on(&site);
}

fn same(one: &Path, other: &Path) -> bool {
    Command::new("cmp").arg("--silent").arg(one).arg(other).status().unwrap().success()
}

#[test]
fn foreign_data_on_the_disk() {
    let site = Site::new(PLAN);
    let mut racked = Racked::new(&site, &["a"], ENOUGH);
    let (disk, before) = (racked.disk("a"), racked.node.root.path().join("before"));
    let made = Command::new("mkfs.ext4").args(["-q", "-L", "payroll"]).arg(&disk).status().unwrap();
    assert!(made.success(), "mkfs.ext4");
    assert!(Command::new("cp").arg("--sparse=always").arg(&disk).arg(&before).status().unwrap().success());
    let stamp = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let written = stamp(&disk);
    racked.start();
    let line = site.refused(&racked.node, "n1", "disk-foreign");
    assert!(line.contains("ext4") && line.contains("wipe: true"), "{line}");
    // It tries again, and still writes nothing.
    racked.start();
    site.refused(&racked.node, "n1", "disk-foreign");
    assert!(same(&disk, &before), "the disk was written to");
    assert_eq!(stamp(&disk), written, "the disk was written to");
    site.controller.apply(&plan("{transport: virtio}", "wipe: true, "));
    racked.goes_on(&site);
    assert!(!same(&disk, &before));
}

/// A worker that dies between disk and end of the installation: the next one makes the disk ready again and goes on.
#[test]
fn an_unfinished_disk_is_taken_again() {
    let site = Site::new(PLAN);
    let mut racked = Racked::new(&site, &["a"], ENOUGH);
    racked.start();
    racked.node.wait_done(Stage::Disks);
    racked.start();
    racked.node.wait_done(Stage::Verify);
    site.installed(&racked.node, "good.erofs");
}

/// Marks the installation as finished, as `activate` does when the loaders are written; there are none for a hosted node.
fn finish(racked: &Racked, disk: &Path) {
    let record = cairn_disk::record::InstallRecord {
        version: 1,
        site: "s1".parse().unwrap(),
        node: "n1".parse().unwrap(),
        reinstall: 0,
        plan: cairn_protocol::plan::Plan::parse(PLAN).unwrap().disks.unwrap(),
    };
    cairn_disk::record::write(&racked.node.run("state"), &record).unwrap();
    let disk = File::options().write(true).open(disk).unwrap();
    disk.write_all_at(&[0; MARK.len()], MARK_AT).unwrap();
}

/// A disk that is made anew takes the newest release metadata over: what was withdrawn before stays withdrawn.
#[test]
fn an_older_release_after_a_reinstall() {
    let site = Site::new(PLAN);
    let (metadata, before) = (site.repo().join("metadata"), site.made.join("before"));
    copy(&metadata, &before);
    site.refresh_and_publish();
    let mut racked = Racked::new(&site, &["a"], ENOUGH);
    racked.start();
    racked.node.wait_done(Stage::Verify);
    racked.node.kill();
    finish(&racked, &racked.disk("a"));
    racked.off();
    site.controller.cairnctl(&["node", "reinstall", "s1", "n1", "--yes"]);
    copy(&before, &metadata);
    racked.start();
    racked.node.wait_for("a disk made anew", |line| line.to_string().contains("the disk is made anew"));
    site.refused(&racked.node, "n1", "metadata-rollback");
    copy(&site.made.join("R/metadata"), &metadata);
    racked.goes_on(&site);
}
