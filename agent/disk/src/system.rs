//! Making and mounting the system disk.
//!
//! The order of writes is what makes it safe to cut the power at any of them: first the mark of an unfinished disk, then
//! the old table's end, the new table, the file systems; last, by [`SystemDisk::finish`], `install.json` and the mark's end.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cairn_protocol::plan::{Size, SystemDisk as Wanted};
use nix::mount::MsFlags;

use crate::discover::Found;
use crate::error::{DiskError, Result};
use crate::layout::{self, ALIGN_BYTES, Layout, MARK, MARK_AT, Part, Span, name};
use crate::mounts::{Mounts, PLAIN, attach, is_mount_point};
use crate::parts::{self, PartNode};
use crate::record::{self, InstallRecord};
use crate::signature::TAIL_BYTES;
use crate::tool::Tools;
use crate::{content, fat, folder};

/// The ESP's label: FAT has upper case only.
const ESP_LABEL: &str = "CAIRN-ESP";
/// Percent of STATE that only root may fill: a full STATE must still take a status file.
const STATE_RESERVED: u8 = 1;
/// Bytes zeroed at a time.
const ZERO_CHUNK: usize = 1 << 20;

/// A disk with our partitions on it, or a folder that stands for one ([`crate::folder`]).
#[derive(Debug, Clone)]
pub struct SystemDisk {
    node: PathBuf,
    sector: u32,
    /// `None`: a folder.
    layout: Option<Layout>,
}

pub(crate) fn layout_of(found: &Found) -> Result<Layout> {
    found.layout.ok_or_else(|| DiskError::Unexpected {
        path: found.node.clone(),
        why: "it does not have Cairn's partitions".to_owned(),
    })
}

/// 16 random bytes.
fn random() -> Result<[u8; 16]> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(DiskError::io("read", path))?;
    Ok(bytes)
}

fn zero(file: &File, path: &Path, span: Span) -> Result<()> {
    let zeros = vec![0; ZERO_CHUNK];
    let mut done = 0;
    while done < span.length {
        let length = ZERO_CHUNK.min(usize::try_from(span.length - done).unwrap_or(ZERO_CHUNK));
        file.write_all_at(&zeros[..length], span.start + done).map_err(DiskError::io("write to", path))?;
        done += length as u64;
    }
    Ok(())
}

/// Opens a disk that has our partitions, finished or not.
///
/// # Errors
/// [`DiskError::Unexpected`] when it has none.
pub fn open(found: &Found) -> Result<SystemDisk> {
    let layout = if folder::is_one(&found.node) { None } else { Some(layout_of(found)?) };
    Ok(SystemDisk { node: found.node.clone(), sector: found.disk.sector_bytes, layout })
}

/// Partitions `found` as `want` says and makes its file systems. What is finished is only opened, unless `again`.
/// The caller has made sure that it may ([`crate::choose::system`]). `say` gets one line for each step.
///
/// # Errors
/// [`DiskError`]; the disk is then known as unfinished, and the next call starts over.
pub fn prepare(
    found: &Found,
    want: &Wanted,
    tools: &Tools,
    again: bool,
    say: &dyn Fn(&str),
) -> Result<SystemDisk> {
    if found.finished && !again {
        return open(found);
    }
    let (size, sector) = (found.disk.size_bytes, found.disk.sector_bytes);
    let layout = layout::plan(size, want).map_err(|layout::TooSmall { needed }| DiskError::TooSmall {
        name: found.disk.name.clone(),
        size: Size(size),
        needed: Size(needed),
    })?;
    if folder::is_one(&found.node) {
        say(&format!("emptying the folder {}", found.disk.name));
        folder::make(&found.node)?;
        return Ok(SystemDisk { node: found.node.clone(), sector, layout: None });
    }
    let disk = SystemDisk { node: found.node.clone(), sector, layout: Some(layout) };
    say(&format!("partitioning {}", found.disk.name));
    disk.partition(size, &layout)?;
    for (part, what) in [(Part::Esp, name::ESP), (Part::State, name::STATE), (Part::Data, name::DATA)] {
        say(&format!("making the file system {what}"));
        disk.make(part, &layout, tools)?;
    }
    Ok(disk)
}

impl SystemDisk {
    /// The disk's node, or the file that stands for it.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Where its partitions lie; `None` for a folder, which has none.
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// Where its partitions lie, for what needs them.
    pub(crate) fn partitions(&self) -> Result<&Layout> {
        self.layout.as_ref().ok_or_else(|| DiskError::Unexpected {
            path: self.node.clone(),
            why: "it is a folder and has no partitions".to_owned(),
        })
    }

    /// Its logical sector size in bytes.
    pub fn sector_bytes(&self) -> u32 {
        self.sector
    }

