//! What becomes of a generation that was tried: kept, or given up. Both for the agent's counter and the loaders'.

use std::path::Path;

use cairn_disk::error::DiskError;
use cairn_disk::generation::{Store, Stored};
use cairn_disk::loader::Loaders;
use cairn_disk::mounts::{Mounts, detach};
use cairn_disk::system::SystemDisk;
use cairn_protocol::ids::Sha256Digest;

use super::disks;
use crate::engine::Trouble;
use crate::running::{self, Running};
use crate::worker::context::Context;

/// Layers, UKIs, images and their indexes that no kept generation names are removed after a commit, on DATA and on the
/// ESP.
fn collect(
    disk: Option<&SystemDisk>,
    mounts: &Mounts,
    state: &Path,
    data: &Path,
    running: &Running,
) -> Result<(), DiskError> {
    let store = Store::open(state)?;
    store.collect(&[&running.id])?;
    let kept = store.list()?.stored;
    // One that cannot be read may need any of them.
    let Some(needed) = needed(&kept) else { return Ok(()) };
    cairn_disk::generation::collect_components(data, &needed)?;
    let mut ukis = vec![running.uki.clone()];
    ukis.extend(running::candidates(&kept, &running.uki).into_iter().map(|candidate| candidate.uki));
    let ukis: Vec<&str> = ukis.iter().map(String::as_str).collect();
    on_esp(disk, mounts, |loaders| loaders.collect(&ukis, 0).map(drop))
}

/// The digests of all components that `kept` name; `None` when a manifest among them cannot be read.
fn needed(kept: &[Stored]) -> Option<Vec<Sha256Digest>> {
    let mut needed = Vec::new();
    for one in kept {
        for bundle in &running::unverified(one)?.bundles {
            let manifest = cairn_bundle::manifest::parse(&running::manifest(one, &bundle.sha256)?).ok()?;
            needed.extend(manifest.components.into_iter().map(|component| component.sha256));
        }
    }
    Some(needed)
}

/// Changes the ESP, mounted for as short as can be: it has no journal.
pub(super) fn on_esp(
    disk: Option<&SystemDisk>,
    mounts: &Mounts,
    change: impl FnOnce(&Loaders) -> Result<(), DiskError>,
) -> Result<(), DiskError> {
    // A folder that stands for a disk has no ESP.
    let Some(disk) = disk.filter(|disk| disk.layout().is_some()) else { return Ok(()) };
    disk.mount_esp(mounts)?;
    let changed = Loaders::open(&mounts.esp).and_then(|loaders| change(&loaders));
    nix::unistd::sync();
    let detached = detach(&mounts.esp);
    changed.and(detached)
}

/// Keeps the running generation: its UKI first, then the generation itself; a cut in between is mended by the next boot,
/// which tries it again with a good UKI. `tidy` removes what no kept generation needs.
pub(crate) async fn commit(context: &mut Context, running: &Running, tidy: bool) -> Result<(), Trouble> {
    let (disk, mounts, state) =
        (context.disk.clone(), Mounts::below(&context.paths.run()), context.paths.state());
    let (running, data) = (running.clone(), context.paths.data());
    super::blocking(move || {
        on_esp(disk.as_ref(), &mounts, |loaders| {
            // A node that runs from the network or a stick has no UKI of this version on its disk.
            let there = loaders.list()?.iter().any(|one| one.version == running.uki);
            if there { loaders.bless(&running.uki) } else { Ok(()) }
        })?;
        Store::open(&state)?.commit(&running.id)?;
        if tidy && let Err(error) = collect(disk.as_ref(), &mounts, &state, &data, &running) {
            tracing::warn!(%error, "old generations are not removed");
        }
        Ok(())
    })
    .await?
    .map_err(|error| disks::trouble(&error))
}

/// Gives the running generation up; the next boot takes the last good one.
pub(crate) async fn give_up(context: &mut Context, running: &Running, reason: &str) -> Result<(), Trouble> {
    let (disk, mounts, state) =
        (context.disk.clone(), Mounts::below(&context.paths.run()), context.paths.state());
    let (id, uki, reason) = (running.id.clone(), running.uki.clone(), reason.to_owned());
    super::blocking(move || {
        let store = Store::open(&state)?;
        store.fail(&id, &reason)?;
        // Another generation that is good may name the same UKI: then the UKI stays.
        let shared = running::candidates(&store.list()?.stored, &uki)
            .iter()
            .any(|one| one.uki == uki && one.phase == cairn_protocol::generation::Phase::Committed);
        if shared {
            return Ok(());
        }
        on_esp(disk.as_ref(), &mounts, |loaders| {
            let there = loaders.list()?.iter().any(|one| one.version == uki);
            if there { loaders.give_up(&uki) } else { Ok(()) }
        })
    })
    .await?
    .map_err(|error| disks::trouble(&error))
}
