//! `activate`: boot loader and generation written; a reboot into them.

use std::path::PathBuf;

use cairn_disk::error::DiskError;
use cairn_disk::generation::Store;
use cairn_disk::loader::{LoaderFiles, install_loaders};
use cairn_disk::mounts::Mounts;
use cairn_disk::record::InstallRecord;
use cairn_disk::system::SystemDisk;
use cairn_protocol::generation::{DEFAULT_TRIES, Generation};
use cairn_protocol::heartbeat::Severity;
use cairn_protocol::plan::Disks;
use cairn_protocol::stage::Stage;

use super::{disks, plan};
use crate::control::Message;
use crate::engine::{Outcome, Trouble};
use crate::fetch::Places;
use crate::running;
use crate::worker::context::Context;

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    if context.chosen.is_some() {
        return Outcome::Done;
    }
    match activate(context).await {
        Ok(()) => Outcome::Done,
        Err(trouble) => Outcome::Wait(trouble),
    }
}

async fn activate(context: &mut Context) -> Result<(), Trouble> {
    plan::still_current(context)?;
    stage(context).await?;
    let id = context.assignment.as_ref().map(|accepted| accepted.etag.clone()).unwrap_or_default();
    context.console.note(Stage::Activate, format!("generation {id} is staged, rebooting into it"));
    if let Some(heartbeats) = context.heartbeats.take() {
        heartbeats.last().await;
    }
    context.control.send(&Message::Reboot { reason: format!("generation {id} is staged") });
    // PID 1 ends this process within seconds.
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    Err(Trouble::waiting("the reboot did not come", "nothing: it is asked for again"))
}

/// What writing a generation takes; all of it owned, so that it can be done on another thread.
struct Work {
    disk: Option<SystemDisk>,
    mounts: Mounts,
    state: PathBuf,
    generation: Generation,
    manifests: Vec<Vec<u8>>,
    tuf: PathBuf,
    uki: Option<(String, PathBuf)>,
    running_uki: String,
    record: Option<InstallRecord>,
}

/// Writes the fetched generation beside what is there, to be tried at the next boot.
pub(crate) async fn stage(context: &mut Context) -> Result<(), Trouble> {
    let missing =
        |what: &str| Trouble::waiting(format!("{what} is not there yet"), "the node tries again by itself");
    let accepted = context.assignment.clone().ok_or_else(|| missing("the assignment").from(Stage::Plan))?;
    let release = context.release.clone().ok_or_else(|| missing("the release").from(Stage::Fetch))?;
    let identity = context.identity.as_ref().ok_or_else(|| missing("the identity").from(Stage::Identity))?;
    let keys = identity.keys.clone().ok_or_else(|| missing("the controller's key").from(Stage::Enrol))?;
    let places = Places::new(context.paths.data());
    let components = release.bundles.iter().flat_map(|bundle| &bundle.manifest.components);
    let uki = components
        .filter_map(|component| Some((component.uki.as_ref()?.version.clone(), places.file(component))))
        .next();
    let assignment = &accepted.assignment;
    let work = Work {
        disk: context.disk.clone(),
        mounts: Mounts::below(&context.paths.run()),
        state: context.paths.state(),
        generation: Generation {
            version: 1,
            id: accepted.etag.clone(),
            keys,
            assignment: accepted.envelope.clone(),
            installed: context.clock.now(),
            manifests: release.bundles.iter().map(|bundle| bundle.assigned.target.clone()).collect(),
        },
        manifests: release.bundles.iter().map(|bundle| bundle.bytes.clone()).collect(),
        tuf: release.tuf.clone(),
        uki,
        running_uki: context.settings().map(|settings| settings.image_version.clone()).unwrap_or_default(),
        record: assignment.plan.disks.clone().map(|plan: Disks| InstallRecord {
            version: 1,
            site: assignment.site.clone(),
            node: assignment.node.clone(),
            reinstall: assignment.reinstall,
            plan,
        }),
    };
    super::blocking(move || write(&work)).await?.map_err(|error| disks::trouble(&error))?;
    let line = format!("generation {} of assignment {} is staged", accepted.etag, assignment.sequence);
    context.spool.event(&context.clock, Stage::Activate, Severity::Info, "generation-staged", &line);
    Ok(())
}

/// The order: the generation first, then what boots it, then the mark that the disk is finished. A cut in between leaves
/// a disk that is installed again, or boots what it booted before.
fn write(work: &Work) -> Result<(), DiskError> {
    let store = Store::open(&work.state)?;
    let stored = store.list()?.stored;
    store.stage(&work.generation, &work.manifests, &work.tuf, DEFAULT_TRIES)?;
    let Some(disk) = &work.disk else { return Ok(()) };
    let esp = &work.mounts.esp;
    super::outcome::on_esp(Some(disk), &work.mounts, |loaders| {
        if !esp.join("EFI/BOOT/BOOTX64.EFI").exists() {
            install_loaders(disk, esp, &LoaderFiles::default())?;
        }
        let Some((version, file)) = &work.uki else { return Ok(()) };
        let candidates = running::candidates(&stored, &work.running_uki);
        let keep: Vec<&str> = candidates.iter().map(|candidate| candidate.uki.as_str()).collect();
        let good = loaders.list()?.into_iter().any(|one| one.version == *version && one.tries_left.is_none());
        if good { Ok(()) } else { loaders.install(version, file, DEFAULT_TRIES, &keep) }
    })?;
    if let Some(record) = &work.record
        && cairn_disk::record::read(&work.state)?.as_ref() != Some(record)
    {
        disk.finish(&work.state, record)?;
    }
    Ok(())
}
