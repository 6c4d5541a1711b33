//! One build: from options to the files in the output directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::compress::zstd_cached;
use crate::debian::{self, Package, read_in_root};
use crate::efi::{uki, usb};
use crate::error::{self, Error};
use crate::initramfs::{self, cpio::Tree, firmware, lz4, tools};
use crate::kernel::{Flavour, Kernel};
use crate::toolbox::Toolbox;
use crate::trust::Trust;
use crate::{drivers, elf, grub, sbom};

/// Serial port last: the last one is `/dev/console`. `panic=10`: a machine with nobody near must try again by itself.
/// `loglevel=4`: warnings and worse; the agent's lines are not drowned. `printk.devkmsg=on`: PID 1's own lines are not
/// rate-limited away.
pub const CMDLINE: &str = "console=tty0 console=ttyS0,115200 panic=10 loglevel=4 printk.devkmsg=on";

/// The kernel's limit on x86 (`COMMAND_LINE_SIZE`).
pub const CMDLINE_MAX: usize = 2047;

/// What an image is built from.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which of Debian's kernels.
    pub flavour: Flavour,
    /// The static agent binary, which becomes `/init`.
    pub agent: PathBuf,
    /// Directory with `root.json`, `ca.pin`, `image.json`; without one the image trusts nobody and only waits.
    pub trust: Option<PathBuf>,
    /// Where the outputs go.
    pub out: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
    /// The image's version; `None`: the one in `image.json`, else `0.0.0`.
    pub version: Option<String>,
    /// Firmware packages to take files from.
    pub firmware: Vec<String>,
    /// Modules beyond [`drivers::GROUPS`].
    pub modules: Vec<String>,
    /// Store modules decompressed, not as Debian's `.ko.xz`.
    pub plain_modules: bool,
    /// Where `Cargo.toml` and `Cargo.lock` of the agent are, for the SBOM; `None`: no crates in it.
    pub workspace: Option<PathBuf>,
}

/// `sizes.json`: bytes of each part.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// The bzImage.
    pub kernel: u64,
    /// The whole initramfs, compressed.
    pub initramfs: u64,
    /// What the 25 MB promise is about.
    pub kernel_and_initramfs: u64,
    /// Modules, tools and loader pieces, compressed.
    pub initramfs_base: u64,
    /// The agent, compressed.
    pub initramfs_agent: u64,
    /// Trust and settings.
    pub initramfs_trust: u64,
    /// The agent's binary.
    pub agent: u64,
    /// Module files as stored in the archive.
    pub modules: u64,
    /// How many.
    pub module_count: usize,
    /// File system tools with their libraries.
    pub tools: u64,
    /// Firmware files.
    pub firmware: u64,
    /// GRUB pieces and systemd-boot.
    pub loaders: u64,
    /// The unified kernel image.
    pub uki: u64,
    /// The USB image (sparse).
    pub usb: u64,
}

/// A finished build.
#[derive(Debug, Clone)]
pub struct Built {
    /// Bytes of each part.
    pub sizes: Sizes,
    /// Driver names that this kernel has neither as module nor built in.
    pub absent_drivers: Vec<String>,
    /// Firmware names that no chosen package has.
    pub missing_firmware: Vec<String>,
}

/// The archive that changes only with Debian and the driver list, and what is known about it.
struct Base {
    tree: Tree,
    modules: initramfs::Modules,
    tools_bytes: u64,
    firmware: firmware::Firmware,
    loader_bytes: u64,
    packages: Vec<Package>,
}

