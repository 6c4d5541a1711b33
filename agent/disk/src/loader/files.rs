//! Files of the ESP: written beside their place, synced, renamed.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cairn_bundle::durable;

use super::grub;
use super::pe::{self, Section};
use crate::error::{DiskError, Result};

/// What a file is called while it is written: no loader looks at this ending.
const TEMPORARY: &str = ".new";
/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;
/// The longest command line of a UKI: the kernel's own limit on x86 (COMMAND_LINE_SIZE).
const CMDLINE_BYTES: u64 = 2048;
/// The longest os-release that is read.
const OSREL_BYTES: u64 = 16 << 10;

/// A UKI, opened and cut into sections.
pub(super) struct Uki {
    path: PathBuf,
    length: u64,
    sections: Vec<Section>,
}

impl Uki {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(DiskError::io("open", path))?;
        let length = file.metadata().map_err(DiskError::io("read", path))?.len();
        let mut head = Vec::new();
        file.take(pe::HEAD_BYTES as u64).read_to_end(&mut head).map_err(DiskError::io("read", path))?;
        let sections = pe::sections(&head, length)
            .map_err(|e| DiskError::Unexpected { path: path.to_owned(), why: e.to_string() })?;
        Ok(Self { path: path.to_owned(), length, sections })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that its parts take beside it.
    pub(super) fn parts_length(&self) -> u64 {
        self.sections
            .iter()
            .filter(|s| [".linux", ".initrd"].contains(&s.name.as_str()))
            .map(|s| s.length)
            .sum()
    }

    fn section(&self, name: &str) -> Result<&Section> {
        let mut named = self.sections.iter().filter(|section| section.name == name);
        match (named.next(), named.next()) {
            (Some(section), None) => Ok(section),
            _ => Err(DiskError::Unexpected {
                path: self.path.clone(),
                why: format!("it is no UKI: it does not have one section {name}"),
            }),
        }
    }

    fn reader(&self, section: &Section) -> io::Result<io::Take<File>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(section.offset))?;
        Ok(file.take(section.length))
    }

    fn text(&self, name: &str, limit: u64) -> Result<String> {
        let section = self.section(name)?;
        let mut bytes = Vec::new();
        self.reader(section)
            .and_then(|reader| reader.take(limit).read_to_end(&mut bytes))
            .map_err(DiskError::io("read", &self.path))?;
        Ok(String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n', ' ']).to_owned())
    }

    /// The loader orders UKIs by what they say of themselves: it must be what the file's name will say.
    pub(super) fn check_version(&self, version: &str) -> Result<()> {
        let os_release = self.text(".osrel", OSREL_BYTES)?;
        match pe::version_id(&os_release) {
            Some(own) if own == version => Ok(()),
            own => Err(DiskError::Unexpected {
                path: self.path.clone(),
                why: format!("it says it is version {}, not {version}", own.unwrap_or("(none)")),
            }),
        }
    }

    /// Whether `other` has the same bytes. A file that cannot be read has not.
    pub(super) fn is_same_as(&self, other: &Path) -> Result<bool> {
        let file = File::open(&self.path).map_err(DiskError::io("open", &self.path))?;
        let Ok(other) = File::open(other) else { return Ok(false) };
        if other.metadata().is_ok_and(|metadata| metadata.len() != self.length) {
            return Ok(false);
        }
        Ok(same(file, other).unwrap_or(false))
    }

    /// Whether its parts lie in `dir`, whole: the entry is written last.
    pub(super) fn are_parts_in(&self, dir: &Path) -> Result<bool> {
        let entry = durable::read(&dir.join("entry.cfg"), 2 * CMDLINE_BYTES + 1024).ok().flatten();
        let expected = self.entry(dir)?;
        if entry.as_deref() != Some(expected.as_bytes()) {
            return Ok(false);
        }
        for (section, file) in [(".linux", "vmlinuz"), (".initrd", "initramfs.img")] {
            let own = self.reader(self.section(section)?).map_err(DiskError::io("read", &self.path))?;
            let Ok(other) = File::open(dir.join(file)) else { return Ok(false) };
            if !same(own, other).unwrap_or(false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry(&self, dir: &Path) -> Result<String> {
        let version = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(grub::entry(&version, &self.text(".cmdline", CMDLINE_BYTES)?))
    }

    /// Writes its parts into `dir`, the entry last: without it GRUB does not start this version.
    pub(super) fn cut_into(&self, dir: &Path) -> Result<()> {
        make_directory(dir)?;
        durable::remove(&dir.join("entry.cfg"))?;
        for (section, file) in [(".linux", "vmlinuz"), (".initrd", "initramfs.img")] {
            let mut reader =
                self.reader(self.section(section)?).map_err(DiskError::io("read", &self.path))?;
            write_from(&mut reader, &dir.join(file))?;
        }
        durable::write(&dir.join("cmdline"), self.text(".cmdline", CMDLINE_BYTES)?.as_bytes())?;
        durable::write(&dir.join("entry.cfg"), self.entry(dir)?.as_bytes())?;
        Ok(())
    }

    pub(super) fn copy_to(&self, target: &Path) -> Result<()> {
        let mut file = File::open(&self.path).map_err(DiskError::io("open", &self.path))?;
        write_from(&mut file, target)
    }
}

fn same(mut one: impl io::Read, mut other: impl io::Read) -> io::Result<bool> {
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let count = read_full(&mut one, &mut a)?;
        if count != read_full(&mut other, &mut b)? || a[..count] != b[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn read_full(reader: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Copies `reader` to `target`: beside it, synced, renamed.
fn write_from(reader: &mut impl io::Read, target: &Path) -> Result<()> {
    let mut name = target.as_os_str().to_owned();
    name.push(TEMPORARY);
    let temporary = PathBuf::from(name);
    let mut file = File::create(&temporary).map_err(DiskError::io("create", &temporary))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = read_full(reader, &mut buffer).map_err(DiskError::io("read the source of", target))?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).map_err(DiskError::io("write", &temporary))?;
    }
    file.sync_all().map_err(DiskError::io("sync", &temporary))?;
    drop(file);
    durable::rename(&temporary, target)?;
    Ok(())
}

pub(super) fn make_directory(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(DiskError::io("make the directory", dir))?;
    // Its parents may be new as well; two levels are the most there are.
    for path in [Some(dir), dir.parent()].into_iter().flatten() {
        durable::sync_parent(path)?;
    }
    Ok(())
}

pub(super) fn remove_directory(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(durable::sync_parent(dir)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DiskError::io("remove", dir)(error)),
    }
}

/// Removes what a cut write left in `dir`.
pub(super) fn remove_temporary(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(DiskError::io("list", dir))? {
        let path = entry.map_err(DiskError::io("list", dir))?.path();
        if path.to_string_lossy().ends_with(TEMPORARY) {
            durable::remove(&path)?;
        }
    }
    Ok(())
}
