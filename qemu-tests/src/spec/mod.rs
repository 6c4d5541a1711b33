//! Rack files: what stands in a rack and what is expected of it. TOML; an unknown key is an error that names its line.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

mod check;
mod sane;

pub use check::{disk_serial, mac};

use crate::units::{Bytes, Span};

/// Largest rack file read.
const MAX_FILE: u64 = 256 * 1024;
/// Most nodes in a rack: the switch, the address plan and a laptop's memory all end before this.
pub const MAX_NODES: usize = 64;

/// A rack.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RackSpec {
    /// Its name; also the name of its folder below `target/lab`.
    pub name: String,
    /// The site around it.
    #[serde(default)]
    pub site: Site,
    /// What is booted.
    #[serde(default)]
    pub image: Image,
    /// The servers.
    #[serde(default, rename = "node")]
    pub nodes: Vec<Node>,
    /// What must come true.
    #[serde(default)]
    pub expect: Expect,
}

impl RackSpec {
    /// Whether any node is a virtual machine.
    #[must_use]
    pub fn has_machines(&self) -> bool {
        self.nodes.iter().any(|node| node.boot != Boot::Container)
    }
}

/// The site: network and services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Site {
    /// Site name, as in the plan.
    pub name: String,
    /// Plan applied at the controller; relative to the rack file.
    pub plan: Option<PathBuf>,
    /// The link's subnet; the site's services have its first address. `/24` to `/16`.
    pub subnet: Subnet,
    /// Whether a controller runs. Without one, nodes can only be watched on their consoles.
    pub controller: bool,
    /// Whether the release (the bundle recipe) is built and published; nodes whose plan has no bundles need none.
    pub release: bool,
    /// Bundles beside the release, built and published with it.
    #[serde(rename = "bundle")]
    pub bundles: Vec<Bundle>,
    /// Who gives out addresses: `full` (our dnsmasq) or `proxy` (a second, plain one does; ours only says what to boot).
    pub dhcp: DhcpMode,
    /// What UEFI PXE loads over TFTP.
    pub uefi_pxe: UefiPxe,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            name: "lab".to_owned(),
            plan: None,
            subnet: Subnet { network: Ipv4Addr::new(10, 77, 0, 0), prefix: 24 },
            controller: true,
            release: true,
            bundles: Vec::new(),
            dhcp: DhcpMode::Full,
            uefi_pxe: UefiPxe::Ipxe,
        }
    }
}

/// A bundle beside the release.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Its recipe; relative to the rack file.
    pub recipe: PathBuf,
    /// Its version; default: the recipe's.
    #[serde(default)]
    pub version: Option<String>,
}

/// Who gives out addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DhcpMode {
    /// Our dnsmasq.
    Full,
    /// A plain server of the site; ours is a proxy beside it.
    Proxy,
}

/// What UEFI PXE loads over TFTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UefiPxe {
    /// iPXE, then HTTP.
    Ipxe,
    /// The UKI.
    Uki,
}

/// An IPv4 subnet, `10.77.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// First address.
    pub network: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
}

impl Subnet {
    /// The address number `index` of the subnet.
    #[must_use]
    pub fn host(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits().wrapping_add(index))
    }

    fn parse(text: &str) -> Option<Self> {
        let (network, prefix) = text.split_once('/')?;
        let subnet = Self { network: network.parse().ok()?, prefix: prefix.parse().ok()? };
        // The order matters: a longer prefix has no such mask.
        if !(16..=24).contains(&subnet.prefix) {
            return None;
        }
        let mask = u32::MAX << (32 - u32::from(subnet.prefix));
        (subnet.network.to_bits() & !mask == 0).then_some(subnet)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is no subnet from /16 to /24 such as \"10.77.0.0/24\""
            ))
        })
    }
}

/// The image.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// Folder with `vmlinuz`, `initramfs.img`, `cairn.efi` and `cairn-usb.img`; default: what `prepare` builds.
    pub dir: Option<PathBuf>,
    /// Added to the kernel command line, where the boot way has one that the lab writes.
    pub cmdline: String,
}

/// How a node boots while its disks are empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// QEMU loads kernel and initramfs itself.
    Direct,
    /// `SeaBIOS`, the card's iPXE, HTTP.
    BiosIpxe,
    /// OVMF's own PXE.
    UefiPxe,
    /// OVMF's own HTTP Boot.
    UefiHttp,
    /// OVMF from a USB stick.
    Usb,
    /// OVMF from the disk alone.
    UefiDisk,
    /// `SeaBIOS` from the disk alone.
    BiosDisk,
    /// No virtual machine: a container of systemd-nspawn.
    Container,
}

impl Boot {
    /// The word used in rack files and summaries.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::BiosIpxe => "bios-ipxe",
            Self::UefiPxe => "uefi-pxe",
            Self::UefiHttp => "uefi-http",
            Self::Usb => "usb",
            Self::UefiDisk => "uefi-disk",
            Self::BiosDisk => "bios-disk",
            Self::Container => "container",
        }
    }

    /// Whether the firmware is UEFI.
    #[must_use]
    pub fn is_uefi(self) -> bool {
        matches!(self, Self::UefiPxe | Self::UefiHttp | Self::Usb | Self::UefiDisk)
    }
}

