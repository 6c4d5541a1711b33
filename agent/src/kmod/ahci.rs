//! Whether a SATA controller has anything attached, before its driver is loaded.
//!
//! Most servers have a SATA controller, and those with NVMe or virtio disks have nothing on it. Its driver, with libata
//! and the SCSI layer below, is the dearest of all to load, and then tries every empty port. The firmware has brought the
//! links up already, and the controller's registers say which of them have a device (Serial ATA AHCI 1.3.1, 3). Only a
//! controller that says so of every port counts as empty; any doubt means that its driver is loaded at once.

use std::path::Path;

use cairn_sys::registers::Registers;

/// Host capabilities; bit 27: ports spin up only when they are told to.
const CAPABILITIES: usize = 0x00;
const STAGGERED_SPIN_UP: u32 = 1 << 27;
/// Global control; bit 31: the other registers mean what AHCI says.
const CONTROL: usize = 0x04;
const AHCI_ENABLED: u32 = 1 << 31;
/// A bit for each port that there is.
const PORTS_IMPLEMENTED: usize = 0x0c;
/// The first port's registers, and how far apart ports are.
const PORTS: usize = 0x100;
const PORT_BYTES: usize = 0x80;
/// Command and status of a port; bit 1: it was told to spin up.
const COMMAND: usize = 0x18;
const SPIN_UP: u32 = 1 << 1;
/// Status of a port's link; the low four bits: 0 is no device and no link.
const LINK_STATUS: usize = 0x28;
/// Control of a port's link; the low four bits: 0 is normal, 4 is switched off.
const LINK_CONTROL: usize = 0x2c;
const DETECTION: u32 = 0xf;
/// What a device reads as that is switched off or gone.
const NOBODY: u32 = u32::MAX;

/// PCI class 01, subclass 06, interface 01: SATA with AHCI.
pub fn is_ahci(modalias: &str) -> bool {
    modalias.starts_with("pci:") && modalias.ends_with("bc01sc06i01")
}

/// Whether the controller at `device`, a directory like `/sys/bus/pci/devices/0000:00:1f.2`, surely has nothing attached.
pub fn is_empty(device: &Path) -> bool {
    // BAR 5 is where AHCI has its registers.
    Registers::map(&device.join("resource5")).is_ok_and(|registers| says_empty(|at| registers.read(at)))
}

fn says_empty(read: impl Fn(usize) -> Option<u32>) -> bool {
    let known = |at| read(at).filter(|value| *value != NOBODY);
    let (Some(capabilities), Some(control), Some(implemented)) =
        (known(CAPABILITIES), known(CONTROL), known(PORTS_IMPLEMENTED))
    else {
        return false;
    };
    if control & AHCI_ENABLED == 0 || implemented == 0 {
        return false;
    }
    (0..32).filter(|port| implemented & 1 << port != 0).all(|port| {
        let port = PORTS + PORT_BYTES * port;
        let (Some(command), Some(status), Some(link)) =
            (known(port + COMMAND), known(port + LINK_STATUS), known(port + LINK_CONTROL))
        else {
            return false;
        };
        let awake = capabilities & STAGGERED_SPIN_UP == 0 || command & SPIN_UP != 0;
        awake && link & DETECTION == 0 && status & DETECTION == 0
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Two ports, 0 and 2, enabled and empty.
    fn registers() -> BTreeMap<usize, u32> {
        let mut registers = BTreeMap::from([
            (CAPABILITIES, 0xc014_1f05),
            (CONTROL, AHCI_ENABLED),
            (PORTS_IMPLEMENTED, 0b101),
        ]);
        for port in [0x100, 0x200] {
            registers.extend([(port + COMMAND, 0x6), (port + LINK_STATUS, 0), (port + LINK_CONTROL, 0x300)]);
        }
        registers
    }

    #[test]
    fn only_what_is_surely_empty_counts_as_empty() {
        let empty = |registers: &BTreeMap<usize, u32>| says_empty(|at| registers.get(&at).copied());
        assert!(empty(&registers()));
        for (what, at, value) in [
            ("a disk", 0x228, 0x123),
            ("a device without a link yet", 0x228, 0x1),
            ("a link that is switched off", 0x228, 0x4),
            ("a port that was switched off", 0x12c, 0x4),
            ("legacy mode", CONTROL, 0),
            ("no ports", PORTS_IMPLEMENTED, 0),
            ("a port beyond the window", PORTS_IMPLEMENTED, 0b1101),
            ("asleep", CAPABILITIES, NOBODY),
            ("a port asleep", 0x118, NOBODY),
        ] {
            let mut registers = registers();
            registers.insert(at, value);
            assert!(!empty(&registers), "{what}");
        }
        let mut registers = registers();
        registers.insert(CAPABILITIES, 0xc814_1f05);
        assert!(empty(&registers), "spun up");
        registers.insert(0x118, 0x4);
        assert!(!empty(&registers), "not spun up");
    }

    #[test]
    fn by_its_class() {
        assert!(is_ahci("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"));
        assert!(!is_ahci("pci:v00008086d00002822sv00001AF4sd00001100bc01sc04i00"));
        assert!(!is_ahci("acpi:bc01sc06i01"));
    }
}
