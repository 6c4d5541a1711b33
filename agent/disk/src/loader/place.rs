//! Putting the loaders themselves in place: systemd-boot on the ESP, GRUB in the MBR and the BIOS boot partition.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use cairn_bundle::durable;

use super::files::make_directory;
use super::grub::{self, BOOT_CODE_BYTES, SECTOR};
use super::grubenv::GrubEnv;
use crate::error::{DiskError, Result};
use crate::layout::MARK_AT;
use crate::system::SystemDisk;

/// systemd-boot's settings: no menu, no editor for whoever stands at the keyboard.
const LOADER_CONF: &str = "timeout 0\neditor no\n";
/// The most bytes of a loader's file: systemd-boot has 100 to 200 KiB, core.img not much more.
const LOADER_BYTES: u64 = 1 << 20;

/// Where the image keeps the loaders.
#[derive(Debug, Clone)]
pub struct LoaderFiles {
    /// systemd-bootx64.efi.
    pub systemd_boot: PathBuf,
    /// GRUB's boot.img.
    pub grub_boot: PathBuf,
    /// GRUB's core.img, with a configuration that finds `/cairn/grub.cfg` on the boot disk.
    pub grub_core: PathBuf,
}

impl Default for LoaderFiles {
    fn default() -> Self {
        let lib = Path::new("/usr/lib/cairn");
        Self {
            systemd_boot: lib.join("systemd-bootx64.efi"),
            grub_boot: lib.join("grub/boot.img"),
            grub_core: lib.join("grub/core.img"),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    durable::read(path, LOADER_BYTES)?
        .ok_or_else(|| DiskError::io("read", path)(std::io::ErrorKind::NotFound.into()))
}

/// Writes `bytes` unless they are there already.
fn settle(path: &Path, bytes: &[u8]) -> Result<()> {
    if durable::read(path, LOADER_BYTES).ok().flatten().as_deref() != Some(bytes) {
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        durable::write(path, bytes)?;
    }
    Ok(())
}

/// Puts both loaders in place on `disk`, whose ESP is mounted at `esp`. What is there already is not written again.
/// A disk with 4096-byte sectors gets no GRUB: no BIOS boots from one.
///
/// # Errors
/// [`DiskError`]; run again, it goes on where it stopped.
pub fn install_loaders(disk: &SystemDisk, esp: &Path, files: &LoaderFiles) -> Result<()> {
    install_on_esp(esp, &files.systemd_boot)?;
    if disk.sector_bytes() as usize == SECTOR { install_grub(disk, files) } else { Ok(()) }
}

pub(super) fn install_on_esp(esp: &Path, systemd_boot: &Path) -> Result<()> {
    settle(&esp.join("EFI/BOOT/BOOTX64.EFI"), &read(systemd_boot)?)?;
    settle(&esp.join("loader/loader.conf"), LOADER_CONF.as_bytes())?;
    settle(&esp.join("cairn/grub.cfg"), grub::CONFIG.as_bytes())?;
    let env = esp.join("cairn/grubenv");
    if fs::metadata(&env).map_or(0, |metadata| metadata.len()) != super::grubenv::BYTES as u64 {
        let empty = GrubEnv::default().to_bytes().unwrap_or_default();
        durable::write(&env, &empty)?;
    }
    Ok(())
}

/// core.img first, then the sector that jumps to it: a cut in between leaves a disk that boots as it did before.
fn install_grub(disk: &SystemDisk, files: &LoaderFiles) -> Result<()> {
    let node = disk.node();
    let wrong =
        |e: grub::BadGrub| DiskError::Unexpected { path: files.grub_core.clone(), why: e.to_string() };
    let span = disk.partitions()?.bios;
    let lba = span.start / SECTOR as u64;
    let core = grub::core_image(&read(&files.grub_core)?, lba, MARK_AT - span.start).map_err(wrong)?;
    let code = grub::boot_code(&read(&files.grub_boot)?, lba).map_err(wrong)?;
    // Not claimed: its partitions are mounted.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(node)
        .map_err(DiskError::io("open for writing", node))?;
    write(&file, node, span.start, &core)?;
    // The whole sector at once, table included, so that it is the old one or the new one.
    let mut mbr = [0; SECTOR];
    file.read_exact_at(&mut mbr, 0).map_err(DiskError::io("read", node))?;
    mbr[..BOOT_CODE_BYTES].copy_from_slice(&code);
    write(&file, node, 0, &mbr)
}

fn write(file: &File, path: &Path, at: u64, bytes: &[u8]) -> Result<()> {
    let mut present = vec![0; bytes.len()];
    file.read_exact_at(&mut present, at).map_err(DiskError::io("read", path))?;
    if present != bytes {
        file.write_all_at(bytes, at).map_err(DiskError::io("write to", path))?;
        file.sync_all().map_err(DiskError::io("sync", path))?;
    }
    Ok(())
}
