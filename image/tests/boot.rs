//! Real boots of a real image in QEMU from the toolbox, each a way a machine may start: kernel given directly, UEFI from
//! the USB image, BIOS from a disk with the GRUB pieces. The static `cairn-print-init` stands in for the agent.
//!
//! Needs root (or `sudo -n`) as everything in the toolbox does.

#![allow(clippy::unwrap_used)]

#[path = "common/static_program.rs"]
mod static_program;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use cairn_image::build::{self, Options};
use cairn_image::debian::read_in_root;
use cairn_image::efi::uki;
use cairn_image::kernel::Flavour;
use cairn_image::toolbox::{Toolbox, Turn};
use cairn_image::{grub, sbom};

/// What `cairn-print-init` prints.
const UP: &str = "cairn-print-init: up";
/// Measured 3 to 7 s alone; the machine may be busy with a rack.
const LIMIT: &str = "120";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn print_init() -> PathBuf {
    static_program::build(&workspace(), "cairn-image", "cairn-print-init", &[])
}

struct Image {
    dir: tempfile::TempDir,
    toolbox: Toolbox,
    options: Options,
    built: build::Built,
}

/// Built once for all tests.
fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            flavour: Flavour::Generic,
            agent: print_init(),
            trust: None,
            out: dir.path().to_owned(),
            // QEMU's TCG now and then loses the timer check's race.
            cmdline: format!("{} no_timer_check", build::CMDLINE),
            version: Some("1.2.3".into()),
            firmware: vec![],
            modules: vec![],
            plain_modules: false,
            workspace: Some(workspace()),
        };
        let built = build::build(&options, &|line| eprintln!("{line}")).unwrap();
        Image { dir, toolbox: Toolbox::ensure(&|_| {}).unwrap(), options, built }
    })
}

/// Runs QEMU until it powers off by itself, and returns what came over the serial port.
fn boot(image: &Image, arguments: &[String]) -> String {
    let _turn = Turn::take().unwrap();
    let mut command = image.toolbox.enter().bind(image.dir.path()).die_with_parent().command("timeout");
    command.args([LIMIT, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512"]);
    command.args(["-display", "none", "-serial", "stdio", "-no-reboot", "-nic", "none"]).args(arguments);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n').map_while(Result::ok) {
        text.push_str(&String::from_utf8_lossy(&line));
        text.push('\n');
    }
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "QEMU: {status}\n{errors}\nserial:\n{text}");
    text
}

fn arguments(words: &str) -> Vec<String> {
    words.split_whitespace().map(ToOwned::to_owned).collect()
}

#[test]
fn kernel_and_initramfs_boot_directly() {
    let image = image();
    let dir = image.dir.path().display();
    let mut words = arguments(&format!("-kernel {dir}/vmlinuz -initrd {dir}/initramfs.img -append"));
    words.push(image.options.cmdline.clone());
    let serial = boot(image, &words);
    assert!(serial.contains(UP), "{serial}");
}

