//! The machine itself from sysfs: processor, memory, SMBIOS, firmware, TPM. Links come from cairn-net, disks from
//! cairn-disk.

use std::fs;
use std::path::Path;

use cairn_protocol::inventory::{Cpu, Firmware, Machine};
use cairn_protocol::limits::clean_text;

/// Bytes read of one sysfs file: the kernel gives a page at most.
const SYSFS_LIMIT: usize = 4096;

fn read(path: &Path) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // A sysfs file that cannot be read is one that this machine does not have.
        let _ = file.take(SYSFS_LIMIT as u64).read_to_end(&mut bytes);
    }
    clean_text(String::from_utf8_lossy(&bytes).trim())
}

/// Texts that board makers leave where a serial number belongs; a node with one of them has none.
const FILLERS: [&str; 9] = [
    "to be filled by o.e.m.",
    "default string",
    "not specified",
    "not applicable",
    "system serial number",
    "none",
    "n/a",
    "0123456789",
    "0",
];

/// SMBIOS type 1 as `/sys/class/dmi/id` has it, below `sys`.
pub fn machine(sys: &Path) -> Machine {
    let id = sys.join("class/dmi/id");
    let serial = read(&id.join("product_serial"));
    let filler = FILLERS.contains(&serial.to_lowercase().as_str());
    Machine {
        vendor: read(&id.join("sys_vendor")),
        product: read(&id.join("product_name")),
        serial: if filler { String::new() } else { serial },
        uuid: read(&id.join("product_uuid")).to_lowercase(),
    }
}

/// Firmware kind, version and Secure Boot.
pub fn firmware(sys: &Path) -> Firmware {
    let id = sys.join("class/dmi/id");
    let uefi = sys.join("firmware/efi").is_dir();
    let version = format!("{} {}", read(&id.join("bios_vendor")), read(&id.join("bios_version")));
    // Four bytes of attributes, then the value (Linux Documentation/filesystems/efivarfs.rst; UEFI 2.10, 3.3).
    let variable = sys.join("firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    let secure_boot = fs::read(variable).is_ok_and(|bytes| bytes.len() == 5 && bytes[4] == 1);
    Firmware {
        kind: if uefi { "uefi" } else { "bios" }.to_owned(),
        version: version.trim().to_owned(),
        secure_boot,
    }
}

/// The version of the first TPM, if there is one.
pub fn tpm(sys: &Path) -> Option<String> {
    let tpm = sys.join("class/tpm/tpm0");
    tpm.exists().then(|| match read(&tpm.join("tpm_version_major")).as_str() {
        "1" => "1.2".to_owned(),
        _ => "2.0".to_owned(),
    })
}

/// Processor and memory (bytes) through sysinfo; empty where it cannot read them.
pub fn cpu_and_memory() -> (Cpu, u64) {
    use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let arch = std::env::consts::ARCH.to_owned();
    let Ok(system) = System::new_with_specifics(kinds) else { return (Cpu { arch, ..Cpu::default() }, 0) };
    let threads = u32::try_from(system.cpus().len()).unwrap_or(u32::MAX);
    let cores = System::physical_core_count().ok().and_then(|cores| u32::try_from(cores).ok());
    let cpu = Cpu {
        model: system.cpus().first().map(|cpu| clean_text(cpu.brand().trim())).unwrap_or_default(),
        arch,
        threads,
        cores: cores.unwrap_or(threads),
    };
    (cpu, system.total_memory())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_uefi_server() {
        let sys = tempfile::tempdir().unwrap();
        let root = sys.path();
        write(root, "class/dmi/id/sys_vendor", b"Example Inc.\n");
        write(root, "class/dmi/id/product_name", b"Edge 1U\n");
        write(root, "class/dmi/id/product_serial", b" LAB-0001 \n");
        write(root, "class/dmi/id/product_uuid", b"4C4C4544-0001\n");
        write(root, "class/dmi/id/bios_vendor", b"EDK II\n");
        write(root, "class/dmi/id/bios_version", b"2025.02\n");
        write(root, "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6, 0, 0, 0, 1]);
        write(root, "class/tpm/tpm0/tpm_version_major", b"2\n");
        let machine = machine(root);
        assert_eq!((machine.serial.as_str(), machine.uuid.as_str()), ("LAB-0001", "4c4c4544-0001"));
        let firmware = firmware(root);
        assert_eq!((firmware.kind.as_str(), firmware.version.as_str()), ("uefi", "EDK II 2025.02"));
        assert!(firmware.secure_boot);
        assert_eq!(tpm(root).as_deref(), Some("2.0"));
    }

    #[test]
    fn an_old_board_with_nothing_to_say() {
        let sys = tempfile::tempdir().unwrap();
        write(sys.path(), "class/dmi/id/product_serial", b"To Be Filled By O.E.M.\n");
        assert_eq!(machine(sys.path()).serial, "");
        assert_eq!(firmware(sys.path()).kind, "bios");
        assert!(!firmware(sys.path()).secure_boot);
        assert_eq!(tpm(sys.path()), None);
    }

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let (cpu, memory) = cpu_and_memory();
        assert!(cpu.threads >= 1 && cpu.cores >= 1);
        assert!(memory > 16 << 20);
    }
}
