//! Whether KVM works here, found out by running a guest with it.
//!
//! `/dev/kvm` may exist and still refuse, or start and never run an instruction (nested virtualisation that is switched off, or
//! broken). So a boot sector is run that writes one byte to QEMU's exit port: only a guest that executed says so.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cairn_image::toolbox::Toolbox;

use super::args::Accel;

/// `mov al, 0x10; mov dx, 0xf4; out dx, al; hlt; jmp $-1`
const CODE: [u8; 9] = [0xb0, 0x10, 0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd];
/// isa-debug-exit ends QEMU with (value << 1) | 1.
const RAN: i32 = 0x21;
/// `SeaBIOS` reaches the boot sector in about a second with KVM. A broken one hangs.
const PATIENCE: Duration = Duration::from_secs(8);

/// The boot sector.
#[must_use]
pub fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Tries KVM with a real guest; `scratch` is an existing folder for its boot sector. Anything but success means TCG.
#[must_use]
pub fn probe(toolbox: &Toolbox, scratch: &Path) -> Accel {
    if Path::new("/dev/kvm").exists() && runs(toolbox, scratch, "kvm", "host") {
        Accel::Kvm
    } else {
        Accel::Tcg
    }
}

/// Whether a guest runs under this accelerator.
#[must_use]
pub fn runs(toolbox: &Toolbox, scratch: &Path, accel: &str, cpu: &str) -> bool {
    let disk = scratch.join("kvm-probe.img");
    if std::fs::write(&disk, boot_sector()).is_err() {
        return false;
    }
    let mut command = toolbox.enter().bind(scratch).die_with_parent().command("qemu-system-x86_64");
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "q35",
            "-accel",
            accel,
            "-cpu",
            cpu,
        ])
        .args(["-m", "64M", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-drive", &format!("format=raw,readonly=on,if=none,id=d,file={}", disk.display())])
        .args(["-device", "virtio-blk-pci,drive=d,bootindex=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code() == Some(RAN),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}
