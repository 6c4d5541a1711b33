//! Which disks the machine has, from sysfs. Both roots can be given, so it is tested on fixtures.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use cairn_protocol::inventory::{Disk, DiskContent};
use cairn_protocol::limits::clean_text;

use crate::bus::{bus_path, transport};
use crate::content::{self, Content};
use crate::error::{DiskError, Result};
use crate::installed;
use crate::layout::Layout;

/// Block devices that are no disks: memory, files, mappings, optical and floppy drives, network blocks.
const NOT_DISKS: &[&str] = &[
    "loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "rbd", "drbd", "mtdblock", "zd", "pmem", "bcache",
];
/// Bytes of one sysfs attribute that are read; none of those read here is longer than a page.
const ATTRIBUTE_BYTES: usize = 4096;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Sources {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
    }
}

/// A disk that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// As the inventory reports it.
    pub disk: Disk,
    /// Its device node, or the file that stands for a disk.
    pub node: PathBuf,
    /// Whether it is the USB image that this machine was, or could be, booted from: never chosen unless named.
    pub boot_medium: bool,
    /// Where our partitions lie, where they do.
    pub layout: Option<Layout>,
    /// Whether the installation on it was finished: its STATE has an `install.json`.
    pub finished: bool,
}

/// All whole disks with a medium, by name. Looks at what is on each; what cannot be read has content `Unknown`.
/// `scratch` is a directory (made if missing) where a STATE partition may be mounted read-only for a moment.
pub fn disks(sources: &Sources, scratch: &Path) -> Vec<Found> {
    let Ok(entries) = fs::read_dir(sources.sys.join("block")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_disk(name))
        .collect();
    names.sort();
    names.iter().filter_map(|name| describe(sources, name)).map(|found| look(found, scratch)).collect()
}

/// A disk that a flag names: a block device, or a file that stands for one.
///
/// # Errors
/// [`DiskError`] when it cannot be opened.
pub fn given(path: &Path, scratch: &Path) -> Result<Found> {
    let file = File::open(path).map_err(DiskError::io("open", path))?;
    let metadata = file.metadata().map_err(DiskError::io("read", path))?;
    let (size_bytes, sector_bytes) = if metadata.file_type().is_block_device() {
        (cairn_sys::block::size(&file, path)?, cairn_sys::block::sector_size(&file, path)?)
    } else {
        (metadata.len(), 512)
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Virtio is what the lab's disks are; a plan for the lab then also fits a run without a VM.
    let disk = Disk {
        serial: name.clone(),
        path: format!("file-{}", path.display()),
        name,
        transport: "virtio".to_owned(),
        size_bytes,
        sector_bytes,
        ..Disk::default()
    };
    let found = Found { disk, node: path.to_owned(), boot_medium: false, layout: None, finished: false };
    Ok(look(found, scratch))
}

/// Looks again at what is on a disk, after it was changed.
pub fn look(mut found: Found, scratch: &Path) -> Found {
    found.layout = None;
    found.finished = false;
    let probed = OpenOptions::new()
        .read(true)
        .open(&found.node)
        .and_then(|file| content::probe(&file, found.disk.size_bytes, found.disk.sector_bytes));
    found.disk.content = match probed {
        Err(_) => DiskContent::Unknown,
        Ok(Content::Empty) => DiskContent::Empty,
        Ok(Content::Foreign(what)) => DiskContent::Foreign { what: clean_text(&what) },
        Ok(Content::Stick) => {
            found.boot_medium = true;
            DiskContent::Foreign { what: "cairn usb image".to_owned() }
        }
        Ok(Content::Begun) => DiskContent::Cairn { site: String::new(), node: String::new() },
        Ok(Content::Ours(layout)) => {
            found.layout = Some(layout);
            match installed::peek(&found, scratch) {
                Ok(record) => {
                    found.finished = true;
                    DiskContent::Cairn { site: record.site.to_string(), node: record.node.to_string() }
                }
                // It was finished once: what cannot be read now is not ours to throw away.
                Err(error) => DiskContent::Foreign {
                    what: clean_text(&format!("a Cairn installation that cannot be read ({error})")),
                },
            }
        }
    };
    found
}

fn is_disk(name: &str) -> bool {
    // mmcblk0boot0 and mmcblk0rpmb are the boot areas of an eMMC, not disks.
    let mmc_area = name.starts_with("mmcblk")
        && name.trim_start_matches("mmcblk").contains(|c: char| !c.is_ascii_digit());
    !mmc_area && !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix))
}

fn attribute(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(ATTRIBUTE_BYTES as u64).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    let text = clean_text(&text);
    (!text.is_empty()).then_some(text)
}

fn describe(sources: &Sources, name: &str) -> Option<Found> {
    let dir = sources.sys.join("block").join(name);
    let read = |relative: &str| attribute(&dir.join(relative));
    let first = |all: &[&str]| all.iter().find_map(|relative| read(relative));
    let size_bytes = read("size")?.parse::<u64>().ok()?.checked_mul(512)?;
    if size_bytes == 0 || read("hidden").as_deref() == Some("1") {
        return None;
    }
    let real = fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone());
    let device_path = real.to_string_lossy().into_owned();
    let sas_address = read("device/sas_address");
    let transport = transport(&device_path, name);
    let model = match (read("device/vendor"), read("device/model")) {
        // Behind libata the vendor is the constant ATA; on virtio it is a PCI number.
        (Some(vendor), Some(model)) if vendor != "ATA" && transport != "virtio" => {
            format!("{vendor} {model}")
        }
        (_, Some(model)) => model,
        _ => read("device/name").unwrap_or_default(),
    };
    let disk = Disk {
        name: name.to_owned(),
        model,
        serial: read("device/vpd_pg80")
            .map(|page| page.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned())
            .filter(|serial| !serial.is_empty())
            .or_else(|| first(&["device/serial", "serial"]).or_else(|| usb_serial(&real)))
            .unwrap_or_default(),
        wwn: first(&["wwid", "device/wwid"]).unwrap_or_default(),
        transport: transport.to_owned(),
        path: bus_path(&device_path, name, sas_address.as_deref()),
        size_bytes,
        sector_bytes: read("queue/logical_block_size").and_then(|text| text.parse().ok()).unwrap_or(512),
        rotational: read("queue/rotational").as_deref() == Some("1"),
        removable: read("removable").as_deref() == Some("1"),
        content: DiskContent::Unknown,
    };
    Some(Found { disk, node: sources.dev.join(name), boot_medium: false, layout: None, finished: false })
}

