//! What a bundle consists of on disk: indexes and chunks, checked as a node checks them, and copied.

use std::path::{Path, PathBuf};

use cairn_bundle::caibx::{Entry, Index};
use cairn_bundle::chunk::Decoder;
use cairn_bundle::manifest::Component;
use cairn_bundle::store::Store;
use cairn_bundle::{Sha256Digest, durable};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, read_limited};
use crate::progress;

pub(crate) fn open_store(dir: &Path) -> Result<Store, Error> {
    Store::open(&dir.join("chunks.castr")).map_err(Error::failed)
}

/// Reads one component's index, checked against the manifest.
pub(crate) fn read_index(dir: &Path, component: &Component) -> Result<Index, Error> {
    let path = dir.join(component.index.path());
    let bytes = read_limited(&path, component.index.length)?;
    if Sha256Digest::of(&bytes) != component.index.sha256 {
        return Err(Error::input(&path, "is not the index that the manifest names; build the bundle again"));
    }
    Index::parse(bytes).map_err(|e| Error::input(&path, e))
}

/// Reads all of a component as a node would: each chunk by its id, the whole by its digest.
pub(crate) fn verify(dir: &Path, store: &Store, component: &Component) -> Result<(), Error> {
    let index = read_index(dir, component)?;
    let bar = progress::bytes(&format!("checking {}", component.name), component.length);
    let (mut decoder, mut whole) = (Decoder::new(), Sha256::new());
    for entry in index.entries() {
        whole.update(read_chunk(store, &entry, &mut decoder)?);
        bar.inc(u64::from(entry.length));
    }
    bar.finish_and_clear();
    let found = Sha256Digest(whole.finalize().into());
    if found == component.sha256 && index.component_length() == component.length {
        return Ok(());
    }
    Err(Error::input(
        &dir.join(component.index.path()),
        format!("{} is not what the manifest says; build the bundle again", component.name),
    ))
}

/// One chunk, unpacked and checked.
fn read_chunk<'a>(store: &Store, entry: &Entry, decoder: &'a mut Decoder) -> Result<&'a [u8], Error> {
    let bad = |why: String| Error::input(&store.path(&entry.id), why);
    match store.read(&entry.id, entry.length, decoder) {
        Ok(Some(plain)) => Ok(plain),
        Ok(None) => Err(bad("the chunk is missing; build the bundle again".to_owned())),
        Err(error) => Err(bad(format!("{error}; build the bundle again"))),
    }
}

/// Copies one component's chunks and index from one folder to another.
pub(crate) fn copy(
    dir: &Path,
    to: &Path,
    from: &Store,
    into: &Store,
    component: &Component,
) -> Result<(), Error> {
    let index = read_index(dir, component)?;
    transfer(&index, from, into, &format!("adding {}", component.name))?;
    let place = to.join(component.index.path());
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder).map_err(Error::failed)?;
    }
    durable::write(&place, index.as_bytes()).map_err(Error::failed)
}

/// Gives one store copies of another's chunks: written, synced all at once, then renamed.
pub(crate) fn transfer(index: &Index, from: &Store, into: &Store, what: &str) -> Result<(), Error> {
    let bar = progress::bytes(what, index.component_length());
    // Holds the collector off.
    let _writer = into.writer().map_err(Error::failed)?;
    let mut decoder = Decoder::new();
    let mut placed = std::collections::BTreeMap::new();
    let failed = |doing: &str, path: &Path, e: std::io::Error| {
        Error::Failed(format!("cannot {doing} {}: {e}", path.display()))
    };
    for entry in index.entries() {
        bar.inc(u64::from(entry.length));
        let (source, place) = (from.path(&entry.id), into.path(&entry.id));
        // What lies there and is damaged is replaced.
        if placed.contains_key(&place) || into.holds(&entry.id, entry.length, &mut decoder) {
            continue;
        }
        read_chunk(from, &entry, &mut decoder)?;
        let folder = place.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|e| failed("create", folder, e))?;
        // The collector knows what ends so for the remains of a power cut.
        let tmp = place.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::copy(&source, &tmp).map_err(|e| failed("copy", &source, e))?;
        placed.insert(place, tmp);
    }
    sync(placed.values())?;
    for (place, tmp) in &placed {
        std::fs::rename(tmp, place).map_err(|e| failed("rename to", place, e))?;
    }
    sync(placed.keys())?;
    bar.finish_and_clear();
    Ok(())
}

/// One sync of the file system instead of one for each of a thousand files, which takes ten times as long.
fn sync<'a>(mut paths: impl Iterator<Item = &'a PathBuf>) -> Result<(), Error> {
    let Some(any) = paths.next() else { return Ok(()) };
    let status = std::process::Command::new("sync").arg("-f").arg(any).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Error::Failed(format!("cannot sync the file system of {}", any.display()))),
    }
}
