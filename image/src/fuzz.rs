//! Entry points for the fuzzers: every text and file that a mirror, a publisher or a builder hands in.

use crate::initramfs::modules::{Aliases, Dependencies, reduced_aliases, reduced_softdep};
use crate::layer::{lock, recipe};

/// A recipe.
pub fn recipe(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = recipe::parse(text);
    }
}

/// A lock file, and apt's list of downloads.
pub fn lock(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = lock::parse(text);
        let _ = lock::parse_uris(text);
    }
}

/// Stanzas of a Debian `Packages` file, and ldd's output.
pub fn debian(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for stanza in text.split("\n\n") {
        if let Some(package) = crate::debian::Package::parse(stanza) {
            assert!(package.sha256.len() >= 16, "a prefix of it names a folder");
        }
    }
    let _ = crate::initramfs::tools::libraries(&text);
}

/// A UKI, an ELF program.
pub fn binaries(data: &[u8]) {
    let _ = crate::efi::uki::sections(data);
    let _ = crate::elf::check_static(data);
}

/// Texts of depmod(8), cut at NUL bytes: modules.dep, modules.alias, modules.softdep, a wanted name.
pub fn modules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    let (dep, alias, softdep, wanted) = (Dependencies::parse(next()), next(), next(), next());
    let selection = dep.select([wanted], softdep);
    let _ = dep.reduced(&selection, str::to_owned);
    let _ = reduced_softdep(softdep, &Aliases::parse(alias), &selection);
    let _ = reduced_aliases(alias, &selection);
}
