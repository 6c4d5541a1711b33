//! Generations on STATE: what may be booted, kept whole, with the metadata that authorises it.
//!
//! ```text
//! generations/<id>/generation.json          the signed assignment and the controller's keys
//! generations/<id>/manifests/<sha256>.json  the manifests that it names
//! generations/<id>/tuf/*.json               the release metadata that vouches for them
//! generations/<id>/tuf/root_history/*.json  the roots that lead from the image's own to theirs
//! generations/<id>/status.json              phase, tries left; the one file that changes
//! ```
//!
//! A generation is written into a directory with another name, synced, and renamed as the last step: a cut leaves either
//! nothing or all of it. What a cut left unfinished is removed when the store is opened.

pub mod choose;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cairn_bundle::durable;
use cairn_protocol::generation::{self, Generation, GenerationStatus, Phase};
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::limits;

use crate::error::{DiskError, Result};

/// The store's directory on STATE.
pub const DIRECTORY: &str = "generations";
/// Front of the name of a generation that is being written.
const UNFINISHED: &str = ".new-";
/// The most bytes of a status that are read: a phase and one line.
const STATUS_BYTES: u64 = 16 << 10;
/// The most bytes of one file of release metadata; cairn-bundle's own limits are below.
const METADATA_BYTES: u64 = 16 << 20;
/// The directory of roots between the image's own and today's, below `tuf/`: the chain that an offline check follows.
const HISTORY: &str = "root_history";
/// The most metadata files of one generation: the client follows 256 root rotations at most, and knows few roles.
const METADATA_FILES: usize = 512;

/// The generations of one STATE.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// A generation of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The generation. Its signatures are the reader's to check.
    pub generation: Generation,
    /// Where it is in its life.
    pub status: GenerationStatus,
    /// Its directory, with `manifests/` and `tuf/` in it.
    pub dir: PathBuf,
}

/// What lies in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Generations that can be read, newest installation first.
    pub stored: Vec<Stored>,
    /// Ids of those that cannot, and why.
    pub damaged: Vec<(String, String)>,
}

fn is_id(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn sync_directory(dir: &Path) -> Result<()> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(DiskError::io("sync", dir))
}

fn make_directory(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(durable::sync_parent(dir)?),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(DiskError::io("make the directory", dir)(error)),
    }
}

impl Store {
    /// The store on the STATE mounted at `state`; made if missing. Removes what was never finished.
    ///
    /// # Errors
    /// [`DiskError::File`].
    pub fn open(state: &Path) -> Result<Self> {
        let dir = state.join(DIRECTORY);
        make_directory(&dir)?;
        for name in names(&dir)? {
            if name.starts_with(UNFINISHED) {
                let path = dir.join(name);
                fs::remove_dir_all(&path).map_err(DiskError::io("remove", &path))?;
            }
        }
        Ok(Self { dir })
    }

    /// Writes a generation: `manifests` as they were verified, every `*.json` of the directory `tuf` and of its
    /// `root_history`. Its phase is
    /// `staged`, with `tries` boots. One that is there already is left as it is, unless it failed: then it starts anew.
    ///
    /// # Errors
    /// [`DiskError`]; nothing of it is then in the store.
    pub fn stage(&self, generation: &Generation, manifests: &[Vec<u8>], tuf: &Path, tries: u8) -> Result<()> {
        let target = self.path(&generation.id)?;
        let status = GenerationStatus { phase: Phase::Staged, tries_left: tries, reason: None };
        if target.exists() {
            return match self.status(&generation.id)?.phase {
                Phase::Failed => self.set_status(&generation.id, &status),
                _ => Ok(()),
            };
        }
        let new = self.dir.join(format!("{UNFINISHED}{}", generation.id));
        if new.exists() {
            fs::remove_dir_all(&new).map_err(DiskError::io("remove", &new))?;
        }
        for dir in [new.clone(), new.join("manifests")] {
            make_directory(&dir)?;
        }
        for manifest in manifests {
            durable::write(&new.join(format!("manifests/{}.json", Sha256Digest::of(manifest))), manifest)?;
        }
        copy_metadata(tuf, &new.join("tuf"))?;
        write_json(&new.join("status.json"), &status)?;
        write_json(&new.join("generation.json"), generation)?;
        sync_directory(&new)?;
        durable::rename(&new, &target)?;
        Ok(())
    }