/// The serial number of the USB device that a disk is in: the kernel does not ask sticks for their SCSI pages.
fn usb_serial(device: &Path) -> Option<String> {
    let usb = device.ancestors().find(|dir| dir.join("idVendor").exists())?;
    attribute(&usb.join("serial"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs with one disk: its device directory, attributes relative to the block directory.
    fn fixture(name: &str, device: &str, attributes: &[(&str, &str)]) -> (tempfile::TempDir, Sources) {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("sys/devices").join(device).join("block").join(name);
        fs::create_dir_all(real.join("queue")).unwrap();
        fs::create_dir_all(root.path().join("sys/block")).unwrap();
        fs::create_dir_all(root.path().join("dev")).unwrap();
        std::os::unix::fs::symlink(root.path().join("sys/devices").join(device), real.join("device"))
            .unwrap();
        std::os::unix::fs::symlink(&real, root.path().join("sys/block").join(name)).unwrap();
        for (attribute, value) in attributes {
            fs::write(real.join(attribute), value).unwrap();
        }
        let sources = Sources { sys: root.path().join("sys"), dev: root.path().join("dev") };
        (root, sources)
    }

    fn one(name: &str, device: &str, attributes: &[(&str, &str)]) -> Option<Disk> {
        let (root, sources) = fixture(name, device, attributes);
        fs::write(sources.dev.join(name), vec![0; 1 << 20]).unwrap();
        let found = disks(&sources, &root.path().join("scratch"));
        assert!(found.len() <= 1);
        found.into_iter().next().map(|found| found.disk)
    }

    #[test]
    fn a_virtio_disk() {
        let disk = one(
            "vda",
            "pci0000:00/0000:00:04.0/virtio1",
            &[
                ("size", "16777216\n"),
                ("serial", "LAB-1\n"),
                ("queue/logical_block_size", "512\n"),
                ("queue/rotational", "1\n"),
                ("removable", "0\n"),
            ],
        )
        .unwrap();
        let want = Disk {
            name: "vda".to_owned(),
            serial: "LAB-1".to_owned(),
            transport: "virtio".to_owned(),
            path: "pci-0000:00:04.0".to_owned(),
            size_bytes: 8 << 30,
            sector_bytes: 512,
            rotational: true,
            content: DiskContent::Empty,
            ..Disk::default()
        };
        assert_eq!(disk, want);
    }

    #[test]
    fn what_is_no_disk_is_passed_over() {
        for name in
            ["loop0", "ram1", "zram0", "dm-3", "sr0", "md127", "mmcblk0boot0", "mmcblk0rpmb", "nbd0", "fd0"]
        {
            assert!(!is_disk(name), "{name}");
        }
        for name in ["sda", "vda", "nvme0n1", "mmcblk0", "xvda"] {
            assert!(is_disk(name), "{name}");
        }
        assert!(one("sda", "pci0000:00/0000:00:14.0/usb1", &[("size", "0\n")]).is_none());
        assert!(one("nvme0c0n1", "pci0000:00/nvme0", &[("size", "8\n"), ("hidden", "1\n")]).is_none());
    }

    #[test]
    fn a_disk_that_cannot_be_read_is_unknown() {
        let (root, sources) = fixture("sda", "pci0000:00/0000:00:1f.2/ata1/host0", &[("size", "4096\n")]);
        assert_eq!(disks(&sources, root.path())[0].disk.content, DiskContent::Unknown);
    }

    #[test]
    fn a_usb_serial_comes_from_the_usb_device() {
        let device = "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host3/target3:0:0/3:0:0:0";
        let (root, sources) = fixture("sdb", device, &[("size", "4096\n")]);
        let usb = root.path().join("sys/devices/pci0000:00/0000:00:14.0/usb1/1-2");
        fs::write(usb.join("idVendor"), "0951\n").unwrap();
        fs::write(usb.join("serial"), "STICK-1\n").unwrap();
        let disk = disks(&sources, root.path()).remove(0).disk;
        assert_eq!((disk.serial.as_str(), disk.transport.as_str()), ("STICK-1", "usb"));
    }

    #[test]
    fn a_scsi_serial_comes_from_its_vpd_page() {
        let disk = one(
            "sda",
            "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0",
            &[
                ("size", "4096\n"),
                ("device/vpd_pg80", "\u{0}\u{0}\u{0}\u{8}  WD-1234 "),
                ("device/vendor", "ATA     \n"),
                ("device/model", "WDC  WD40\n"),
                ("device/wwid", "naa.50014ee2\n"),
            ],
        )
        .unwrap();
        assert_eq!(
            (disk.serial.as_str(), disk.model.as_str(), disk.wwn.as_str()),
            ("WD-1234", "WDC WD40", "naa.50014ee2")
        );
    }
}
