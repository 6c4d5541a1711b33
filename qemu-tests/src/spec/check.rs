//! What a rack file's types cannot say: unique names, values that are safe in paths and QEMU options.

use std::collections::HashSet;

use super::{MAX_NODES, Node, RackSpec};
use crate::units::Bytes;

/// Checks what the types cannot say.
pub(super) fn check(rack: &RackSpec) -> Result<(), String> {
    name("rack", &rack.name)?;
    name("site", &rack.site.name)?;
    let published = rack.site.release && rack.site.controller;
    if !published && !rack.site.bundles.is_empty() {
        return Err("site.bundle needs the site's controller and release".to_owned());
    }
    if rack.nodes.is_empty() || rack.nodes.len() > MAX_NODES {
        return Err(format!("a rack has 1 to {MAX_NODES} nodes, this one has {}", rack.nodes.len()));
    }
    let mut names = HashSet::new();
    let mut serials = HashSet::new();
    let mut macs = HashSet::new();
    for (index, node) in rack.nodes.iter().enumerate() {
        name("node", &node.name)?;
        let who = &node.name;
        if !names.insert(who) {
            return Err(format!("two nodes are called {who}"));
        }
        if !serials.insert(node.serial()) {
            return Err(format!("node {who}: serial {} is taken", node.serial()));
        }
        word(who, "serial", &node.serial())?;
        if node.cpus == 0 || node.memory < Bytes::mib(128) || node.nics.len() > 8 || node.disks.len() > 16 {
            return Err(format!("node {who}: needs a processor, 128MiB, at most 8 nics and 16 disks"));
        }
        for nic in 0..node.nics.len() {
            let mac = mac(rack, index, nic);
            if mac
                .split(':')
                .filter(|octet| octet.len() == 2 && u8::from_str_radix(octet, 16).is_ok())
                .count()
                != 6
            {
                return Err(format!("node {who}: {mac:?} is no MAC address"));
            }
            if !macs.insert(mac.clone()) {
                return Err(format!("node {who}: MAC {mac} is taken"));
            }
        }
        for (at, disk) in node.disks.iter().enumerate() {
            word(who, "disk serial", &disk_serial(node, at))?;
            if disk.size < Bytes::mib(1) {
                return Err(format!("node {who}: disk of {} bytes", disk.size.0));
            }
        }
        if let Some(clock) = &node.clock {
            word(who, "clock", clock)?;
        }
    }
    Ok(())
}

/// MAC address of a card: the one given, or a locally administered one from the positions.
#[must_use]
pub fn mac(rack: &RackSpec, node: usize, nic: usize) -> String {
    let given = rack.nodes.get(node).and_then(|node| node.nics.get(nic)).and_then(|nic| nic.mac.clone());
    given.unwrap_or_else(|| format!("52:54:00:ca:{:02x}:{:02x}", node + 1, nic)).to_ascii_lowercase()
}

/// Serial number of a disk. virtio-blk carries 20 bytes of it.
#[must_use]
pub fn disk_serial(node: &Node, disk: usize) -> String {
    let given = node.disks.get(disk).and_then(|disk| disk.serial.clone());
    given.unwrap_or_else(|| {
        let short: String = node.name.chars().take(12).collect();
        format!("{short}-disk{disk}")
    })
}

/// Names end up in paths, host names and QEMU options.
fn name(what: &str, text: &str) -> Result<(), String> {
    let good = (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-');
    if good { Ok(()) } else { Err(format!("{what} name {text:?}: 1 to 32 of a-z, 0-9 and -")) }
}

/// Values that end up in QEMU options, where a comma would start another option.
fn word(node: &str, what: &str, text: &str) -> Result<(), String> {
    let good = (1..=20).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    if good { Ok(()) } else { Err(format!("node {node}: {what} {text:?}: 1 to 20 letters, digits, - _ . :")) }
}