    /// All generations.
    ///
    /// # Errors
    /// [`DiskError::File`] when the store itself cannot be listed.
    pub fn list(&self) -> Result<Listing> {
        let (mut stored, mut damaged) = (Vec::new(), Vec::new());
        for id in names(&self.dir)?.into_iter().filter(|name| is_id(name)) {
            match self.get(&id) {
                Ok(one) => stored.push(one),
                Err(error) => damaged.push((id, error.to_string())),
            }
        }
        stored.sort_by(|a, b| {
            (b.generation.installed, &b.generation.id).cmp(&(a.generation.installed, &a.generation.id))
        });
        Ok(Listing { stored, damaged })
    }

    /// One generation.
    ///
    /// # Errors
    /// [`DiskError::Unexpected`] when it is damaged or not there.
    pub fn get(&self, id: &str) -> Result<Stored> {
        let dir = self.path(id)?;
        let path = dir.join("generation.json");
        let bytes = durable::read(&path, limits::GENERATION_BYTES as u64)?.ok_or_else(|| {
            DiskError::Unexpected { path: path.clone(), why: "there is no such generation".to_owned() }
        })?;
        let generation = generation::parse(&bytes)
            .map_err(|e| DiskError::Unexpected { path: path.clone(), why: e.to_string() })?;
        if generation.id != id {
            let why = format!("it is generation {}, in the directory of {id}", generation.id);
            return Err(DiskError::Unexpected { path, why });
        }
        Ok(Stored { generation, status: self.status(id)?, dir })
    }

    /// The status of a generation.
    ///
    /// # Errors
    /// [`DiskError::Unexpected`] when it is damaged or not there.
    pub fn status(&self, id: &str) -> Result<GenerationStatus> {
        let path = self.path(id)?.join("status.json");
        let bytes = durable::read(&path, STATUS_BYTES)?
            .ok_or_else(|| DiskError::Unexpected { path: path.clone(), why: "it is missing".to_owned() })?;
        serde_json::from_slice(&bytes).map_err(|e| DiskError::Unexpected { path, why: e.to_string() })
    }

    fn set_status(&self, id: &str, status: &GenerationStatus) -> Result<()> {
        write_json(&self.path(id)?.join("status.json"), status)
    }

    /// Counts one try down and marks the generation as being tried. To be done before the handover: a boot that hangs
    /// was counted. Answers the tries that are left after this one. A committed generation is not counted.
    ///
    /// # Errors
    /// [`DiskError::Unexpected`] when it failed already or has no try left.
    pub fn count_try(&self, id: &str) -> Result<u8> {
        let status = self.status(id)?;
        match (status.phase, status.tries_left) {
            (Phase::Committed, left) => Ok(left),
            (Phase::Staged | Phase::Trying, 1..) => {
                let tries_left = status.tries_left - 1;
                self.set_status(id, &GenerationStatus { phase: Phase::Trying, tries_left, reason: None })?;
                Ok(tries_left)
            }
            (phase, left) => Err(DiskError::Unexpected {
                path: self.path(id)?,
                why: format!("it is {phase:?} with {left} tries left, and cannot be tried"),
            }),
        }
    }

