//! The signed seed: taken from a stick, the ESP or an URL; believed only when it hangs on the image's pin.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use cairn_protocol::heartbeat::Severity;
use cairn_protocol::limits;
use cairn_protocol::seed;
use cairn_protocol::stage::Stage;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::uplink;
use crate::worker::context::Context;

/// Takes `bytes` as a seed from `place`. A bad one is refused with one line and an event, and ignored.
pub(super) fn take(context: &mut Context, bytes: &[u8], place: &str) {
    let Some(pin) = context.pin() else { return };
    match seed::open(bytes, pin) {
        Ok((seed, _)) => {
            context.console.note(Stage::Network, format!("seed of site {} from {place}", seed.site));
            context.seed = Some(seed);
        }
        Err(error) => {
            let line = format!("the seed from {place} is ignored: {error}");
            context.console.say(
                Stage::Network,
                cairn_protocol::console::Said::Refused { code: "seed-forged".to_owned(), line: line.clone() },
            );
            context.spool.event(&context.clock, Stage::Network, Severity::Error, "seed-forged", &line);
        }
    }
}

/// Looks for a seed once: the file of a flag, else `cairn-seed.json` on a stick or an ESP.
pub(super) async fn from_disks(context: &mut Context) {
    if context.seed.is_some() || std::mem::replace(&mut context.seed_looked_for, true) {
        return;
    }
    if let Some(file) = context.options.seed.clone() {
        match read(&file) {
            Ok(bytes) => take(context, &bytes, &file.display().to_string()),
            // Named by a person, who is to know.
            Err(error) => {
                context.console.note(Stage::Network, format!("no seed from {}: {error}", file.display()))
            }
        }
        return;
    }
    if context.options.hosted {
        return;
    }
    let partitions = partitions();
    if partitions.is_empty() {
        return;
    }
    let Ok(sticks) = super::blocking(move || {
        partitions.into_iter().filter(|name| is_fat(&Path::new("/dev").join(name))).collect::<Vec<_>>()
    })
    .await
    else {
        return;
    };
    if sticks.is_empty() {
        return;
    }
    if let Some(modules) = &mut context.modules {
        for name in ["vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1"] {
            modules.request(name);
        }
    }
    let scratch = context.paths.in_run("scratch/seed");
    let found = super::blocking(move || on_partitions(&sticks, &scratch)).await.unwrap_or_default();
    for (place, bytes) in found {
        take(context, &bytes, &place);
        if context.seed.is_some() {
            return;
        }
    }
}

/// Names of the block devices that a stick or an ESP can be.
fn partitions() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !NOT_STICKS.iter().any(|kind| name.starts_with(kind)))
        .collect()
}

/// Seed files on these vfat file systems, mounted read-only for a moment each.
fn on_partitions(names: &[String], scratch: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let _ = fs::create_dir_all(scratch);
    for name in names {
        let device = Path::new("/dev").join(name);
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        if mount(Some(&device), scratch, Some("vfat"), flags, None::<&str>).is_err() {
            continue;
        }
        let file = scratch.join(seed::FILE_NAME);
        if let Ok(bytes) = read(&file) {
            found.push((name.clone(), bytes));
        }
        let _ = umount2(scratch, MntFlags::MNT_DETACH);
    }
    found
}

/// A seed's bytes; too long a file comes as one byte more than allowed, so that it is refused, not passed over.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(limits::SEED_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Block devices that carry no stick's file system.
const NOT_STICKS: [&str; 7] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd"];

/// Whether a device begins as FAT does (Microsoft, FAT specification 1.03: the signature and the type's name).
fn is_fat(device: &Path) -> bool {
    let mut sector = [0; 512];
    let read = fs::File::open(device).and_then(|mut file| file.read_exact(&mut sector));
    read.is_ok() && sector[510..] == [0x55, 0xaa] && (&sector[54..57] == b"FAT" || &sector[82..85] == b"FAT")
}

/// Fetches the seed that the kernel's command line names, over plain HTTP: its signature is what counts.
pub(super) async fn from_url(context: &mut Context) {
    let Some(url) = context.cmdline.seed.clone() else { return };
    match uplink::plain_get(&url, "the seed", limits::SEED_BYTES).await {
        Ok(bytes) => take(context, &bytes, &url),
        Err(error) => context.console.note(Stage::Network, format!("no seed: {error}")),
    }
}
