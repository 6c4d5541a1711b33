//! What a machine has, as its agent sees it.

use serde::{Deserialize, Serialize};

/// A machine's inventory. Texts are as the firmware or driver gives them, trimmed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inventory {
    /// Vendor, product and serial from SMBIOS.
    pub machine: Machine,
    /// Processors.
    pub cpu: Cpu,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Physical network interfaces.
    pub nics: Vec<Nic>,
    /// Whole disks.
    pub disks: Vec<Disk>,
    /// Firmware.
    pub firmware: Firmware,
    /// `None` where there is no TPM, else its version: `2.0` or `1.2`.
    pub tpm: Option<String>,
}

/// SMBIOS type 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// Manufacturer.
    pub vendor: String,
    /// Product name.
    pub product: String,
    /// Serial number.
    pub serial: String,
    /// UUID; informative only, many boards share one.
    pub uuid: String,
}

/// Processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cpu {
    /// Model name.
    pub model: String,
    /// Architecture: `x86_64`, `aarch64`.
    pub arch: String,
    /// Logical processors.
    pub threads: u32,
    /// Physical cores.
    pub cores: u32,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nic {
    /// Kernel name.
    pub name: String,
    /// Permanent MAC address, lower case, colons.
    pub mac: String,
    /// Kernel driver.
    pub driver: String,
    /// Whether the link is up.
    pub link: bool,
    /// Speed in Mbit/s; `None` where the driver does not say.
    pub speed_mbps: Option<u32>,
    /// Bus path, such as `pci-0000:00:03.0`.
    pub path: String,
}

/// A whole disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// Kernel name, such as `nvme0n1`; changes between boots.
    pub name: String,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// World-wide name, such as `naa.5000c500…` or `eui.…`.
    pub wwn: String,
    /// `virtio`, `nvme`, `sata`, `sas`, `usb`, `scsi`, `mmc`.
    pub transport: String,
    /// Bus path, such as `pci-0000:00:04.0`.
    pub path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector size in bytes.
    pub sector_bytes: u32,
    /// Whether it spins.
    pub rotational: bool,
    /// Whether the bus says it can be taken out.
    pub removable: bool,
    /// What is on it.
    pub content: DiskContent,
}

/// What is on a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum DiskContent {
    /// Could not be read, or was not looked at.
    #[default]
    Unknown,
    /// No known signature and zeros where signatures lie.
    Empty,
    /// An installation of ours.
    Cairn {
        /// The site that the disk's state names, where it could be read.
        site: String,
        /// The node that the disk's state names.
        node: String,
    },
    /// Somebody else's data.
    Foreign {
        /// What was recognised, such as `gpt: ext4, swap` or `lvm2`.
        what: String,
    },
}

/// Firmware.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Firmware {
    /// `bios` or `uefi`.
    pub kind: String,
    /// Vendor and version.
    pub version: String,
    /// Whether Secure Boot is on.
    pub secure_boot: bool,
}