    /// Declares a generation good.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn commit(&self, id: &str) -> Result<()> {
        self.set_status(id, &GenerationStatus { phase: Phase::Committed, tries_left: 0, reason: None })
    }

    /// Declares a generation failed, for `reason`.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn fail(&self, id: &str, reason: &str) -> Result<()> {
        let reason = Some(limits::clean_text(reason));
        self.set_status(id, &GenerationStatus { phase: Phase::Failed, tries_left: 0, reason })
    }

    /// Removes generations that nothing needs: all but those in `keep` (the running one, the one on trial), the newest
    /// committed one, and the newest failed one, whose reason is still to be told. Answers the ids removed.
    ///
    /// # Errors
    /// [`DiskError::File`].
    pub fn collect(&self, keep: &[&str]) -> Result<Vec<String>> {
        let Listing { stored, damaged } = self.list()?;
        let newest = |phase: Phase| {
            stored.iter().find(|s| s.status.phase == phase && !keep.contains(&s.generation.id.as_str()))
        };
        let kept: Vec<String> = [Phase::Committed, Phase::Failed]
            .into_iter()
            .filter_map(newest)
            .map(|s| s.generation.id.clone())
            .chain(keep.iter().map(|id| (*id).to_owned()))
            .collect();
        let all = stored.into_iter().map(|s| s.generation.id).chain(damaged.into_iter().map(|(id, _)| id));
        let removed: Vec<String> = all.filter(|id| !kept.contains(id)).collect();
        for id in &removed {
            let path = self.path(id)?;
            // Out of sight first: a removal that is cut off must not leave half a generation.
            let gone = self.dir.join(format!("{UNFINISHED}{id}"));
            durable::rename(&path, &gone)?;
            fs::remove_dir_all(&gone).map_err(DiskError::io("remove", &gone))?;
        }
        Ok(removed)
    }

    /// The directory of a generation. The id comes from files and from the network, so it is checked.
    fn path(&self, id: &str) -> Result<PathBuf> {
        if is_id(id) {
            return Ok(self.dir.join(id));
        }
        let why = format!("{:?} is not the id of a generation", limits::clean_text(id));
        Err(DiskError::Unexpected { path: self.dir.clone(), why })
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(DiskError::io("list", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(DiskError::io("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Copies the release metadata of the directory `from`, with its chain of roots, into the directory `to`, made if missing.
///
/// # Errors
/// [`DiskError`]; `to` may hold a part of it then.
pub fn copy_metadata(from: &Path, to: &Path) -> Result<()> {
    make_directory(to)?;
    let copied = copy_json(from, to, METADATA_FILES)?;
    let history = from.join(HISTORY);
    if history.is_dir() {
        make_directory(&to.join(HISTORY))?;
        copy_json(&history, &to.join(HISTORY), METADATA_FILES - copied)?;
    }
    Ok(())
}

/// Copies every `*.json` of the directory `from`, `limit` files at most. Answers how many there were.
fn copy_json(from: &Path, to: &Path, limit: usize) -> Result<usize> {
    let names: Vec<String> = names(from)?.into_iter().filter(|name| name.ends_with(".json")).collect();
    if names.len() > limit {
        let why = format!("it has {} metadata files, more than the {limit} allowed", names.len());
        return Err(DiskError::Unexpected { path: from.to_owned(), why });
    }
    for name in &names {
        let source = from.join(name);
        let bytes = durable::read(&source, METADATA_BYTES)?
            .ok_or_else(|| DiskError::io("read", &source)(io::ErrorKind::NotFound.into()))?;
        durable::write(&to.join(name), &bytes)?;
    }
    Ok(names.len())
}

fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| DiskError::Unexpected { path: path.to_owned(), why: e.to_string() })?;
    durable::write(path, &bytes)?;
    Ok(())
}

/// Where components, their indexes and what is begun of them lie on DATA.
const COMPONENTS: [&str; 5] = ["layers", "ukis", "images", "indexes", "partial"];

/// Removes layers with their trees, UKIs, images and indexes, whole or begun, on the DATA mounted at `data` that no
/// generation names; `needed` are the digests that are named. To be called while nothing is being fetched. What has no
/// digest for its name stays. Answers the names removed.
///
/// # Errors
/// [`DiskError::File`].
pub fn collect_components(data: &Path, needed: &[Sha256Digest]) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for dir in COMPONENTS.map(|name| data.join(name)).into_iter().filter(|dir| dir.exists()) {
        for name in names(&dir)? {
            let stem = name.split_once('.').map_or(name.as_str(), |(stem, _)| stem);
            if stem.parse::<Sha256Digest>().is_ok_and(|digest| !needed.contains(&digest)) {
                durable::remove(&dir.join(&name))?;
                removed.push(name);
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
