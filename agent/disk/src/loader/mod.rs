//! Boot loaders: systemd-boot for UEFI and GRUB for BIOS, side by side on one ESP, with the same tries.
//!
//! | file on the ESP | what |
//! |---|---|
//! | `EFI/BOOT/BOOTX64.EFI` | systemd-boot |
//! | `loader/loader.conf` | its settings |
//! | `EFI/Linux/cairn_<version>[+left[-done]].efi` | UKIs, tries in the name |
//! | `cairn/grub.cfg`, `cairn/grubenv` | GRUB's menu, and the good version, the tried one and its tries |
//! | `cairn/<version>/{vmlinuz,initramfs.img,cmdline,entry.cfg}` | the UKI's parts, for GRUB |
//!
//! Every file is written beside its place, synced and renamed. FAT has no journal: a cut in the middle of a rename can
//! leave both names or none. [`Loaders::open`] mends the first; the second is a UKI that is missing, which the loaders
//! pass over and the agent writes again.

mod files;
pub mod grub;
pub mod grubenv;
pub mod names;
pub mod pe;
mod place;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cairn_bundle::durable;
use cairn_protocol::plan::Size;

use crate::error::{DiskError, Result};
use crate::mounts::free_bytes;
use files::Uki;
use grubenv::GrubEnv;
use names::{UkiName, is_version};
pub use place::{LoaderFiles, install_loaders};

/// UKIs that are kept when nothing is said: the one that runs, the last good one, the new one.
pub const DEFAULT_KEEP: usize = 3;
/// The most tries: what grub.cfg can count.
pub const MAX_TRIES: u8 = 5;
/// Bytes that stay free on the ESP, for directory entries and the loaders' own small files.
const MARGIN_BYTES: u64 = 4 << 20;

/// A version that the loaders can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The version.
    pub version: String,
    /// Tries left, by whichever loader counted further; `None` for a good one.
    pub tries_left: Option<u8>,
}

impl Installed {
    /// Whether the loaders have given up on it.
    pub fn is_spent(&self) -> bool {
        self.tries_left == Some(0)
    }
}

/// The ESP's boot files.
#[derive(Debug)]
pub struct Loaders {
    esp: PathBuf,
}

impl Loaders {
    /// The boot files of the ESP mounted at `esp`. Mends what a power cut left: temporary files, a version under two
    /// names (the better one stays).
    ///
    /// # Errors
    /// [`DiskError::File`].
    pub fn open(esp: &Path) -> Result<Self> {
        let loaders = Self { esp: esp.to_owned() };
        files::make_directory(&loaders.ukis())?;
        files::make_directory(&loaders.esp.join("cairn"))?;
        files::remove_temporary(&loaders.ukis())?;
        for (_, names) in loaders.by_version()? {
            // A good name wins over a counter: it was given only after the health checks; else the fewest tries.
            let best = names.iter().min_by_key(|name| name.tries).cloned();
            for name in names.iter().filter(|name| Some(*name) != best.as_ref()) {
                durable::remove(&loaders.ukis().join(name.to_string()))?;
            }
        }
        Ok(loaders)
    }

    fn ukis(&self) -> PathBuf {
        self.esp.join("EFI/Linux")
    }

    fn parts(&self, version: &str) -> PathBuf {
        self.esp.join("cairn").join(version)
    }

    fn env_path(&self) -> PathBuf {
        self.esp.join("cairn/grubenv")
    }

    fn by_version(&self) -> Result<BTreeMap<String, Vec<UkiName>>> {
        let dir = self.ukis();
        let mut found: BTreeMap<String, Vec<UkiName>> = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(DiskError::io("list", &dir))? {
            let entry = entry.map_err(DiskError::io("list", &dir))?;
            if let Some(name) = entry.file_name().to_str().and_then(UkiName::parse) {
                found.entry(name.version.clone()).or_default().push(name);
            }
        }
        Ok(found)
    }

