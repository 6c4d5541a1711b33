//! QEMU's command line from a node's description. Pure; compared with golden files.

use std::path::{Path, PathBuf};

use crate::spec::{Boot, Bus, NicModel};
use crate::units::Bytes;

/// The firmware that UEFI boot ways run, in the toolbox.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its empty variable store, copied for each node.
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Translation buffer of TCG. QEMU's default is 1 GiB; four nodes would fill a laptop. A kernel and systemd fit in this.
const TCG_BUFFER_MIB: u32 = 256;

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// Kernel, initramfs and command line for direct boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
}

/// A network card and the two sockets of its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicArgs {
    /// Kind of card.
    pub model: NicModel,
    /// MAC address.
    pub mac: String,
    /// Socket that QEMU receives at.
    pub local: PathBuf,
    /// Socket of the switch.
    pub remote: PathBuf,
}

/// A disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArgs {
    /// Image file.
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: &'static str,
    /// How it is attached.
    pub bus: Bus,
    /// Serial number.
    pub serial: String,
}

/// Everything that one QEMU is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Node name.
    pub name: String,
    /// Chassis serial number.
    pub serial: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// Boot way.
    pub boot: Boot,
    /// What executes it.
    pub accel: Accel,
    /// Processors.
    pub cpus: u8,
    /// Memory.
    pub memory: Bytes,
    /// A screen.
    pub screen: bool,
    /// A watchdog.
    pub watchdog: bool,
    /// Clock at power-on; `None` is now.
    pub clock: Option<String>,
    /// Added to the command line of any UKI: systemd-stub takes it from SMBIOS type 11, except under Secure Boot.
    pub extra_cmdline: String,
    /// For [`Boot::Direct`].
    pub direct: Option<Direct>,
    /// Cards.
    pub nics: Vec<NicArgs>,
    /// Disks.
    pub disks: Vec<DiskArgs>,
    /// USB stick, a raw image.
    pub stick: Option<PathBuf>,
    /// This node's own variable store, for UEFI.
    pub nvram: PathBuf,
    /// Serial console's log file.
    pub console: PathBuf,
    /// QMP socket, made by QEMU.
    pub qmp: PathBuf,
}

/// The command line, without the program's name.
#[must_use]
pub fn build(machine: &Machine) -> Vec<String> {
    let mut args = Args(Vec::new());
    base(machine, &mut args);
    firmware(machine, &mut args);
    network(machine, &mut args);
    disks(machine, &mut args);
    if let Some(stick) = &machine.stick {
        args.pair("-device", "qemu-xhci,id=xhci");
        args.pair("-drive", &format!("if=none,id=stick,format=raw,file={}", path(stick)));
        args.pair(
            "-device",
            &format!(
                "usb-storage,id=stick0,bus=xhci.0,drive=stick,removable=on,serial=stick{}",
                boot_index(machine, Place::Stick)
            ),
        );
    }
    args.0
}

struct Args(Vec<String>);

impl Args {
    fn pair(&mut self, option: &str, value: &str) {
        self.0.push(option.to_owned());
        self.0.push(value.to_owned());
    }

    fn one(&mut self, option: &str) {
        self.0.push(option.to_owned());
    }
}

