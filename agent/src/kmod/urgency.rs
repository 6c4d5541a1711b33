//! Which devices a node needs a driver for before it can find its disks and its controller, and which can wait. Pure.
//!
//! A module costs processor time: it is decompressed, its signature checked, its hardware probed. What is not needed to
//! come up is loaded once the node is a member, or when it has to wait for something anyway.

/// When a device's driver is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// At once: disks, networks, the buses they hang on, and everything not known to be able to wait.
    First,
    /// Before keys are made, where the kernel has no randomness of its own yet.
    Random,
    /// Before disks are read, where there are some: the processor's instructions for checksums and hashes.
    Disk,
    /// While the network comes up: watchdogs, and the TPM, which the inventory names.
    Watch,
    /// After enrolment, or before the first wait: sensors, bridges, IPMI, keyboards.
    Rest,
}

/// When the driver for `modalias` is loaded (formats: scripts/mod/file2alias.c of the kernel).
pub fn urgency(modalias: &str) -> Urgency {
    let (bus, rest) = modalias.split_once(':').unwrap_or((modalias, ""));
    match bus {
        "pci" => pci(rest),
        "cpu" => Urgency::Disk,
        // Virtual I/O Device 1.2, 5: device 4 is the entropy source.
        "virtio" if rest.starts_with("d00000004v") => Urgency::Random,
        // TPMs by the ACPI ids that tpm_crb and tpm_tis have.
        "acpi" | "pnp" if rest.contains("MSFT0101") || rest.contains("PNP0C31") => Urgency::Watch,
        // PNP03xx: keyboards; PNP0Fxx: mice; IPI0001: IPMI; QEMU0002: QEMU's configuration store.
        "acpi" | "pnp" if ["PNP03", "PNP0F", "IPI0001", "QEMU0002"].iter().any(|id| rest.contains(id)) => {
            Urgency::Rest
        }
        "platform" if ["wdt", "wdat", "watchdog", "tco"].iter().any(|part| rest.contains(part)) => {
            Urgency::Watch
        }
        "platform" if rest.starts_with("i8042") || rest.contains("ipmi") => Urgency::Rest,
        // Interface class 03: keyboards and mice.
        "usb" if rest.contains("ic03isc") => Urgency::Rest,
        "hid" | "serio" | "i2c" | "ipmi" | "input" | "wmi" | "dmi" => Urgency::Rest,
        _ => Urgency::First,
    }
}

/// By PCI class and subclass (PCI Code and ID Assignment Specification 1.11, 1), `v00008086d...bc01sc06i01`.
fn pci(ids: &str) -> Urgency {
    let class = ids.rfind("bc").and_then(|at| ids.get(at + 2..at + 4));
    let subclass = ids.rfind("sc").and_then(|at| ids.get(at + 2..at + 4));
    let (Some(class), Some(subclass)) = (class, subclass) else { return Urgency::First };
    // Virtio devices have all kinds of classes; virtio_pci is the driver of every one.
    if ids.starts_with("v00001AF4") {
        return Urgency::First;
    }
    match (class, subclass) {
        // Watchdogs (i6300esb, hpwdt) are base peripherals of no kind.
        ("08", "80") => Urgency::Watch,
        // SD hosts carry disks.
        ("08", "05") => Urgency::First,
        // Display, multimedia, memory, bridges, serial ports, base peripherals, docks, processors.
        ("03" | "04" | "05" | "06" | "07" | "08" | "0A" | "0B", _) => Urgency::Rest,
        // SMBus, IPMI.
        ("0C", "05" | "07") => Urgency::Rest,
        // Encryption, signal processing, accelerators.
        ("10" | "11" | "12", _) => Urgency::Rest,
        _ => Urgency::First,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_needs_to_come_up_is_first() {
        use Urgency::{Disk, First, Random, Rest, Watch};
        for (modalias, when) in [
            // QEMU's q35: AHCI, LPC bridge, SMBus, virtio network card, watchdog, screen, host bridge.
            ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", First),
            ("pci:v00008086d00002918sv00001AF4sd00001100bc06sc01i00", Rest),
            ("pci:v00008086d00002930sv00001AF4sd00001100bc0Csc05i00", Rest),
            ("pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00", First),
            ("pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00", Watch),
            ("pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00", Rest),
            ("pci:v00008086d000029C0sv00001AF4sd00001100bc06sc00i00", Rest),
            // virtio-rng of old: unclassified; a virtio console: serial.
            ("pci:v00001AF4d00001005sv00001AF4sd00000004bc00scFFi00", First),
            ("pci:v00001AF4d00001043sv00001AF4sd00001100bc07sc80i00", First),
            // NVMe, RAID, Intel VMD, a network card, InfiniBand, xHCI, Fibre Channel, SD, QuickAssist.
            ("pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", First),
            ("pci:v00001000d0000005Dsv00001028sd00001F47bc01sc04i00", First),
            ("pci:v00008086d0000201Dsv00008086sd0000201Dbc01sc04i00", First),
            ("pci:v000015B3d00001015sv000015B3sd00000001bc02sc07i00", First),
            ("pci:v00008086d0000A12Fsv00001028sd0000A12Fbc0Csc03i30", First),
            ("pci:v00001077d00002532sv00001077sd0000015Dbc0Csc04i00", First),
            ("pci:v00008086d00000F14sv00008086sd00000F14bc08sc05i01", First),
            ("pci:v00008086d000037C8sv00008086sd00000000bc0Bsc40i00", Rest),
            // HPE's iLO watchdog.
            ("pci:v0000103Cd00003306sv0000103Csd00001979bc08sc80i00", Watch),
            // No class: nobody knows, so it does not wait.
            ("pci:v00008086", First),
            ("pci:bc", First),
            ("virtio:d00000001v00001AF4", First),
            ("virtio:d00000004v00001AF4", Random),
            ("virtio:d00000002v00001AF4", First),
            ("scsi:t-0x00", First),
            ("usb:v0781p5567d0100dc00dsc00dp00ic08isc06ip50in00", First),
            ("usb:v0BDAp8153d3000dc00dsc00dp00icFFiscFFip00in00", First),
            ("usb:v0627p0001d0000dc00dsc00dp00ic03isc01ip01in00", Rest),
            ("hid:b0003g0001v00000627p00000001", Rest),
            ("serio:ty06pr00id00ex00", Rest),
            ("cpu:type:x86,ven0000fam0006mod009E:feature:,0000,0001", Disk),
            ("acpi:MSFT0101:", Watch),
            ("acpi:PNP0C31:", Watch),
            ("acpi:PNP0303:", Rest),
            ("acpi:IPI0001:", Rest),
            ("acpi:PNP0501:", First),
            ("platform:iTCO_wdt", Watch),
            ("platform:wdat_wdt", Watch),
            ("platform:sp5100-tco", Watch),
            ("platform:dmi-ipmi-si", Rest),
            ("platform:i8042", Rest),
            ("platform:sdhci-pltfm", First),
            ("md:level-1", First),
            ("", First),
        ] {
            assert_eq!(urgency(modalias), when, "{modalias}");
        }
    }
}
