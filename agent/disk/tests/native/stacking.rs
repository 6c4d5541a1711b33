//! Roots put together from real erofs images, twice in a row: what outlives a boot and what does not.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cairn_disk::mounts;
use cairn_disk::root::{self, RootPlan};
use cairn_sys::loops;
use nix::mount::{MsFlags, mount};

use super::Room;

/// An erofs image of `files` (a trailing slash makes a directory), mounted read-only.
fn layer(room: &Room, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let (tree, image, at) =
        (room.path(&format!("{name}.d")), room.path(&format!("{name}.erofs")), room.path(name));
    for (path, text) in files {
        let path = tree.join(path);
        fs::create_dir_all(if text.is_empty() { &path } else { path.parent().unwrap() }).unwrap();
        if !text.is_empty() {
            fs::write(&path, text).unwrap();
        }
    }
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
    room.toolbox(&["mkfs.erofs", "-x-1", image.to_str().unwrap(), tree.to_str().unwrap()]);
    let options = loops::Options { read_only: true, ..loops::Options::default() };
    let device = loops::attach(&fs::File::open(&image).unwrap(), &image, &options).unwrap();
    fs::create_dir(&at).unwrap();
    mount(Some(device.path()), &at, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    at
}

const BASE: &[(&str, &str)] = &[
    ("dev", ""),
    ("proc", ""),
    ("run", ""),
    ("sys", ""),
    ("tmp", ""),
    ("etc/os-release", "ID=debian\n"),
    ("etc/machine-id", "uninitialized\n"),
    ("etc/ssh/config", "layer\n"),
    ("var/lib/systemd", ""),
    ("var/log/README", "layer\n"),
    ("usr/bin/base", "base\n"),
];

fn plan(room: &Room, layers: Vec<PathBuf>, stack: &str) -> RootPlan {
    let (state, data) = (room.path("state"), room.path("data"));
    for dir in [&state, &data] {
        fs::create_dir_all(dir).unwrap();
    }
    RootPlan {
        at: room.path("newroot"),
        scratch: room.path("scratch-etc"),
        layers,
        stack: stack.to_owned(),
        state,
        data,
        persist_etc: vec!["ssh".to_owned(), "kubernetes/pki".to_owned()],
        hostname: Some("n1".to_owned()),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_root_of_one_layer_and_what_outlives_it() {
    let Some(room) = Room::enter() else { return };
    let plan = plan(&room, vec![layer(&room, "base", BASE)], "s1");
    let new = root::prepare(&plan).unwrap();
    let at = |path: &str| new.path.join(path);
    // A second try starts over, as after a crash in the middle.
    fs::write(at("etc/rendered"), b"x").unwrap();
    root::prepare(&plan).unwrap();
    assert!(!at("etc/rendered").exists());
    // Read-only but for the places that are not.
    assert!(fs::write(at("usr/bin/new"), b"").is_err());
    assert_eq!(read(&at("etc/os-release")), "ID=debian\n");
    assert_eq!(read(&at("etc/hostname")), "n1\n");
    let id = read(&at("etc/machine-id"));
    assert_eq!((id.len(), id.clone()), (33, read(&room.path("state/machine-id"))));
    assert_eq!(fs::metadata(at("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(read(&at("var/log/README")), "layer\n");
    // One boot's work.
    fs::write(at("etc/rendered"), b"x").unwrap();
    fs::write(at("etc/ssh/hostkey"), b"key").unwrap();
    fs::write(at("etc/ssh/config"), b"own").unwrap();
    fs::write(at("etc/kubernetes/pki/ca"), b"ca").unwrap();
    fs::write(at("var/lib/systemd/seed"), b"seed").unwrap();
    fs::remove_file(at("var/log/README")).unwrap();
    root::dismantle(&plan).unwrap();
    assert!(!mounts::is_mount_point(&plan.at));
    // The next.
    root::prepare(&plan).unwrap();
    assert!(!at("etc/rendered").exists());
    assert_eq!(
        (read(&at("etc/ssh/hostkey")), read(&at("etc/ssh/config"))),
        ("key".to_owned(), "own".to_owned())
    );
    assert_eq!(read(&at("etc/kubernetes/pki/ca")), "ca");
    assert_eq!(read(&at("var/lib/systemd/seed")), "seed");
    assert!(!at("var/log/README").exists(), "what a service removed came back");
    assert_eq!(read(&at("etc/machine-id")), id);
    root::dismantle(&plan).unwrap();
}

#[test]
fn layers_on_top_add_and_replace() {
    let Some(room) = Room::enter() else { return };
    let base = layer(&room, "base", BASE);
    let top = layer(
        &room,
        "kubernetes",
        &[("usr/bin/kubelet", "k\n"), ("etc/ssh/config", "top\n"), ("var/lib/kubelet", "")],
    );
    let first = plan(&room, vec![base.clone()], "s1");
    root::prepare(&first).unwrap();
    fs::write(first.at.join("var/lib/own"), b"own").unwrap();
    root::dismantle(&first).unwrap();
    let both = plan(&room, vec![base, top], "s2");
    let new = root::prepare(&both).unwrap();
    let at = |path: &str| new.path.join(path);
    assert_eq!(
        (read(&at("usr/bin/base")), read(&at("usr/bin/kubelet"))),
        ("base\n".to_owned(), "k\n".to_owned())
    );
    assert!(fs::write(at("usr/bin/new"), b"").is_err());
    // The disk had it from before; the new layer's other pieces came.
    assert_eq!(read(&at("etc/ssh/config")), "layer\n");
    assert!(at("var/lib/kubelet").is_dir());
    assert_eq!(read(&at("var/lib/own")), "own");
    fs::write(at("etc/rendered"), b"x").unwrap();
    root::dismantle(&both).unwrap();
}

#[test]
fn what_is_no_root_is_refused() {
    let Some(room) = Room::enter() else { return };
    let odd = plan(&room, vec![layer(&room, "odd", &[("usr/bin/x", "x\n")])], "s1");
    assert!(root::prepare(&odd).unwrap_err().to_string().contains("does not have it"));
    root::dismantle(&odd).unwrap();
    assert!(root::prepare(&RootPlan { layers: Vec::new(), ..odd.clone() }).is_err());
    assert!(root::prepare(&RootPlan { stack: "../x".to_owned(), ..odd }).is_err());
}
