//! `devices`: kernel modules for the hardware that is there; disks looked through for a state partition.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_protocol::stage::Stage;

use crate::clock;
use crate::engine::Outcome;
use crate::kmod::ahci;
use crate::kmod::load::Modules;
use crate::kmod::urgency::Urgency;
use crate::worker::context::Context;

/// The devices count as settled when nothing new appeared for this long. A virtio disk needs 10 ms after its driver, a
/// SATA link 100 ms; what is slower (a RAID controller, a USB stick) is waited for by its own rule below.
const QUIET: Duration = Duration::from_millis(300);
/// The longest wait for slow devices: USB's own settling delay is 1 s, a RAID controller's scan some seconds. A disk
/// that comes later still is found: the `disks` stage looks again.
const LONGEST: Duration = Duration::from_secs(10);
/// How often events are looked for meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    if context.options.hosted {
        return Outcome::Done;
    }
    if let Some(container) = &context.container {
        let (nics, disks) = (crate::container::nics(Path::new("/sys")).len(), container.disks.len());
        context
            .console
            .note(Stage::Devices, format!("a container, {nics} network interfaces, {disks} disks"));
        return super::installed::find(context).await;
    }
    let Some(modules) = context.modules.as_mut() else { return Outcome::Done };
    // The socket first, the walk second: whatever appears in between is seen by one of them.
    let events = cairn_sys::uevent::Socket::open();
    let (mut loaded, mut troubles) = walk(modules);
    let begun = clock::since_boot();
    let mut last_new = begun;
    if let Ok(events) = &events {
        loop {
            let mut fresh = false;
            while let Ok(Some(event)) = events.next() {
                fresh |= event.action == "add";
                if let Some(modalias) = event.variables.get("MODALIAS").filter(|_| event.action == "add") {
                    let (count, more) = modules.request_if_urgent(modalias);
                    loaded += count;
                    troubles.extend(more);
                }
            }
            let now = clock::since_boot();
            if fresh {
                last_new = now;
            }
            let quiet = now.saturating_sub(last_new) >= QUIET;
            if (quiet && !storage_is_scanning()) || now.saturating_sub(begun) >= LONGEST {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    tell(context, &troubles);
    if !has_randomness() {
        catch_up(context, &[Urgency::Random]);
    }
    let (nics, disks) = (physical_nics().len(), disks().len());
    context
        .console
        .note(Stage::Devices, format!("{loaded} modules loaded, {nics} network interfaces, {disks} disks"));
    context.disks_seen = disks > 0;
    if disks == 0 {
        return Outcome::Done;
    }
    catch_up(context, &[Urgency::Disk]);
    super::installed::find(context).await
}

/// Whether there are disks now where none was when an installation was looked for: a driver that could wait found them,
/// or they were slow. What is installed on them, and whose key they hold, is to be found out before anything else.
pub(crate) fn disks_came_late(context: &Context) -> bool {
    !context.options.hosted && !context.disks_seen && context.disk.is_none() && !disks().is_empty()
}

/// Whether the kernel has randomness: since Linux 5.6 `/dev/random` waits for that alone (random(4)).
fn has_randomness() -> bool {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open("/dev/random");
    file.and_then(|mut file| file.read_exact(&mut [0])).is_ok()
}

/// The longest chain of devices that appear because another one's driver was loaded: bridge, bus, device, its parts.
const CHAIN: usize = 4;

/// Loads the drivers that could wait, and those of what appears by them.
pub(crate) fn rest(context: &mut Context) {
    for _ in 0..CHAIN {
        if !context.modules.as_ref().is_some_and(Modules::has_waiting) {
            return;
        }
        catch_up(context, &[Urgency::Random, Urgency::Disk, Urgency::Watch, Urgency::Rest]);
        if let Some(modules) = &mut context.modules {
            let (_, troubles) = walk(modules);
            tell(context, &troubles);
        }
    }
}

/// Loads the drivers of watchdogs. Where none comes of it the watchdog may hang on a bridge or a management
/// controller: then everything is loaded, so that the machine is guarded before the first answer from outside is needed.
pub(super) fn watch(context: &mut Context) {
    catch_up(context, &[Urgency::Watch]);
    let guarded = fs::read_dir("/sys/class/watchdog").is_ok_and(|mut list| list.next().is_some());
    if !guarded && !context.cmdline.watchdog_off {
        rest(context);
    }
}

fn catch_up(context: &mut Context, which: &[Urgency]) {
    if let Some(modules) = &mut context.modules {
        let (_, troubles) = modules.catch_up(which);
        tell(context, &troubles);
    }
}

fn tell(context: &Context, troubles: &[String]) {
    for trouble in troubles.iter().take(8) {
        context.console.note(Stage::Devices, trouble.clone());
    }
}

/// Requests a module for every urgent device that sysfs shows, and notes the others.
fn walk(modules: &mut Modules) -> (usize, Vec<String>) {
    let (mut loaded, mut troubles) = (0, Vec::new());
    for (modalias, devices) in modaliases(Path::new("/sys/bus")) {
        if ahci::is_ahci(&modalias) && devices.iter().all(|device| ahci::is_empty(device)) {
            modules.put_off(&modalias);
            continue;
        }
        let (count, more) = modules.request_if_urgent(&modalias);
        loaded += count;
        troubles.extend(more);
    }
    (loaded, troubles)
}

/// Every modalias below `buses` (`/sys/bus`), with the devices that have it.
fn modaliases(buses: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = BTreeMap::<String, Vec<PathBuf>>::new();
    for device in list(buses).flat_map(|bus| list(&bus.join("devices")).collect::<Vec<_>>()) {
        let Ok(text) = fs::read_to_string(device.join("modalias")) else { continue };
        let modalias = text.trim();
        if !modalias.is_empty() {
            found.entry(modalias.to_owned()).or_default().push(device);
        }
    }
    found
}

/// Whether a driver that was bound still looks for its disks: SCSI hosts and NVMe controllers without any.
fn storage_is_scanning() -> bool {
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let nvme = names("/sys/class/nvme").iter().any(|controller| {
        let state = fs::read_to_string(format!("/sys/class/nvme/{controller}/state"));
        state.is_ok_and(|state| ["new", "connecting", "resetting"].contains(&state.trim()))
    });
    // USB storage waits a second (delay_use) before it looks at a stick.
    let usb = names("/sys/bus/usb/drivers/usb-storage").iter().chain(&names("/sys/bus/usb/drivers/uas")).any(
        |name| {
            name.contains(':')
                && !fs::read_dir(format!("/sys/bus/usb/devices/{name}"))
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter(|entry| entry.file_name().to_string_lossy().starts_with("host"))
                    .any(|host| has_target(&host.path()))
        },
    );
    nvme || usb
}

/// Whether a SCSI host has a target with a block device.
fn has_target(host: &Path) -> bool {
    let entries = fs::read_dir(host).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        entry.file_name().to_string_lossy().starts_with("target")
            && fs::read_dir(&path)
                .into_iter()
                .flatten()
                .flatten()
                .any(|lun| fs::read_dir(lun.path().join("block")).is_ok_and(|mut list| list.next().is_some()))
    })
}

/// Network interfaces with a device behind them.
fn physical_nics() -> Vec<String> {
    with_device("/sys/class/net")
}

/// Whole disks with a device behind them.
fn disks() -> Vec<String> {
    with_device("/sys/class/block").into_iter().filter(|name| !name.starts_with("sr")).collect()
}

fn with_device(class: &str) -> Vec<String> {
    let entries = fs::read_dir(class).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
