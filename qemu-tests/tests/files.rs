//! Rack files and QEMU command lines, compared with what a person has read.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use cairn_lab::container::args as container;
use cairn_lab::qemu::args::{Accel, Direct, DiskArgs, Machine, NicArgs, build};
use cairn_lab::spec::{self, Boot, Bus, NicModel};
use cairn_lab::units::Bytes;
use proptest::prelude::*;

fn machine(boot: Boot) -> Machine {
    Machine {
        name: "node-a".to_owned(),
        serial: "LAB-A".to_owned(),
        uuid: "00000000-0000-8000-a000-000000000001".to_owned(),
        boot,
        accel: Accel::Tcg,
        cpus: 1,
        memory: Bytes::gib(1),
        screen: false,
        watchdog: true,
        clock: None,
        extra_cmdline: "no_timer_check".to_owned(),
        direct: None,
        nics: vec![NicArgs {
            model: NicModel::Virtio,
            mac: "52:54:00:ca:01:00".to_owned(),
            local: PathBuf::from("/media/q0-0"),
            remote: PathBuf::from("/media/s0-0"),
        }],
        disks: vec![DiskArgs {
            path: PathBuf::from("/elsewhere/disk0.img"),
            format: "raw",
            bus: Bus::VirtioBlk,
            serial: "node-a-disk0".to_owned(),
        }],
        stick: None,
        nvram: PathBuf::from("/elsewhere/vars.fd"),
        console: PathBuf::from("/serial/node-a.log"),
        qmp: PathBuf::from("/media/m0"),
    }
}

/// Compares with `tests/golden/<name>`; `CAIRN_BLESS=1` writes it instead.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, want, "{} differs; CAIRN_BLESS=1 accepts the new text", path.display());
}

#[test]
fn container_command_line() {
    let machine = container::Machine {
        name: "node-a".to_owned(),
        serial: "LAB-A".to_owned(),
        root: PathBuf::from("/work/initramfs"),
        cmdline: "console=ttyS0  cairn.rate=70000".to_owned(),
        cpus: 2,
        memory: Bytes::gib(1),
        disks: vec![container::Disk {
            path: PathBuf::from("/work/a:b"),
            size: Bytes::gib(20),
            serial: "node-a-disk0".to_owned(),
        }],
    };
    golden("container.args", &(container::build(&machine, Path::new("/proc/1/fd/7")).join("\n") + "\n"));
}

#[test]
fn a_container_has_no_hardware() {
    let node = |more: &str| {
        let text = format!("name = \"c\"\n[[node]]\nname = \"a\"\nboot = \"container\"\n{more}");
        spec::parse(&text, Path::new("c.toml")).map_err(|error| error.to_string())
    };
    assert!(!node("[[node.disk]]\nsize = \"1GiB\"").unwrap().has_machines());
    for (key, more) in [
        ("clock", "clock = \"2016-01-01T00:00:00\""),
        ("seed", "seed = \"seed.json\""),
        ("screen", "screen = true"),
        ("nic.model", "[[node.nic]]\nmodel = \"igb\""),
        ("disk.bus", "[[node.disk]]\nsize = \"1GiB\"\nbus = \"nvme\""),
    ] {
        let refused = node(more).unwrap_err();
        assert!(refused.ends_with(&format!("node a: a container has no {key}")), "{refused}");
    }
}

/// One option and its value per line.
fn lines(machine: &Machine) -> String {
    let mut out = String::new();
    for word in build(machine) {
        out.push_str(if word.starts_with('-') { "\n" } else { " " });
        out.push_str(&word);
    }
    format!("{}\n", out.trim_start())
}

#[test]
fn command_lines_are_as_read() {
    golden("bios-ipxe.args", &lines(&machine(Boot::BiosIpxe)));
    golden("uefi-pxe.args", &lines(&machine(Boot::UefiPxe)));
    golden("uefi-http.args", &lines(&machine(Boot::UefiHttp)));
    let mut usb = machine(Boot::Usb);
    usb.stick = Some(PathBuf::from("/elsewhere/a,b.img"));
    usb.accel = Accel::Kvm;
    golden("usb.args", &lines(&usb));
    let mut direct = machine(Boot::Direct);
    direct.direct = Some(Direct {
        kernel: PathBuf::from("/image/vmlinuz"),
        initrd: PathBuf::from("/image/initramfs.img"),
        cmdline: "console=ttyS0 no_timer_check".to_owned(),
    });
    direct.screen = true;
    direct.watchdog = false;
    direct.clock = Some("2016-01-01T00:00:00".to_owned());
    direct.cpus = 2;
    direct.nics.push(NicArgs {
        model: NicModel::Igb,
        mac: "52:54:00:ca:01:01".to_owned(),
        ..direct.nics[0].clone()
    });
    direct.disks.push(DiskArgs { bus: Bus::Nvme, ..direct.disks[0].clone() });
    direct.disks.push(DiskArgs { bus: Bus::Ahci, ..direct.disks[0].clone() });
    golden("direct.args", &lines(&direct));
}

