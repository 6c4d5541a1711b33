//! A machine in QEMU from the toolbox: a disk is made, a verity layer is read and damaged, and the disk is booted by
//! UEFI firmware through systemd-boot and by a BIOS through GRUB, each counting a failing version's tries down and falling
//! back. `init.rs` is what runs inside.
#![allow(clippy::unwrap_used)]

#[path = "../../../../image/tests/common/static_program.rs"]
mod static_program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cairn_bundle::verity::{BLOCK_BYTES, TreeBuilder, tree_bytes};
use cairn_image::build::{self, Options};
use cairn_image::debian::read_in_root;
use cairn_image::kernel::Flavour;
use cairn_image::toolbox::{Toolbox, Turn};

/// Seconds for one power-on, up to three boots: 40 to 60 s alone under TCG.
const LIMIT: &str = "600";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn vm_init() -> PathBuf {
    static_program::build(&workspace(), "cairn-disk", "cairn-vm-init", &["vm-test"])
}

struct Machine {
    dir: tempfile::TempDir,
    toolbox: Toolbox,
}

impl Machine {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, command: &[&str]) {
        let output = self
            .toolbox
            .enter()
            .bind(self.dir.path())
            .command(command[0])
            .args(&command[1..])
            .output()
            .unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs until the machine powers itself off; what came over the serial port.
    fn boot(&self, arguments: &str, append: Option<&str>) -> String {
        let _turn = Turn::take().unwrap();
        let (system, payload) = (self.path("system.img"), self.path("payload.erofs"));
        let mut command = self.toolbox.enter().bind(self.dir.path()).die_with_parent().command("timeout");
        command.args([
            LIMIT,
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "512",
            "-nic",
            "none",
        ]);
        command.args(["-display", "none", "-serial", "stdio"]).args(arguments.split_whitespace());
        command.args([
            "-drive",
            &format!("if=none,id=system,format=raw,cache=unsafe,file={system}"),
            "-device",
            "virtio-blk-pci,drive=system,serial=SYSTEM,bootindex=1",
            "-drive",
            &format!("if=none,id=payload,format=raw,readonly=on,file={payload}"),
            "-device",
            "virtio-blk-pci,drive=payload,serial=PAYLOAD",
        ]);
        if let Some(append) = append {
            command.args(["-append", append]);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let serial = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in serial.lines().filter(|line| line.contains("vm: ")) {
            eprintln!("{line}");
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !serial.contains("vm: FAILED"),
            "{}\n{errors}\n{serial}",
            output.status
        );
        serial
    }
}

/// The versions that were started, in order.
fn started(serial: &str) -> Vec<&str> {
    serial
        .lines()
        .filter_map(|line| line.trim_end().split_once("vm: started "))
        .map(|(_, version)| version)
        .collect()
}

/// A root with this program as its init, its tree, and a description of both.
fn make_layer(machine: &Machine, init: &Path) {
    let root = machine.dir.path().join("layer");
    for dir in ["dev", "etc", "proc", "run", "sys", "tmp", "var/lib", "usr/share", "sbin"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy(init, root.join("sbin/init")).unwrap();
    // Bytes that occur nowhere else, so that their block can be found in the image.
    let bytes: Vec<u8> = (0_u32..1 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(root.join("usr/share/file"), &bytes).unwrap();
    machine.run(&["mkfs.erofs", "-x-1", &machine.path("payload/base.erofs"), root.to_str().unwrap()]);
    let mut image = fs::read(machine.path("payload/base.erofs")).unwrap();
    image.resize(image.len().next_multiple_of(BLOCK_BYTES), 0);
    fs::write(machine.path("payload/base.erofs"), &image).unwrap();
    let needle = &bytes[512 << 10..(512 << 10) + 64];
    let block = image.chunks_exact(BLOCK_BYTES).position(|block| block.starts_with(needle)).unwrap();
    let blocks = (image.len() / BLOCK_BYTES) as u64;
    let mut tree = vec![0; tree_bytes(blocks) as usize];
    let mut builder = TreeBuilder::new(blocks, &[0xab; 32]).unwrap();
    let mut emit = |at: u64, block: &[u8; BLOCK_BYTES]| {
        tree[at as usize..at as usize + BLOCK_BYTES].copy_from_slice(block);
        Ok(())
    };
    for block in image.chunks_exact(BLOCK_BYTES) {
        builder.push(block.try_into().unwrap(), &mut emit).unwrap();
    }
    let hash = builder.finish(&mut emit).unwrap();
    fs::write(machine.path("payload/base.verity"), &tree).unwrap();
    fs::write(machine.path("payload/layer.txt"), format!("{hash} {} {blocks} {block}\n", "ab".repeat(32)))
        .unwrap();
}

fn machine() -> Machine {
    Machine { dir: tempfile::tempdir().unwrap(), toolbox: Toolbox::ensure(&|_| {}).unwrap() }
}

const CMDLINE: &str = "console=ttyS0,115200 panic=-1 loglevel=4 no_timer_check";

fn image(machine: &Machine, init: &Path, flavour: Flavour, version: &str) -> PathBuf {
    let options = Options {
        flavour,
        agent: init.to_owned(),
        trust: None,
        out: machine.dir.path().join(version),
        cmdline: format!("{CMDLINE} vm.version={version}"),
        version: Some(version.into()),
        firmware: vec![],
        modules: vec![],
        plain_modules: false,
        workspace: Some(workspace()),
    };
    build::build(&options, &|line| eprintln!("{line}")).unwrap();
    options.out
}

fn make() -> Machine {
    let machine = machine();
    let init = vm_init();
    fs::create_dir(machine.path("payload")).unwrap();
    for version in ["1.0", "2.0"] {
        let out = image(&machine, &init, Flavour::Cloud, version);
        fs::copy(out.join("cairn.efi"), machine.path(&format!("payload/{version}.efi"))).unwrap();
    }
    make_layer(&machine, &init);
    machine.run(&["mkfs.erofs", &machine.path("payload.erofs"), &machine.path("payload")]);
    fs::File::create(machine.path("system.img")).unwrap().set_len(3 << 30).unwrap();
    machine
}

#[test]
fn a_disk_is_made_damaged_booted_and_falls_back() {
    let machine = make();
    let direct = format!(
        "-machine q35 -kernel {} -initrd {}",
        machine.path("1.0/vmlinuz"),
        machine.path("1.0/initramfs.img")
    );
    let serial = machine.boot(&direct, Some(CMDLINE));
    for expected in [
        "vm: verity reads",
        "vm: a flipped byte is EIO",
        "vm: layer base is damaged: block 0 ",
        "vm: installed",
    ] {
        assert!(serial.contains(expected), "{expected} is missing:\n{serial}");
    }

    let vars = read_in_root(&machine.toolbox.root(), "/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap();
    fs::write(machine.path("vars.fd"), vars).unwrap();
    let uefi = format!(
        "-machine q35 -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd -drive if=pflash,format=raw,file={}",
        machine.path("vars.fd")
    );
    for (firmware, boots) in [(uefi.as_str(), 1), ("-machine pc", 2)] {
        let serial = machine.boot(firmware, None);
        assert_eq!(started(&serial), ["2.0", "2.0", "1.0"], "{firmware}:\n{serial}");
        assert!(serial.contains("vm: 1.0 has None") && serial.contains("vm: 2.0 has Some(0)"), "{serial}");
        let second = format!("vm: second stage, boot {boots} of this disk, modules gone: true");
        assert!(serial.contains(&second), "{serial}");
    }
    // A grubenv that cannot be read: GRUB starts what it finds.
    let esp = format!("{}@@2M", machine.path("system.img"));
    fs::write(machine.path("zeros"), [0; 1024]).unwrap();
    machine.run(&["mcopy", "-o", "-i", &esp, &machine.path("zeros"), "::/cairn/grubenv"]);
    let serial = machine.boot("-machine pc", None);
    assert_eq!(started(&serial), ["1.0"], "{serial}");
    assert!(serial.contains("vm: second stage, boot 3 of this disk"), "{serial}");
}

#[test]
fn disks_on_every_bus_are_told_apart() {
    let machine = machine();
    image(&machine, &vm_init(), Flavour::Generic, "disks");
    let mut arguments = format!(
        "-machine q35 -kernel {} -initrd {} -device virtio-scsi-pci -device qemu-xhci",
        machine.path("disks/vmlinuz"),
        machine.path("disks/initramfs.img")
    );
    // serial, device, what is said of it
    let buses = [
        ("BLK", "virtio-blk-pci,logical_block_size=4096,physical_block_size=4096", "virtio [] pci-"),
        ("NVME", "nvme", "nvme [QEMU NVMe Ctrl] pci-"),
        ("SATA", "ide-hd,bus=ide.2", "sata [QEMU HARDDISK] pci-0000:00:1f.2-ata-3 "),
        ("SCSI", "scsi-hd,wwn=0x5000c500a1b2c3d4", "scsi [QEMU QEMU HARDDISK] pci-"),
        ("USB", "usb-storage,removable=on", "usb [QEMU QEMU HARDDISK] pci-"),
    ];
    for (serial, device, _) in buses {
        let path = machine.path(serial);
        fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
        arguments += &format!(
            " -drive if=none,id={serial},format=raw,file={path} -device {device},drive={serial},serial={serial}"
        );
    }
    // The two that every machine here has, and these.
    fs::File::create(machine.path("system.img")).unwrap().set_len(64 << 20).unwrap();
    fs::File::create(machine.path("payload.erofs")).unwrap().set_len(64 << 20).unwrap();
    let append = format!("{CMDLINE} vm.version=disks vm.disks={}", buses.len() + 2);
    let serial = machine.boot(&arguments, Some(&append));
    for (name, _, expected) in buses {
        assert!(serial.contains(&format!("vm: disk {name} {expected}")), "{name}:\n{serial}");
        assert!(serial.contains(&format!("vm: disk {name} Empty")), "{name}:\n{serial}");
    }
    assert!(serial.contains(" 67108864 4096 false"), "{serial}");
    assert!(serial.contains(" 67108864 512 true"), "{serial}");
    assert!(serial.contains("vm: disk SCSI Empty naa.5000c500a1b2c3d4"), "{serial}");
}
