//! Firmware files from Debian's `non-free-firmware`, on request.

use std::fs;

use super::cpio::Tree;
use crate::debian::{Package, resolve};
use crate::error::{self, Error};
use crate::toolbox::Toolbox;

/// Packages with the firmware of the drivers in [`crate::drivers`]; what `--firmware all` means.
pub const PACKAGES: &[&str] = &["firmware-intel-misc", "firmware-misc-nonfree", "firmware-realtek"];

/// What was added.
#[derive(Debug, Default)]
pub struct Firmware {
    /// Bytes of all files.
    pub bytes: u64,
    /// The Debian packages they came from.
    pub packages: Vec<Package>,
    /// Names that a chosen module may ask for and no chosen package has.
    pub missing: Vec<String>,
}

/// Adds those files of the packages that the chosen modules name, under `lib/firmware`.
///
/// # Errors
/// When a package is not to be had.
pub fn add_firmware(
    tree: &mut Tree,
    toolbox: &Toolbox,
    packages: &[String],
    names: &[String],
    progress: &dyn Fn(&str),
) -> Result<Firmware, Error> {
    let mut added = Firmware::default();
    let mut roots = Vec::new();
    for name in packages {
        let package = Package::find(toolbox, name)?;
        roots.push((package.unpacked(toolbox, progress)?, package));
    }
    for name in names {
        let mut found = false;
        for (root, package) in &roots {
            for directory in ["usr/lib/firmware", "lib/firmware"] {
                let path = resolve(root, &format!("{directory}/{name}"))?;
                if found || !path.is_file() {
                    continue;
                }
                let content = fs::read(&path).map_err(error::file("read", &path))?;
                added.bytes += content.len() as u64;
                tree.file(&format!("usr/lib/firmware/{name}"), 0o644, content)?;
                found = true;
                if !added.packages.contains(package) {
                    added.packages.push(package.clone());
                }
            }
        }
        if !found {
            added.missing.push(name.clone());
        }
    }
    Ok(added)
}