#[test]
fn the_usb_image_boots_under_uefi() {
    let image = image();
    let dir = image.dir.path().display();
    let firmware = "/usr/share/OVMF/OVMF_CODE_4M.fd";
    let vars = image.dir.path().join("usb-vars.fd");
    fs::write(&vars, read_in_root(&image.toolbox.root(), "/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap())
        .unwrap();
    let serial = boot(
        image,
        &arguments(&format!(
            "-machine q35 -drive if=pflash,format=raw,readonly=on,file={firmware} \
             -drive if=pflash,format=raw,file={} -device qemu-xhci -device usb-storage,drive=stick \
             -drive if=none,id=stick,format=raw,snapshot=on,file={dir}/cairn-usb.img",
            vars.display()
        )),
    );
    assert!(serial.contains(UP), "{serial}");
}

/// Writes the pieces as docs/image.md tells the agent to.
fn install_grub(pieces: &grub::Pieces, disk: &Path, bios_boot_lba: u64) {
    let file = fs::OpenOptions::new().write(true).open(disk).unwrap();
    let mut boot = pieces.boot.clone();
    boot[0x5c..0x64].copy_from_slice(&bios_boot_lba.to_le_bytes());
    boot[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    file.write_all_at(&boot[..440], 0).unwrap();
    let mut core = pieces.core.clone();
    core[0x1f4..0x1fc].copy_from_slice(&(bios_boot_lba + 1).to_le_bytes());
    let sectors = u16::from_le_bytes([core[0x1fc], core[0x1fd]]);
    assert!((usize::from(sectors) + 1) * 512 >= core.len() && usize::from(sectors) * 512 <= core.len());
    file.write_all_at(&core, bios_boot_lba * 512).unwrap();
}

/// Two disks: the first has a foreign `/cairn/grub.cfg` that must not be taken when the second one boots.
#[test]
fn grub_pieces_boot_a_disk_under_bios() {
    const LAYOUT: &str = r#"disk=$1; config=$2
truncate -s 80M "$disk"
sgdisk -n 1:2048:+70M -t 1:ef00 -n 2:0:+1M -t 2:ef02 "$disk" >&2
mkfs.vfat -F 32 --offset 2048 "$disk" 71680 >&2
mmd -i "$disk@@1M" ::/cairn ::/cairn/1.2.3
mcopy -i "$disk@@1M" "$config" ::/cairn/grub.cfg
mcopy -i "$disk@@1M" vmlinuz initramfs.img ::/cairn/1.2.3/
grub-editenv grubenv create
mcopy -i "$disk@@1M" grubenv ::/cairn/grubenv
sgdisk -i 2 "$disk" | sed -n 's/^First sector: \([0-9]*\).*/\1/p'"#;
    let image = image();
    let dir = image.dir.path();
    let config = format!(
        "load_env --file /cairn/grubenv\nset tried=yes\nsave_env --file /cairn/grubenv tried\n\
         linux /cairn/1.2.3/vmlinuz {}\ninitrd /cairn/1.2.3/initramfs.img\nboot\n",
        image.options.cmdline
    );
    fs::write(dir.join("right.cfg"), config).unwrap();
    fs::write(dir.join("wrong.cfg"), "echo \"wrong disk\"\nhalt\n").unwrap();
    let pieces = grub::pieces(&image.toolbox).unwrap();
    for name in ["wrong", "right"] {
        let mut command = image.toolbox.enter().bind(dir).cwd(dir).command("sh");
        command.args(["-euc", LAYOUT, "sh", &format!("{name}.img"), &format!("{name}.cfg")]);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let lba = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        install_grub(&pieces, &dir.join(format!("{name}.img")), lba);
    }
    let dir = dir.display();
    let serial = boot(
        image,
        &arguments(&format!(
            "-machine pc -drive if=none,id=a,format=raw,file={dir}/wrong.img -device virtio-blk-pci,drive=a \
             -drive if=none,id=b,format=raw,file={dir}/right.img -device virtio-blk-pci,drive=b,bootindex=1"
        )),
    );
    assert!(serial.contains(UP) && !serial.contains("wrong disk"), "{serial}");
    let mut command = image.toolbox.enter().bind(image.dir.path()).cwd(image.dir.path()).command("mtype");
    let out = command.args(["-i", "right.img@@1M", "::/cairn/grubenv"]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("tried=yes"), "GRUB wrote its environment");
}

#[test]
fn a_second_build_has_the_same_bytes() {
    let image = image();
    let again = tempfile::tempdir().unwrap();
    // The compressed archives come from the cache by the hash of their content; that the compressor repeats itself
    // is a unit test beside it.
    let options = Options { out: again.path().to_owned(), ..image.options.clone() };
    build::build(&options, &|line| eprintln!("{line}")).unwrap();
    for name in
        ["vmlinuz", "initramfs.img", "cairn.efi", "cairn-usb.img", "cmdline", "sbom.cdx.json", "sizes.json"]
    {
        let one = fs::read(image.dir.path().join(name)).unwrap();
        let two = fs::read(again.path().join(name)).unwrap();
        assert!(one == two, "{name} differs between two builds of the same inputs");
    }
}

#[test]
fn the_image_is_small_enough_and_says_what_it_is() {
    let image = image();
    let sizes = &image.built.sizes;
    // The agent may have 6 MB, which compress to less than half; print-init's share is not taken off.
    assert!(sizes.kernel_and_initramfs + 3_000_000 <= 25_000_000, "{sizes:?}");
    assert_eq!(image.built.absent_drivers, ["efifb", "simpledrm"]);
    let efi = fs::read(image.dir.path().join("cairn.efi")).unwrap();
    let sections = uki::sections(&efi).unwrap();
    let text = |name: &str| {
        let data = sections.iter().find(|(n, _)| n == name).unwrap().1;
        String::from_utf8(data.to_vec()).unwrap()
    };
    assert!(text(".osrel").contains("VERSION_ID=1.2.3\n"));
    assert_eq!(text(".cmdline"), image.options.cmdline);
    let sbom: serde_json::Value =
        serde_json::from_slice(&fs::read(image.dir.path().join("sbom.cdx.json")).unwrap()).unwrap();
    let names: Vec<&str> =
        sbom["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    for name in ["libc6", "e2fsprogs", "dosfstools", "grub-pc-bin", "systemd-boot-efi", "cairn-agent"] {
        assert!(names.contains(&name), "{name} is missing from the SBOM");
    }
    assert!(names.iter().any(|name| name.starts_with("linux-image-6.")), "{names:?}");
    assert!(!sbom::crates(&workspace(), "cairn-agent").unwrap().is_empty());
}
