//! What becomes of a generation that was tried: kept, or given up. Both for the agent's counter and the loaders'.

use cairn_disk::error::DiskError;
use cairn_disk::generation::Store;
use cairn_disk::loader::Loaders;
use cairn_disk::mounts::{Mounts, detach};
use cairn_disk::system::SystemDisk;

use super::disks;
use crate::engine::Trouble;
use crate::running::{self, Running};
use crate::worker::context::Context;

/// Layers, UKIs and their indexes that no kept generation names are removed after a commit.
fn collect(context: &Context, store: &Store, running: &Running) -> Result<(), DiskError> {
    store.collect(&[&running.id])?;
    let mut needed = Vec::new();
    for one in store.list()?.stored {
        let Some(assignment) = running::unverified(&one) else { continue };
        for bundle in &assignment.bundles {
            let manifest = running::manifest(&one, &bundle.sha256);
            let manifest = manifest.and_then(|bytes| cairn_bundle::manifest::parse(&bytes).ok());
            needed.extend(manifest.into_iter().flat_map(|m| m.components).map(|component| component.sha256));
        }
    }
    cairn_disk::generation::collect_layers(&context.paths.data().join("layers"), &needed)?;
    Ok(())
}

fn on_esp(
    disk: Option<&SystemDisk>,
    mounts: &Mounts,
    change: impl FnOnce(&Loaders) -> Result<(), DiskError>,
) -> Result<(), DiskError> {
    let Some(disk) = disk else { return Ok(()) };
    disk.mount_esp(mounts)?;
    let changed = Loaders::open(&mounts.esp).and_then(|loaders| change(&loaders));
    nix::unistd::sync();
    let detached = detach(&mounts.esp);
    changed.and(detached)
}

/// Keeps the running generation: its UKI first, then the generation itself; a cut in between is mended by the next boot,
/// which tries it again with a good UKI.
pub(crate) async fn commit(context: &mut Context, running: &Running) -> Result<(), Trouble> {
    let (disk, mounts, state) =
        (context.disk.clone(), Mounts::below(&context.paths.run()), context.paths.state());
    let (id, uki) = (running.id.clone(), running.uki.clone());
    super::blocking(move || {
        on_esp(disk.as_ref(), &mounts, |loaders| {
            // A node that runs from the network or a stick has no UKI of this version on its disk.
            let there = loaders.list()?.iter().any(|one| one.version == uki);
            if there { loaders.bless(&uki) } else { Ok(()) }
        })?;
        Store::open(&state)?.commit(&id)
    })
    .await?
    .map_err(|error| disks::trouble(&error))?;
    if let Ok(store) = Store::open(&context.paths.state())
        && let Err(error) = collect(context, &store, running)
    {
        tracing::warn!(%error, "old generations are not removed");
    }
    Ok(())
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
