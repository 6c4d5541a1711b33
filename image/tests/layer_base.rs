//! The base layer, built for real.
#![allow(clippy::unwrap_used)]

use cairn_image::layer::{self, Options, lock, recipe};
use cairn_image::toolbox::Toolbox;

fn say(line: &str) {
    eprintln!("{line}");
}

fn base() -> (recipe::Recipe, Option<lock::Lock>) {
    let recipe = recipe::parse(include_str!("../recipes/base.toml")).unwrap();
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/base.lock"));
    (recipe, lock.ok().map(|text| lock::parse(&text).unwrap()))
}

/// Two builds from nothing but the cached packages: two minutes, so not with every `cargo test`.
#[test]
#[ignore = "builds a whole Debian root twice; run by `make soak`"]
fn the_base_layer_is_the_same_bytes_twice() {
    let toolbox = Toolbox::ensure(&say).unwrap();
    let (recipe, lock) = base();
    let dir = tempfile::tempdir().unwrap();
    let images: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let fresh = dir.path().join(name);
            std::fs::create_dir(&fresh).unwrap();
            let options = Options { lock: lock.clone(), fresh: Some(fresh), ..Options::default() };
            layer::build(&toolbox, &recipe, &options, &say).unwrap().image
        })
        .collect();
    let (one, two) = (std::fs::read(&images[0]).unwrap(), std::fs::read(&images[1]).unwrap());
    assert!(one.len() > 20_000_000 && one.len() < 180_000_000, "{} bytes", one.len());
    assert!(one == two, "first difference at byte {:?}", one.iter().zip(&two).position(|(a, b)| a != b));
}

/// What the agent relies on when it hands over.
#[test]
#[ignore = "builds a whole Debian root; run by `make soak`"]
fn the_base_layer_has_what_the_agent_needs() {
    let toolbox = Toolbox::ensure(&say).unwrap();
    let (recipe, lock) = base();
    let built = layer::build(&toolbox, &recipe, &Options { lock, ..Options::default() }, &say).unwrap();
    assert!(built.length < 180_000_000, "{} bytes", built.length);

    let dir = tempfile::tempdir().unwrap();
    let mut fsck = toolbox.enter().bind(dir.path()).bind_ro(&built.image).command("fsck.erofs");
    let root = dir.path().join("root");
    let output = fsck.arg(format!("--extract={}", root.display())).arg(&built.image).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let read =
        |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let link = |path: &str| std::fs::read_link(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    for mount_point in ["run", "proc", "sys", "dev", "tmp", "var/log/journal", "etc", "boot/efi", "efi"] {
        assert!(root.join(mount_point).is_dir(), "{mount_point}");
    }
    for program in [
        "usr/lib/systemd/systemd",
        "usr/sbin/init",
        "usr/bin/udevadm",
        "usr/sbin/ip",
        "usr/sbin/mke2fs",
        "usr/sbin/mkfs.fat",
    ] {
        assert!(std::fs::symlink_metadata(root.join(program)).is_ok(), "{program}");
    }
    assert_eq!(read("etc/machine-id"), "");
    assert_eq!(link("etc/resolv.conf").to_str(), Some("/run/cairn/resolv.conf"));
    assert_eq!(
        link("etc/systemd/system/default.target").to_str(),
        Some("/usr/lib/systemd/system/multi-user.target")
    );
    assert_eq!(link("var/lib/dpkg").to_str(), Some("../../usr/lib/sysimage/dpkg"));
    for masked in
        ["getty@.service", "serial-getty@.service", "systemd-networkd.service", "systemd-timesyncd.service"]
    {
        assert_eq!(link(&format!("etc/systemd/system/{masked}")).to_str(), Some("/dev/null"), "{masked}");
    }
    assert!(read("etc/passwd").lines().any(|line| line.starts_with("root:*:")), "root's password is locked");
    let absent = [
        "etc/hostname",
        "etc/apt",
        "usr/sbin/sshd",
        "usr/bin/python3",
        "usr/share/man/man1",
        "var/lib/systemd/random-seed",
    ];
    for path in absent {
        assert!(std::fs::symlink_metadata(root.join(path)).is_err(), "{path}");
    }
    assert_eq!(std::fs::read_dir(root.join("var/cache")).unwrap().count(), 0);
    assert!(
        std::fs::read_dir(root.join("boot")).unwrap().all(|e| e.unwrap().file_name() == "efi"),
        "no kernel"
    );
    for kernel in &built.kernels {
        let dep = read(&format!("usr/lib/modules/{kernel}/modules.dep"));
        for module in [
            "erofs",
            "overlay",
            "dm-verity",
            "vxlan",
            "openvswitch",
            "bonding",
            "8021q",
            "nf_tables",
            "kvm-intel",
            "xfs",
            "virtio_net",
        ] {
            assert!(dep.lines().any(|line| line.contains(&format!("/{module}.ko"))), "{module}");
        }
    }
}
