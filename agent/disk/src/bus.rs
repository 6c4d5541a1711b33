//! How a disk is attached, from its device's path below /sys/devices. Pure.

/// The transport, from the device's path below /sys/devices.
pub(crate) fn transport(path: &str, name: &str) -> &'static str {
    let has = |part: &str| path.split('/').any(|segment| segment.starts_with(part));
    if name.starts_with("nvme") {
        "nvme"
    } else if name.starts_with("mmcblk") {
        "mmc"
    } else if has("usb") {
        "usb"
    } else if has("ata") {
        "sata"
    } else if has("end_device-") || has("sas_") {
        "sas"
    } else if has("host") {
        // Virtual SCSI and RAID controllers: megaraid_sas, smartpqi, hpsa, virtio-scsi.
        "scsi"
    } else if has("virtio") {
        "virtio"
    } else {
        "scsi"
    }
}

/// `pci-0000:00:1f.2-ata-1`: the address of the last PCI function on the way, and what tells the disks behind it apart.
pub(crate) fn bus_path(path: &str, name: &str, sas_address: Option<&str>) -> String {
    let segments: Vec<&str> = path.split('/').collect();
    let is_pci = |segment: &&&str| {
        let b = segment.as_bytes();
        b.len() == 12
            && b[4] == b':'
            && b[7] == b':'
            && b[10] == b'.'
            && b.iter().all(|c| c.is_ascii_hexdigit() || b":.".contains(c))
    };
    let mut text = match segments.iter().rev().find(is_pci) {
        Some(address) => format!("pci-{address}"),
        // A platform device, such as an eMMC on an embedded board.
        None => segments
            .iter()
            .skip_while(|segment| **segment != "devices")
            .nth(1)
            .copied()
            .unwrap_or("unknown")
            .to_owned(),
    };
    let numbered = |prefix: &str| {
        segments.iter().find_map(|s| {
            s.strip_prefix(prefix).filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    // H:C:T:L; the host number depends on the order of loading, so it is left out.
    let address = segments.iter().rev().find(|s| {
        s.split(':').count() == 4
            && s.split(':').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    if let Some(sas) = sas_address {
        text.push_str(&format!("-sas-{sas}"));
    } else if let Some(port) = numbered("ata") {
        text.push_str(&format!("-ata-{port}"));
    } else if let Some(namespace) = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n')) {
        text.push_str(&format!("-nvme-{}", namespace.1));
    } else if let Some(address) = address {
        if let Some(port) = segments
            .iter()
            .rev()
            .find(|s| s.contains('-') && s.contains(':') && s.starts_with(|c: char| c.is_ascii_digit()))
        {
            text.push_str(&format!("-usb-{port}"));
        }
        text.push_str(&format!("-scsi-{}", address.split_once(':').map_or(*address, |(_, rest)| rest)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_and_bus_paths() {
        let pci = "/sys/devices/pci0000:00";
        for (name, path, sas, kind, bus) in [
            ("nvme0n1", "0000:00:05.0/nvme/nvme0", None, "nvme", "pci-0000:00:05.0-nvme-1"),
            (
                "sda",
                "0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
                None,
                "sata",
                "pci-0000:00:1f.2-ata-1",
            ),
            (
                "sdb",
                "0000:00:14.0/usb1/1-2/1-2:1.0/host3/target3:0:0/3:0:0:0/block/sdb",
                None,
                "usb",
                "pci-0000:00:14.0-usb-1-2:1.0-scsi-0:0:0",
            ),
            (
                "sdc",
                "0000:00:02.0/0000:03:00.0/host2/port-2:0/end_device-2:0/target2:0:0/2:0:0:0/block/sdc",
                Some("0x5000c500a1"),
                "sas",
                "pci-0000:03:00.0-sas-0x5000c500a1",
            ),
            (
                "sdd",
                "0000:00:02.0/0000:04:00.0/host5/target5:2:0/5:2:0:0/block/sdd",
                None,
                "scsi",
                "pci-0000:04:00.0-scsi-2:0:0",
            ),
            (
                "sde",
                "0000:00:06.0/virtio3/host6/target6:0:1/6:0:1:0/block/sde",
                None,
                "scsi",
                "pci-0000:00:06.0-scsi-0:1:0",
            ),
            (
                "mmcblk0",
                "0000:00:1a.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
                None,
                "mmc",
                "pci-0000:00:1a.0",
            ),
        ] {
            let path = format!("{pci}/{path}");
            assert_eq!(transport(&path, name), kind, "{name}");
            assert_eq!(bus_path(&path, name, sas), bus, "{name}");
        }
        assert_eq!(bus_path("/sys/devices/platform/soc/mmc0/block/mmcblk0", "mmcblk0", None), "platform");
    }
}