/// Builds everything and writes it into `options.out`.
///
/// # Errors
/// See [`Error`]. Outputs are renamed into place one by one once all are made: a failed build leaves the old ones.
pub fn build(options: &Options, progress: &dyn Fn(&str)) -> Result<Built, Error> {
    check_cmdline(&options.cmdline)?;
    let agent = fs::read(&options.agent).map_err(error::file("read", &options.agent))?;
    elf::check_static(&agent)
        .map_err(|e| Error::unexpected(options.agent.display().to_string(), e.to_string()))?;
    let trust = options.trust.as_deref().map(Trust::read).transpose()?;
    let version = version(options.version.as_deref(), trust.as_ref())?;
    if trust.is_none() {
        progress("image: no --trust directory: this image knows no controller and will only wait");
    }
    let toolbox = Toolbox::ensure(progress)?;
    let kernel = Kernel::ensure(&toolbox, options.flavour, progress)?;
    let vmlinuz = fs::read(kernel.image()).map_err(error::file("read", &kernel.image()))?;
    let base = base(&toolbox, &kernel, options, progress)?;

    progress(&format!("image: compressing {} MB", base.tree.content_bytes() / 1_000_000));
    let base_part = part(&base.tree.archive())?;
    // Five megabytes of code at every boot: zstd would cost as much processor time as a driver.
    let agent_part = padded(lz4::pack(&agent_archive(&agent)?));
    let trust_part = trust.map(|t| t.archive().and_then(|a| part(&a))).transpose()?.unwrap_or_default();
    let initramfs = [&base_part[..], &agent_part, &trust_part].concat();

    progress("image: unified kernel image, USB image");
    let stub = read_in_root(&toolbox.root(), "/usr/lib/systemd/boot/efi/linuxx64.efi.stub")?;
    let os_release = uki::os_release(&version);
    let uki = uki::build(
        &stub,
        &[
            uki::Section { name: ".osrel", data: os_release.as_bytes() },
            uki::Section { name: ".cmdline", data: options.cmdline.as_bytes() },
            uki::Section { name: ".uname", data: kernel.release.as_bytes() },
            uki::Section { name: ".initrd", data: &initramfs },
            uki::Section { name: ".linux", data: &vmlinuz },
        ],
    )?;
    fs::create_dir_all(&options.out).map_err(error::file("create", &options.out))?;
    let tmp = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempdir_in(&options.out)
        .map_err(error::file("create a directory in", &options.out))?;
    let usb_path = tmp.path().join("cairn-usb.img");
    usb::write(&toolbox, &uki, &usb_path)?;

    let crates = match &options.workspace {
        Some(dir) => sbom::crates(dir, "cairn-agent")?,
        None => Vec::new(),
    };
    let image_hash = Sha256::new().chain_update(&vmlinuz).chain_update(&initramfs).finalize();
    let document = sbom::document(&version, &image_hash.into(), &base.packages, &crates);
    let sizes = Sizes {
        kernel: vmlinuz.len() as u64,
        initramfs: initramfs.len() as u64,
        kernel_and_initramfs: (vmlinuz.len() + initramfs.len()) as u64,
        initramfs_base: base_part.len() as u64,
        initramfs_agent: agent_part.len() as u64,
        initramfs_trust: trust_part.len() as u64,
        agent: agent.len() as u64,
        modules: base.modules.bytes,
        module_count: base.modules.selection.paths.len(),
        tools: base.tools_bytes,
        firmware: base.firmware.bytes,
        loaders: base.loader_bytes,
        uki: uki.len() as u64,
        usb: fs::metadata(&usb_path).map_err(error::file("find", &usb_path))?.len(),
    };
    for (name, content) in [
        ("vmlinuz", vmlinuz),
        ("initramfs.img", initramfs),
        ("cairn.efi", uki),
        ("cmdline", format!("{}\n", options.cmdline).into_bytes()),
        ("sbom.cdx.json", pretty(&document)),
        ("sizes.json", pretty(&sizes)),
    ] {
        write(&tmp.path().join(name), &content)?;
    }
    publish(tmp.path(), &options.out)?;
    Ok(Built {
        sizes,
        absent_drivers: base.modules.selection.absent,
        missing_firmware: base.firmware.missing,
    })
}

