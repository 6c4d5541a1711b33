//! Physical network interfaces as sysfs shows them (Documentation/ABI/testing/sysfs-class-net of the kernel).
//!
//! The root of sysfs is given, so that all of it is tested on folders.

use std::fs;
use std::path::Path;

use cairn_protocol::inventory::Nic;

/// `ARPHRD_ETHER` of linux/if_arp.h.
const TYPE_ETHER: &str = "1";

/// The kernel driver of a link; `None` for virtual links.
pub fn driver(sysfs: &Path, link: &str) -> Option<String> {
    base_name(&sysfs.join("class/net").join(link).join("device/driver"))
}

fn base_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

fn read(path: &Path) -> Option<String> {
    // Attributes of sysfs have at most a page; some fail with EINVAL while a link is down.
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The Ethernet hardware of a machine, by name. `permanent` gives the factory's hardware address where netlink knows
/// one (sysfs has only the present one, which is the bond's while a link is in a bond).
pub fn nics(sysfs: &Path, permanent: impl Fn(&str) -> Option<[u8; 6]>) -> Vec<Nic> {
    let Ok(entries) = fs::read_dir(sysfs.join("class/net")) else { return Vec::new() };
    let mut nics: Vec<Nic> = entries
        .flatten()
        .filter_map(|entry| {
            let (name, folder) = (entry.file_name().into_string().ok()?, entry.path());
            // Only hardware has a device; a bond's or bridge's folder has none.
            let device = fs::canonicalize(folder.join("device")).ok()?;
            if read(&folder.join("type")).as_deref() != Some(TYPE_ETHER) {
                return None;
            }
            let mac = permanent(&name)
                .map(|mac| cairn_protocol::netplan::MacAddr(mac).to_string())
                .or_else(|| read(&folder.join("address")))
                .unwrap_or_default();
            let carrier = read(&folder.join("carrier")).as_deref() == Some("1");
            // Down links say -1, virtual hardware 0 or -1, some drivers 2^32-1.
            let speed = read(&folder.join("speed")).and_then(|text| text.parse::<i64>().ok());
            let speed = speed.filter(|speed| (1..i64::from(i32::MAX)).contains(speed));
            Some(Nic {
                driver: driver(sysfs, &name).unwrap_or_default(),
                link: carrier,
                speed_mbps: speed.and_then(|speed| u32::try_from(speed).ok()),
                path: bus_path(sysfs, &device),
                mac,
                name,
            })
        })
        .collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics
}

/// `pci-0000:00:03.0`: the nearest device at or above `device` that sits on a bus with addresses that mean a place.
/// A virtio NIC's own bus only counts devices, so its PCI function is named.
fn bus_path(sysfs: &Path, device: &Path) -> String {
    let root = fs::canonicalize(sysfs).unwrap_or_else(|_| sysfs.to_owned());
    let mut at = Some(device);
    while let Some(folder) = at.filter(|folder| folder.starts_with(&root) && *folder != root) {
        if let (Some(bus), Some(name)) =
            (base_name(&folder.join("subsystem")), folder.file_name().and_then(|name| name.to_str()))
            && ["pci", "usb", "platform", "vmbus", "xen"].contains(&bus.as_str())
        {
            return format!("{bus}-{name}");
        }
        at = folder.parent();
    }
    String::new()
}

#[cfg(test)]
mod tests;
