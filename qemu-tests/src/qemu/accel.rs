//! Whether KVM works here, found out by booting a kernel with it.
//!
//! `/dev/kvm` may exist and still refuse. It may also run a boot sector and then fail on the first instruction that its
//! emulator does not know, as software-only nested virtualisation does. So the proof is what the lab wants to do: a kernel,
//! through firmware and decompression, until it finds that it has no root file system, panics and resets.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cairn_image::toolbox::Toolbox;

use super::args::Accel;

/// What a kernel says when it came all the way and has nothing to run.
const PROOF: &str = "Kernel panic";
/// A kernel gets there in two seconds with KVM and in four without. A broken KVM hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// What QEMU says when KVM gave up on a guest, which then stands still.
const GAVE_UP: &str = "KVM internal error";

/// Tries KVM with the kernel that is to be booted; `scratch` is an existing folder for its log. Anything but success means TCG.
#[must_use]
pub fn probe(toolbox: &Toolbox, kernel: &Path, scratch: &Path) -> Accel {
    let kvm = Path::new("/dev/kvm").exists() && kernel.exists();
    if kvm && boots(toolbox, kernel, scratch, "kvm", "host") { Accel::Kvm } else { Accel::Tcg }
}

/// Whether a kernel boots under this accelerator.
#[must_use]
pub fn boots(toolbox: &Toolbox, kernel: &Path, scratch: &Path, accel: &str, cpu: &str) -> bool {
    let (said, errors) = (scratch.join("probe.console"), scratch.join("probe.stderr"));
    let Ok(stderr) = File::create(&errors) else { return false };
    let mut command =
        toolbox.enter().bind(scratch).bind_ro(kernel).die_with_parent().command("qemu-system-x86_64");
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
        .args(["-m", "256M", "-no-reboot", "-append", "console=ttyS0 panic=-1 no_timer_check", "-kernel"])
        .arg(kernel)
        .args(["-serial", &format!("file:{}", said.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let ended = ends(command, || std::fs::read_to_string(&errors).is_ok_and(|text| text.contains(GAVE_UP)));
    let console = std::fs::read(&said).unwrap_or_default();
    ended && String::from_utf8_lossy(&console).contains(PROOF)
}

/// Whether the guest ends by itself in time, and not because it was given up.
fn ends(mut command: Command, gave_up: impl Fn() -> bool) -> bool {
    let Ok(mut child) = command.spawn() else { return false };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline && !gave_up() => {
                std::thread::sleep(Duration::from_millis(20))
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}