    fn name_of(&self, version: &str) -> Result<UkiName> {
        self.by_version()?.remove(version).and_then(|mut names| names.pop()).ok_or_else(|| {
            DiskError::Unexpected { path: self.ukis(), why: format!("there is no UKI of version {version}") }
        })
    }

    fn env(&self) -> Result<GrubEnv> {
        let bytes = durable::read(&self.env_path(), grubenv::BYTES as u64)?;
        Ok(bytes.map(|bytes| GrubEnv::parse(&bytes)).unwrap_or_default())
    }

    fn set_env(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<()> {
        let mut env = self.env()?;
        change(&mut env.0);
        let bytes = env.to_bytes().ok_or_else(|| DiskError::Unexpected {
            path: self.env_path(),
            why: "its variables do not fit".to_owned(),
        })?;
        durable::write(&self.env_path(), &bytes)?;
        Ok(())
    }

    /// What can be started, by version.
    ///
    /// # Errors
    /// [`DiskError::File`].
    pub fn list(&self) -> Result<Vec<Installed>> {
        let env = self.env()?;
        let counted =
            env.get("cairn_try").zip(env.get("cairn_tries").and_then(|tries| tries.parse::<u8>().ok()));
        let installed = |(version, names): (String, Vec<UkiName>)| {
            let by_name = names.first().and_then(|name| name.tries).map(|(left, _)| left);
            let by_grub = counted.filter(|(tried, _)| *tried == version).map(|(_, left)| left);
            // A good name means that both counters are over, even if a cut kept the second from being cleared.
            let tries_left = by_name.map(|left| by_grub.map_or(left, |other| left.min(other)));
            Installed { version, tries_left }
        };
        Ok(self.by_version()?.into_iter().map(installed).collect())
    }

    /// Puts the UKI in the file `uki` on the ESP as `version`, to be tried `tries` times (1 to [`MAX_TRIES`]) from the
    /// next boot on. A version that is there with the same bytes is not written again; its tries start anew unless it is
    /// good. Other versions are removed to make room, except those in `keep`.
    ///
    /// # Errors
    /// [`DiskError::Unexpected`] for a file that is no UKI of this version; [`DiskError::Full`].
    pub fn install(&self, version: &str, uki: &Path, tries: u8, keep: &[&str]) -> Result<()> {
        if !is_version(version) || !(1..=MAX_TRIES).contains(&tries) {
            return Err(DiskError::Unexpected {
                path: uki.to_owned(),
                why: format!("version {version:?} with {tries} tries cannot be a boot entry"),
            });
        }
        let source = Uki::open(uki)?;
        source.check_version(version)?;
        let present = self.by_version()?.remove(version).and_then(|mut names| names.pop());
        if let Some(name) = &present {
            let path = self.ukis().join(name.to_string());
            if source.is_same_as(&path)? && source.are_parts_in(&self.parts(version))? {
                return if name.tries.is_none() { Ok(()) } else { self.count_anew(version, tries) };
            }
        }
        let mut keep = keep.to_vec();
        keep.push(version);
        self.make_room(source.length() + source.parts_length() + MARGIN_BYTES, &keep)?;
        source.cut_into(&self.parts(version))?;
        let name = UkiName { version: version.to_owned(), tries: Some((tries, 0)) };
        source.copy_to(&self.ukis().join(name.to_string()))?;
        if let Some(old) = present.filter(|old| *old != name) {
            durable::remove(&self.ukis().join(old.to_string()))?;
        }
        self.try_in_grub(version, tries)
    }

    fn count_anew(&self, version: &str, tries: u8) -> Result<()> {
        self.rename(version, Some((tries, 0)))?;
        self.try_in_grub(version, tries)
    }

    fn try_in_grub(&self, version: &str, tries: u8) -> Result<()> {
        self.set_env(|env| {
            env.insert("cairn_try".to_owned(), version.to_owned());
            env.insert("cairn_tries".to_owned(), tries.to_string());
        })
    }

    fn rename(&self, version: &str, tries: Option<(u8, u8)>) -> Result<()> {
        let old = self.name_of(version)?;
        let new = UkiName { tries, ..old.clone() };
        if new != old {
            let ukis = self.ukis();
            durable::rename(&ukis.join(old.to_string()), &ukis.join(new.to_string()))?;
        }
        Ok(())
    }

    /// Declares `version` good, for both loaders: what they start from now on.
    ///
    /// # Errors
    /// [`DiskError::Unexpected`] when it is not there.
    pub fn bless(&self, version: &str) -> Result<()> {
        self.rename(version, None)?;
        self.set_env(|env| {
            env.insert("cairn_good".to_owned(), version.to_owned());
            env.remove("cairn_try");
            env.remove("cairn_tries");
        })
    }

    /// Takes away the tries that `version` has left: the loaders go back to the last good one.
    ///
    /// # Errors
    /// [`DiskError::Unexpected`] when it is not there.
    pub fn give_up(&self, version: &str) -> Result<()> {
        let done = self.name_of(version)?.tries.map_or(0, |(_, done)| done);
        self.rename(version, Some((0, done)))?;
        if self.env()?.get("cairn_try") == Some(version) {
            self.set_env(|env| {
                env.insert("cairn_tries".to_owned(), "0".to_owned());
            })?;
        }
        Ok(())
    }

    /// Removes `version`.
    ///
    /// # Errors
    /// [`DiskError::File`].
    pub fn remove(&self, version: &str) -> Result<()> {
        if let Some(names) = self.by_version()?.remove(version) {
            for name in names {
                durable::remove(&self.ukis().join(name.to_string()))?;
            }
        }
        files::remove_directory(&self.parts(version))
    }

    /// Removes versions that are not in `keep`, spent ones first, until at most `limit` are left (at least those of
    /// `keep`). Answers what was removed.
    ///
    /// # Errors
    /// [`DiskError::File`].
    pub fn collect(&self, keep: &[&str], limit: usize) -> Result<Vec<String>> {
        let installed = self.list()?;
        let surplus = installed.len().saturating_sub(limit);
        let removed: Vec<String> = removable(installed, keep).into_iter().take(surplus).collect();
        for version in &removed {
            self.remove(version)?;
        }
        self.remove_orphans(keep)?;
        Ok(removed)
    }

    /// Parts of a version whose UKI is gone.
    fn remove_orphans(&self, keep: &[&str]) -> Result<()> {
        let (dir, known) = (self.esp.join("cairn"), self.by_version()?);
        for entry in fs::read_dir(&dir).map_err(DiskError::io("list", &dir))? {
            let entry = entry.map_err(DiskError::io("list", &dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && !known.contains_key(&name) && !keep.contains(&name.as_str()) {
                files::remove_directory(&entry.path())?;
            }
        }
        Ok(())
    }

    fn make_room(&self, needed: u64, keep: &[&str]) -> Result<()> {
        self.remove_orphans(keep)?;
        let mut removable = removable(self.list()?, keep).into_iter();
        loop {
            let free = free_bytes(&self.esp)?;
            if free >= needed {
                return Ok(());
            }
            match removable.next() {
                Some(version) => self.remove(&version)?,
                None => {
                    return Err(DiskError::Full {
                        path: self.esp.clone(),
                        free: Size(free),
                        needed: Size(needed),
                    });
                }
            }
        }
    }
}

/// What may go, in the order in which it goes: spent versions, then good ones, oldest name first.
fn removable(mut installed: Vec<Installed>, keep: &[&str]) -> Vec<String> {
    installed.retain(|one| !keep.contains(&one.version.as_str()));
    installed.sort_by_key(|one| !one.is_spent());
    installed.into_iter().map(|one| one.version).collect()
}

#[cfg(test)]
mod tests;