fn base(machine: &Machine, args: &mut Args) {
    args.pair("-name", &format!("{},debug-threads=on", machine.name));
    for option in ["-nodefaults", "-no-user-config"] {
        args.one(option);
    }
    // Without a screen, SeaBIOS, GRUB and iPXE write to the serial port.
    args.pair("-machine", if machine.screen { "q35" } else { "q35,graphics=off" });
    match machine.accel {
        Accel::Kvm => {
            args.pair("-accel", "kvm");
            args.pair("-cpu", "host");
        }
        Accel::Tcg => {
            args.pair("-accel", &format!("tcg,thread=multi,tb-size={TCG_BUFFER_MIB}"));
            args.pair("-cpu", "max");
        }
    }
    args.pair("-smp", &machine.cpus.to_string());
    args.pair("-m", &format!("{}M", machine.memory.0 >> 20));
    args.pair("-display", "none");
    args.pair("-vga", if machine.screen { "std" } else { "none" });
    args.pair("-rtc", &format!("base={},clock=host", machine.clock.as_deref().unwrap_or("utc")));
    args.pair(
        "-smbios",
        &format!("type=1,manufacturer=Cairn,product=Lab,serial={},uuid={}", machine.serial, machine.uuid),
    );
    args.pair("-smbios", &format!("type=3,manufacturer=Cairn,serial={}", machine.serial));
    if !machine.extra_cmdline.is_empty() {
        // A value's comma is doubled, as in every QEMU option.
        let extra = machine.extra_cmdline.replace(',', ",,");
        args.pair("-smbios", &format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={extra}"));
    }
    args.pair("-device", "virtio-rng-pci");
    if machine.watchdog {
        args.pair("-device", "i6300esb");
        args.pair("-action", "watchdog=reset");
    }
    // Appended, so that one file tells a node's whole story over many power cycles.
    args.pair("-chardev", &format!("file,id=console,append=on,path={}", path(&machine.console)));
    args.pair("-serial", "chardev:console");
    args.pair("-chardev", &format!("socket,id=qmp,server=on,wait=off,path={}", path(&machine.qmp)));
    args.pair("-mon", "chardev=qmp,mode=control");
}

fn firmware(machine: &Machine, args: &mut Args) {
    if let Some(direct) = &machine.direct {
        args.pair("-kernel", &direct.kernel.to_string_lossy());
        args.pair("-initrd", &direct.initrd.to_string_lossy());
        args.pair("-append", &direct.cmdline);
    }
    if !machine.boot.is_uefi() {
        return;
    }
    args.pair("-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"));
    args.pair("-drive", &format!("if=pflash,unit=1,format=raw,file={}", path(&machine.nvram)));
    // What the rack does not boot from would only cost its time-out (edk2 OvmfPkg/RUNTIME_CONFIG.md).
    let pxe = if machine.boot == Boot::UefiPxe { "yes" } else { "no" };
    for (key, value) in [("IPv6Support", "no"), ("IPv6PXESupport", "no"), ("IPv4PXESupport", pxe)] {
        args.pair("-fw_cfg", &format!("name=opt/org.tianocore/{key},string={value}"));
    }
}

fn network(machine: &Machine, args: &mut Args) {
    for (index, nic) in machine.nics.iter().enumerate() {
        args.pair(
            "-netdev",
            &format!(
                "dgram,id=net{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                path(&nic.local),
                path(&nic.remote)
            ),
        );
        let model = match nic.model {
            NicModel::Virtio => "virtio-net-pci",
            NicModel::E1000e => "e1000e",
            NicModel::Igb => "igb",
        };
        // OVMF's own network stack is what is to be tested, not iPXE's option ROM, which would take its place.
        let rom = if machine.boot == Boot::BiosIpxe { "" } else { ",romfile=" };
        let order = if index == 0 { boot_index(machine, Place::Nic) } else { String::new() };
        args.pair("-device", &format!("{model},id=nic{index},netdev=net{index},mac={}{rom}{order}", nic.mac));
    }
}

fn disks(machine: &Machine, args: &mut Args) {
    for (index, disk) in machine.disks.iter().enumerate() {
        args.pair(
            "-drive",
            &format!(
                "if=none,id=disk{index},format={},discard=unmap,detect-zeroes=unmap,cache=writeback,file={}",
                disk.format,
                path(&disk.path)
            ),
        );
        let order = if index == 0 { boot_index(machine, Place::Disk) } else { String::new() };
        let device = match disk.bus {
            Bus::VirtioBlk => "virtio-blk-pci".to_owned(),
            Bus::Nvme => "nvme".to_owned(),
            // q35 has six AHCI ports of its own.
            Bus::Ahci => format!("ide-hd,bus=ide.{index}"),
        };
        args.pair(
            "-device",
            &format!("{device},id=blk{index},drive=disk{index},serial={}{order}", disk.serial),
        );
    }
}

#[derive(Clone, Copy)]
enum Place {
    Disk,
    Stick,
    Nic,
}

/// Disk first, then stick or network: an empty disk falls through, an installed one starts.
fn boot_index(machine: &Machine, place: Place) -> String {
    let index = match place {
        Place::Disk => 1,
        Place::Stick if machine.boot == Boot::Usb => 2,
        Place::Nic if matches!(machine.boot, Boot::BiosIpxe | Boot::UefiPxe | Boot::UefiHttp) => 3,
        // A stick that only carries a seed, or a card that nobody boots from.
        Place::Stick | Place::Nic => return String::new(),
    };
    // QEMU's own kernel loader comes before any device, and warns about none.
    format!(",bootindex={index}")
}

/// A path as an option's value: QEMU reads `,,` as a comma.
fn path(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