fn base(
    toolbox: &Toolbox,
    kernel: &Kernel,
    options: &Options,
    progress: &dyn Fn(&str),
) -> Result<Base, Error> {
    let mut tree = Tree::default();
    initramfs::skeleton(&mut tree)?;
    let mut wanted: Vec<&str> = drivers::names().collect();
    wanted.extend(options.modules.iter().map(String::as_str));
    progress(&format!("image: kernel {}, choosing modules", kernel.release));
    let modules = initramfs::add_modules(&mut tree, toolbox, kernel, &wanted, options.plain_modules)?;
    let firmware = if options.firmware.is_empty() {
        firmware::Firmware::default()
    } else {
        let names = initramfs::firmware_names(toolbox, kernel, &modules.selection)?;
        firmware::add_firmware(&mut tree, toolbox, &options.firmware, &names, progress)?
    };
    progress("image: file system tools and loader pieces");
    let tools = tools::add_tools(&mut tree, toolbox)?;
    let pieces = grub::pieces(toolbox)?;
    let boot_loader = read_in_root(&toolbox.root(), "/usr/lib/systemd/boot/efi/systemd-bootx64.efi")?;
    let loader_bytes = (pieces.boot.len() + pieces.core.len() + boot_loader.len()) as u64;
    tree.file(&format!("{}/boot.img", grub::DIRECTORY), 0o644, pieces.boot)?;
    tree.file(&format!("{}/core.img", grub::DIRECTORY), 0o644, pieces.core)?;
    tree.file("usr/lib/cairn/systemd-bootx64.efi", 0o644, boot_loader)?;

    let mut packages = vec![kernel.package.clone()];
    packages.extend(tools.packages);
    packages.extend(firmware.packages.iter().cloned());
    let from = ["/usr/lib/grub/i386-pc/boot.img", "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"];
    packages.extend(debian::owners(toolbox, &from.map(ToOwned::to_owned))?);
    Ok(Base { tree, modules, tools_bytes: tools.bytes, firmware, loader_bytes, packages })
}

/// `/init`. The path under `/usr` is where the rest of the system finds the same binary.
fn agent_archive(agent: &[u8]) -> Result<Vec<u8>, Error> {
    let mut tree = Tree::default();
    tree.file("init", 0o755, agent.to_vec())?;
    Ok(tree.archive())
}

/// An archive compressed, and padded so that the next one starts where the kernel looks for it: it skips zeros and
/// wants an uncompressed archive at a multiple of 4 (`init/initramfs.c`, `unpack_to_rootfs`).
fn part(archive: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(padded(zstd_cached(archive)?))
}

fn padded(mut part: Vec<u8>) -> Vec<u8> {
    part.resize(part.len().next_multiple_of(4), 0);
    part
}

fn check_cmdline(cmdline: &str) -> Result<(), Error> {
    if cmdline.len() > CMDLINE_MAX {
        return Err(Error::Argument(format!(
            "the command line has {} bytes, the kernel takes {CMDLINE_MAX}",
            cmdline.len()
        )));
    }
    if cmdline.chars().any(|c| c.is_control() || !c.is_ascii()) {
        return Err(Error::Argument("the command line has a character that is not printable ASCII".into()));
    }
    Ok(())
}

/// The version is part of file names on the ESP and orders them: letters, digits, and the separators of the UAPI
/// version format that cannot be taken for boot counting (`+`) or leave the directory (`/`).
fn version(asked: Option<&str>, trust: Option<&Trust>) -> Result<String, Error> {
    let named = trust.map(|t| t.image_version.as_str());
    if let (Some(asked), Some(named)) = (asked, named)
        && asked != named
    {
        return Err(Error::Argument(format!(
            "--version {asked}, but image.json says {named}; export the trust directory again"
        )));
    }
    let version = asked.or(named).unwrap_or("0.0.0");
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '~' | '^');
    if version.is_empty() || version.len() > 64 || !version.chars().all(fine) {
        return Err(Error::Argument(format!("`{version}` is no version: 1 to 64 of A-Z a-z 0-9 . - ~ ^")));
    }
    Ok(version.to_owned())
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    // Plain structs and JSON values always serialise.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text.into_bytes()
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut file = File::create(path).map_err(error::file("create", path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(error::file("write", path))
}

fn publish(from: &Path, to: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(from).map_err(error::file("list", from))?.flatten() {
        let target = to.join(entry.file_name());
        fs::rename(entry.path(), &target).map_err(error::file("rename to", &target))?;
    }
    File::open(to).and_then(|dir| dir.sync_all()).map_err(error::file("sync", to))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions() {
        for good in ["1.2.3", "0.1.0~rc1", "2026-11-23"] {
            assert_eq!(version(Some(good), None).unwrap(), good);
        }
        for bad in ["", "1+2", "a/b", "1 2", "..\n"] {
            assert!(version(Some(bad), None).is_err(), "{bad:?}");
        }
        assert_eq!(version(None, None).unwrap(), "0.0.0");
    }

    #[test]
    fn command_lines() {
        check_cmdline(CMDLINE).unwrap();
        assert!(check_cmdline("a\nb").is_err());
        assert!(check_cmdline(&"x".repeat(CMDLINE_MAX + 1)).is_err());
    }
}