fn problem(text: &str) -> String {
    spec::parse(text, Path::new("rack.toml")).unwrap_err().to_string()
}

#[test]
fn shipped_rack_files_are_good() {
    let racks = Path::new(env!("CARGO_MANIFEST_DIR")).join("racks");
    let mut count = 0;
    for entry in std::fs::read_dir(racks).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            spec::load(&path).unwrap();
            count += 1;
        }
    }
    assert!(count > 0);
}

/// The agent lives in an initramfs and in the memory of every node: 6 MB at most, and static.
#[test]
fn the_agent_is_small_and_static() {
    let agent = std::env::var_os("CAIRN_AGENT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu/agent/cairn-agent"),
        Into::into,
    );
    let bytes = std::fs::read(&agent).expect("the agent is built by `make agent`");
    assert!(bytes.len() <= 6_000_000, "{} bytes", bytes.len());
    cairn_image::elf::check_static(&bytes).unwrap();
}

#[test]
fn an_unknown_key_names_its_line() {
    let text = "name = \"r\"\n\n[[node]]\nname = \"a\"\nboot = \"usb\"\nmemroy = \"1GiB\"\n";
    let said = problem(text);
    assert!(said.contains("rack.toml, line 6") && said.contains("memroy"), "{said}");
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    let node = "[[node]]\nname = \"a\"\nboot = \"usb\"\n";
    let cases = [
        ("name = \"r\"\n", "1 to 64 nodes"),
        (&*format!("name = \"r/..\"\n{node}"), "rack name"),
        (&*format!("name = \"r\"\n{node}{node}"), "two nodes are called a"),
        (&*format!("name = \"r\"\n{node}memory = \"1GB\"\n"), "line 5"),
        (&*format!("name = \"r\"\n{node}serial = \"x,y\"\n"), "serial"),
        (&*format!("name = \"r\"\n{node}[[node.nic]]\nmac = \"52:54\"\n"), "no MAC address"),
        (&*format!("name = \"r\"\n[site]\nsubnet = \"10.0.0.1/24\"\n{node}"), "line 3"),
        (&*format!("name = \"r\"\n[[site.bundle]]\nrecipe = \"x\"\nurl = \"y\"\n{node}"), "line 4"),
        (
            &*format!("name = \"r\"\n[site]\nrelease = false\n[[site.bundle]]\nrecipe = \"x\"\n{node}"),
            "site.bundle needs",
        ),
        (&*format!("name = \"r\"\n{node}[[node.disk]]\nsize = \"1GiB\"\nserial = \"a b\"\n"), "disk serial"),
        ("name = \"r\"\n[[node]]\nname = \"a\"\nboot = \"floppy\"\n", "line 4"),
        ("name = [", "line 1"),
    ];
    for (text, want) in cases {
        let said = problem(text);
        assert!(said.contains(want), "{said}\nhas no {want:?} for\n{text}");
    }
}

#[test]
fn paths_are_relative_to_the_rack_file_and_gaps_are_filled() {
    let text = "name = \"r\"\n[site]\nplan = \"p.yaml\"\n[[node]]\nname = \"a\"\nboot = \"usb\"\n[[node.disk]]\nsize = \"1GiB\"\n";
    let rack = spec::parse(text, Path::new("racks/rack.toml")).unwrap();
    assert_eq!(rack.site.plan.as_deref(), Some(Path::new("racks/p.yaml")));
    assert_eq!(rack.nodes[0].serial(), "LAB-A");
    assert_eq!(rack.nodes[0].nics.len(), 1);
    assert_eq!(spec::mac(&rack, 0, 0), "52:54:00:ca:01:00");
    assert_eq!(spec::disk_serial(&rack.nodes[0], 0), "a-disk0");
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "(name|\\[\\[node\\]\\]|boot|=|\"|[a-z ]|\n){0,60}") {
        let _ = spec::parse(&text, Path::new("rack.toml"));
    }

    /// A path cannot smuggle in an option: commas are doubled.
    #[test]
    fn paths_stay_values(name in "[a-z,=]{1,20}") {
        let mut machine = machine(Boot::Direct);
        machine.disks[0].path = PathBuf::from(format!("/{name}"));
        let args = build(&machine);
        let drive = args.iter().find(|arg| arg.starts_with("if=none,id=disk0")).unwrap();
        let value = drive.split_once("file=").unwrap().1;
        prop_assert_eq!(value.replace(",,", ","), format!("/{name}"));
        prop_assert!(!value.replace(",,", "").contains(','));
    }
}