/// A server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Node {
    /// Its name in the rack, and in the plan.
    pub name: String,
    /// Chassis serial number (SMBIOS); default: `LAB-` and the name.
    #[serde(default)]
    serial: Option<String>,
    /// How it boots.
    pub boot: Boot,
    /// Memory.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
    /// Processors.
    #[serde(default = "one")]
    pub cpus: u8,
    /// A screen, for `screendump`. Costs processor time where nothing is accelerated.
    #[serde(default)]
    pub screen: bool,
    /// An i6300esb watchdog that resets the machine.
    #[serde(default = "yes")]
    pub watchdog: bool,
    /// Clock at power-on, `2016-01-01T00:00:00`, for bad clocks; default: the right time.
    #[serde(default)]
    pub clock: Option<String>,
    /// A signed seed, put on the USB stick; relative to the rack file.
    #[serde(default)]
    pub seed: Option<PathBuf>,
    /// Whether the lab powers it on at the start.
    #[serde(default = "yes")]
    pub power: bool,
    /// Network cards; default: one virtio.
    #[serde(default = "one_nic", rename = "nic")]
    pub nics: Vec<Nic>,
    /// Disks; may be none.
    #[serde(default, rename = "disk")]
    pub disks: Vec<Disk>,
}

impl Node {
    /// Chassis serial number.
    #[must_use]
    pub fn serial(&self) -> String {
        self.serial.clone().unwrap_or_else(|| format!("LAB-{}", self.name.to_ascii_uppercase()))
    }
}

fn default_memory() -> Bytes {
    Bytes::gib(1)
}

fn one() -> u8 {
    1
}

fn yes() -> bool {
    true
}

fn one_nic() -> Vec<Nic> {
    vec![Nic::default()]
}

/// A network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nic {
    /// Kind of card.
    pub model: NicModel,
    /// MAC address; default: made from the rack's and node's position.
    pub mac: Option<String>,
    /// Access VLAN of its switch port; default 1.
    pub vlan: Option<u16>,
}

/// Kinds of network card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    /// virtio-net.
    #[default]
    Virtio,
    /// Intel 82574L.
    E1000e,
    /// Intel 82576.
    Igb,
}

/// A disk, empty at the start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Size.
    pub size: Bytes,
    /// How it is attached.
    #[serde(default)]
    pub bus: Bus,
    /// Serial number; default: made from node and position.
    #[serde(default)]
    pub serial: Option<String>,
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// virtio-blk.
    #[default]
    VirtioBlk,
    /// `NVMe`.
    Nvme,
    /// SATA.
    Ahci,
}

/// What SPECIFICATION.md promises of the agent, as worker and as service.
const AGENT_MEMORY: Bytes = Bytes(10_000_000);

/// What must come true for the run to succeed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// State every node must reach at the controller; `none` to not ask it.
    pub state: String,
    /// Heartbeats that must have arrived from every node in that state.
    pub heartbeats: u32,
    /// Text that must appear on every node's console.
    pub console: Option<String>,
    /// The most resident memory that a node's agent may ever report.
    #[serde(rename = "agent-memory")]
    pub agent_memory: Bytes,
    /// Time from power-on within which all of it must hold.
    pub deadline: Span,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            state: "ready".to_owned(),
            heartbeats: 3,
            console: None,
            agent_memory: AGENT_MEMORY,
            deadline: Span::seconds(20 * 60),
        }
    }
}

/// Why a rack file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("cannot read rack file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what a rack file is.
    #[error("rack file {}, line {line}: {message}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Its values contradict each other.
    #[error("rack file {}: {message}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Reads and checks a rack file.
///
/// # Errors
/// See [`Error`].
pub fn load(path: &Path) -> Result<RackSpec, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > MAX_FILE {
        return Err(read(std::io::Error::other("larger than 256 KiB")));
    }
    let rack = parse(&std::fs::read_to_string(path).map_err(read)?, path)?;
    sane::files(&rack).map_err(|message| Error::Invalid { path: path.to_owned(), message })?;
    Ok(rack)
}

/// Reads a rack file's text; `path` is for messages, and for what the file names relative to itself.
///
/// # Errors
/// See [`Error`].
pub fn parse(text: &str, path: &Path) -> Result<RackSpec, Error> {
    let mut rack: RackSpec = toml::from_str(text).map_err(|error| {
        let (line, message) = cairn_image::document::toml_error(text, &error);
        Error::Parse { path: path.to_owned(), line, message }
    })?;
    check::check(&rack)
        .and_then(|()| sane::check(&rack))
        .map_err(|message| Error::Invalid { path: path.to_owned(), message })?;
    let base = path.parent().unwrap_or(Path::new("."));
    let relative = |file: &mut Option<PathBuf>| {
        if let Some(file) = file {
            *file = base.join(&*file);
        }
    };
    relative(&mut rack.site.plan);
    // Absolute and plain: the path names what was prepared, wherever the lab is started.
    for bundle in &mut rack.site.bundles {
        let path = base.join(&bundle.recipe);
        bundle.recipe = path.canonicalize().unwrap_or(path);
    }
    rack.nodes.iter_mut().for_each(|node| relative(&mut node.seed));
    Ok(rack)
}
