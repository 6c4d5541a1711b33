use std::os::unix::fs::symlink;

use super::*;

/// Name, bus path below devices, driver, files.
type Fake<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)]);

/// A sysfs with these NICs.
fn sysfs(nics: &[Fake<'_>]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("class/net")).unwrap();
    for (name, device, driver, files) in nics {
        let folder = at(&format!("devices/{device}/net/{name}"));
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in *files {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
        symlink(&folder, at(&format!("class/net/{name}"))).unwrap();
        symlink(at(&format!("devices/{device}")), folder.join("device")).unwrap();
        fs::create_dir_all(at(&format!("drivers/{driver}"))).unwrap();
        symlink(at(&format!("drivers/{driver}")), at(&format!("devices/{device}/driver"))).unwrap();
        // Each folder of the path that looks like a PCI function or a virtio device is on its bus.
        let mut path = at("devices");
        for part in device.split('/') {
            path = path.join(part);
            let bus = if part.starts_with("virtio") {
                "virtio"
            } else if part.contains("-1") {
                "usb"
            } else if part.starts_with("0000") {
                "pci"
            } else {
                continue;
            };
            fs::create_dir_all(at(&format!("bus/{bus}"))).unwrap();
            let _ = symlink(at(&format!("bus/{bus}")), path.join("subsystem"));
        }
    }
    root
}

#[test]
fn hardware_with_driver_link_speed_and_place() {
    let root = sysfs(&[
        (
            "eth1",
            "pci0000:00/0000:00:03.0/virtio0",
            "virtio_net",
            &[("type", "1"), ("address", "52:54:00:00:00:01"), ("carrier", "1"), ("speed", "-1")],
        ),
        (
            "enp3s0f0",
            "pci0000:00/0000:00:1c.0/0000:03:00.0",
            "ixgbe",
            &[("type", "1"), ("address", "52:54:00:00:00:02"), ("carrier", "1"), ("speed", "10000")],
        ),
        // Down: carrier and speed cannot be read.
        (
            "enp3s0f1",
            "pci0000:00/0000:00:1c.0/0000:03:00.1",
            "ixgbe",
            &[("type", "1"), ("address", "aa:00:00:00:00:03")],
        ),
        ("ib0", "pci0000:00/0000:00:1d.0", "mlx5_core", &[("type", "32"), ("address", "80:00")]),
        ("usb0", "pci0000:00/0000:00:14.0/usb1/1-1", "cdc_ether", &[("type", "1"), ("speed", "4294967295")]),
    ]);
    // A bond has no device.
    let bond = root.path().join("class/net/bond0");
    fs::create_dir_all(&bond).unwrap();
    fs::write(bond.join("type"), "1\n").unwrap();
    let found = nics(root.path(), |name| (name == "enp3s0f1").then_some([0x52, 0x54, 0, 0, 0, 3]));
    let nic = |name: &str, mac: &str, driver: &str, link, speed_mbps, path: &str| Nic {
        name: name.to_owned(),
        mac: mac.to_owned(),
        driver: driver.to_owned(),
        link,
        speed_mbps,
        path: path.to_owned(),
    };
    assert_eq!(
        found,
        [
            nic("enp3s0f0", "52:54:00:00:00:02", "ixgbe", true, Some(10_000), "pci-0000:03:00.0"),
            nic("enp3s0f1", "52:54:00:00:00:03", "ixgbe", false, None, "pci-0000:03:00.1"),
            nic("eth1", "52:54:00:00:00:01", "virtio_net", true, None, "pci-0000:00:03.0"),
            nic("usb0", "", "cdc_ether", false, None, "usb-1-1"),
        ]
    );
    assert_eq!(driver(root.path(), "eth1").as_deref(), Some("virtio_net"));
    assert_eq!(driver(root.path(), "bond0"), None);
}

#[test]
fn no_sysfs_is_no_hardware() {
    assert_eq!(nics(Path::new("/nowhere"), |_| None), []);
}