    fn partition(&self, size: u64, layout: &Layout) -> Result<()> {
        let path = &self.node;
        let file = parts::open_disk(path)?;
        let sync = || file.sync_all().map_err(DiskError::io("sync", path));
        let write =
            |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).map_err(DiskError::io("write to", path));
        write(MARK_AT, MARK)?;
        sync()?;
        zero(&file, path, Span { start: 0, length: ALIGN_BYTES })?;
        zero(&file, path, Span { start: size - ALIGN_BYTES, length: ALIGN_BYTES })?;
        sync()?;
        let mut ids = [[0; 16]; 5];
        for id in &mut ids {
            *id = random()?;
        }
        let mut ids = ids.into_iter();
        let table = layout.table(self.sector, &mut || ids.next().unwrap_or_default());
        let encoded = table.encode(size / u64::from(self.sector), self.sector, &[]).ok_or_else(|| {
            DiskError::Unexpected {
                path: path.clone(),
                why: "its size does not take a partition table".to_owned(),
            }
        })?;
        for (at, bytes) in &encoded.writes {
            write(*at, bytes)?;
            sync()?;
        }
        parts::reread(path, &file)
    }

    fn part(&self, part: Part) -> Result<PartNode> {
        parts::open(&self.node, part, self.partitions()?.span(part), false)
    }

    fn make(&self, part: Part, layout: &Layout, tools: &Tools) -> Result<()> {
        let (node, length) = (self.part(part)?, layout.span(part).length);
        let path = node.path();
        {
            // Old signatures must not shine through: some lie where mkfs does not write.
            let file = fs::OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(DiskError::io("open for writing", path))?;
            zero(&file, path, Span { start: 0, length: ALIGN_BYTES.min(length) })?;
            let tail = (TAIL_BYTES as u64).min(length);
            zero(&file, path, Span { start: length - tail, length: tail })?;
            file.sync_all().map_err(DiskError::io("sync", path))?;
            if part == Part::Esp {
                return self.make_esp(layout.esp, &file, path);
            }
        }
        match part {
            Part::State => tools.make_ext4(path, name::STATE, STATE_RESERVED),
            _ => tools.make_ext4(path, name::DATA, 0),
        }
    }

    fn make_esp(&self, span: Span, file: &File, path: &Path) -> Result<()> {
        let hidden = u32::try_from(span.start / u64::from(self.sector)).unwrap_or(0);
        let id = random()?;
        let serial = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
        let image = fat::format(span.length, self.sector, hidden, ESP_LABEL, serial).ok_or_else(|| {
            DiskError::Unexpected { path: path.to_owned(), why: "its size does not make a FAT32".to_owned() }
        })?;
        zero(file, path, Span { start: 0, length: image.zero_bytes })?;
        for (at, bytes) in &image.writes {
            file.write_all_at(bytes, *at).map_err(DiskError::io("write to", path))?;
        }
        file.sync_all().map_err(DiskError::io("sync", path))
    }

    /// Mounts STATE and DATA, each checked first. What is mounted already stays. STATE carries no programs; DATA does, for
    /// containers.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] for what `e2fsck -p` cannot mend; [`DiskError::File`] for a mount that failed (is the
    /// module ext4 loaded?).
    pub fn mount(&self, mounts: &Mounts, tools: &Tools) -> Result<()> {
        if self.layout.is_none() {
            return folder::mount_both(&self.node, mounts);
        }
        for (part, at, flags, mode) in [
            (Part::State, &mounts.state, PLAIN | MsFlags::MS_NOEXEC, 0o700),
            (Part::Data, &mounts.data, PLAIN, 0o755),
        ] {
            if is_mount_point(at) {
                continue;
            }
            let node = self.part(part)?;
            tools.check_ext4(node.path())?;
            attach(node.path(), at, "ext4", flags, "errors=remount-ro")?;
            fs::set_permissions(at, fs::Permissions::from_mode(mode))
                .map_err(DiskError::io("protect", at))?;
        }
        Ok(())
    }

    /// Mounts the ESP. Apart from [`SystemDisk::mount`], because only a change of boot loader or UKI needs it: the less
    /// it is mounted for writing, the less a power cut finds half done.
    ///
    /// # Errors
    /// [`DiskError::File`] (are the modules vfat, nls_cp437 and nls_ascii loaded?).
    pub fn mount_esp(&self, mounts: &Mounts) -> Result<()> {
        if is_mount_point(&mounts.esp) {
            return Ok(());
        }
        let node = self.part(Part::Esp)?;
        attach(node.path(), &mounts.esp, "vfat", PLAIN | MsFlags::MS_NOEXEC, "umask=0077,errors=remount-ro")
    }

    /// Writes `install.json` on the STATE mounted at `state`, then takes the mark away: from then on the disk is finished.
    ///
    /// # Errors
    /// [`DiskError`]; the disk then stays unfinished.
    pub fn finish(&self, state: &Path, record: &InstallRecord) -> Result<()> {
        record::write(state, record)?;
        if self.layout.is_none() {
            return Ok(());
        }
        let path = &self.node;
        // Not claimed: its partitions are mounted.
        let file =
            fs::OpenOptions::new().write(true).open(path).map_err(DiskError::io("open for writing", path))?;
        zero(&file, path, Span { start: MARK_AT, length: 4096 })?;
        file.sync_all().map_err(DiskError::io("sync", path))
    }

    /// Whether the mark of an unfinished disk is there.
    ///
    /// # Errors
    /// [`DiskError::File`].
    pub fn is_unfinished(&self) -> Result<bool> {
        self.partitions()?;
        let file = File::open(&self.node).map_err(DiskError::io("open", &self.node))?;
        content::is_marked(&file).map_err(DiskError::io("read", &self.node))
    }
}
