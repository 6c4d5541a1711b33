//! `disks`: selectors resolved, disks partitioned, file systems made and mounted.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use cairn_bundle::durable::{self, FileError};
use cairn_disk::discover::{self, Found, Sources};
use cairn_disk::error::DiskError;
use cairn_disk::generation::copy_metadata;
use cairn_disk::mounts::{self, Mounts};
use cairn_disk::system::{self, SystemDisk};
use cairn_disk::tool::Tools;
use cairn_disk::{choose, record};
use cairn_protocol::plan;
use cairn_protocol::stage::Stage;

use super::plan::work;
use crate::container::Machine;
use crate::engine::{Outcome, Trouble};
use crate::worker::context::Context;

/// The newest release metadata that this node has seen, on STATE and below /run: what is older is refused.
pub(super) const RELEASE_METADATA: &str = "tuf";
/// Modules of the file systems on the system disk.
const MODULES: [&str; 5] = ["ext4", "vfat", "nls_cp437", "nls_ascii", "loop"];

/// Where a disk's STATE is mounted for a moment, below `/run/cairn`.
const SCRATCH: &str = "scratch";

/// The disks of this machine, or of this container. `run` is `/run/cairn`.
pub(crate) fn machine_disks(container: Option<&Machine>, run: &Path) -> Vec<Found> {
    container.map_or_else(
        || discover::disks(&Sources::default(), &run.join(SCRATCH)),
        |machine| machine.found(run),
    )
}

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    match disks(context).await {
        Ok(()) => Outcome::Done,
        Err(trouble) => Outcome::Wait(trouble),
    }
}

/// What a disk error means for the walk.
pub(super) fn trouble(error: &DiskError) -> Trouble {
    match error.code() {
        Some(code) => Trouble::refused(code, error.to_string(), error.advice()),
        None => Trouble::waiting(error.to_string(), error.advice()),
    }
}

/// The disks that the machine has, or that the flags name.
pub(super) async fn discover(context: &mut Context) -> Result<Vec<Found>, Trouble> {
    if let Some(modules) = &mut context.modules {
        for name in MODULES {
            modules.request(name);
        }
    }
    let (run, container) = (context.paths.run(), context.container.clone());
    let (hosted, given) = (context.options.hosted, context.options.disks.clone());
    let found = super::blocking(move || {
        if hosted {
            given.iter().map(|path| discover::given(path, &run.join(SCRATCH))).collect()
        } else {
            Ok(machine_disks(container.as_ref(), &run))
        }
    })
    .await?
    .map_err(|error| trouble(&error))?;
    let disks = found.iter().map(|found| found.disk.clone()).collect();
    context.report.change_status(|status| status.inventory.disks = disks);
    Ok(found)
}

async fn disks(context: &mut Context) -> Result<(), Trouble> {
    let accepted = work(context).await?;
    if context.options.hosted && context.options.disks.is_empty() {
        for dir in [context.paths.state().join("identity"), context.paths.data()] {
            std::fs::create_dir_all(&dir).map_err(|e| {
                Trouble::waiting(
                    format!("{} cannot be made: {e}", dir.display()),
                    "give the agent a writable root",
                )
            })?;
        }
        return keep_on_state(context);
    }
    let Some(plan::Disks { system: wanted }) = accepted.assignment.plan.disks.clone() else {
        return Err(Trouble::waiting(
            "the plan has bundles for this node and no disk to install them on",
            "name a disk in the site's plan: disks.system.match",
        ));
    };
    let found = discover(context).await?;
    let reinstall = accepted.assignment.reinstall;
    let (site, node) = (accepted.assignment.site.clone(), accepted.assignment.node.clone());
    let mounts = Mounts::below(&context.paths.run());
    let console = Arc::clone(&context.console);
    let known = context.disk.clone();
    let floor = context.paths.in_run(RELEASE_METADATA);
    let disk = super::blocking(move || {
        let chosen = choose::system(&found, &wanted, &site, &node)?;
        prepare(chosen, known, &wanted, reinstall, &mounts, &floor, &|line| {
            console.note(Stage::Disks, line);
        })
    })
    .await?
    .map_err(|error| trouble(&error))?;
    context.disk = Some(disk);
    context.asks_since = None;
    keep_on_state(context)
}

/// Partitions where it must, and mounts. `known` is the disk that this process has mounted; `floor` is where the newest
/// release metadata survives a disk that is made anew.
fn prepare(
    chosen: &Found,
    known: Option<SystemDisk>,
    wanted: &plan::SystemDisk,
    reinstall: u64,
    mounts: &Mounts,
    floor: &Path,
    say: &dyn Fn(&str),
) -> Result<SystemDisk, DiskError> {
    let tools = Tools::default();
    let known = known.filter(|known| known.node() == chosen.node);
    match known {
        // The walk came back, as for a new assignment: an unfinished disk is not made anew below its mounts.
        Some(known) if !chosen.finished && mounts::is_mount_point(&mounts.data) => {
            known.mount(mounts, &tools)?;
            return Ok(known);
        }
        Some(_) => {}
        // Another disk, or a worker before this one, which died: what it mounted is not what is made now.
        None => unmount(mounts)?,
    }
    let disk = system::prepare(chosen, wanted, &tools, false, say)?;
    disk.mount(mounts, &tools)?;
    let ordered = record::read(&mounts.state)?.is_some_and(|record| record.reinstall < reinstall);
    if !ordered {
        return Ok(disk);
    }
    say("a reinstall was ordered: the disk is made anew");
    let seen = mounts.state.join(RELEASE_METADATA);
    if let Err(error) = clear(floor).and_then(|()| carry(&seen, floor)) {
        // A disk that cannot be read is what a reinstall may be for.
        say(&format!("older releases will not be told from newer ones: {error}"));
    }
    unmount(mounts)?;
    let disk = system::prepare(chosen, wanted, &tools, true, say)?;
    disk.mount(mounts, &tools)?;
    Ok(disk)
}

/// Copies release metadata to `to` where there is none: whole, or not at all.
fn carry(from: &Path, to: &Path) -> Result<(), DiskError> {
    if to.exists() || !from.is_dir() {
        return Ok(());
    }
    let new = to.with_extension("new");
    clear(&new)?;
    copy_metadata(from, &new)?;
    Ok(durable::rename(&new, to)?)
}

fn clear(dir: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(FileError::at("remove", dir)(error).into()),
        _ => Ok(()),
    }
}

fn unmount(mounts: &Mounts) -> Result<(), DiskError> {
    for at in [&mounts.esp, &mounts.data, &mounts.state] {
        if mounts::is_mount_point(at) {
            mounts::detach(at)?;
        }
    }
    Ok(())
}

/// From now on identity, events and floors are kept on STATE as well.
pub(super) fn keep_on_state(context: &mut Context) -> Result<(), Trouble> {
    let state = context.paths.state();
    if let Some(identity) = &mut context.identity {
        identity
            .keep_on(&state)
            .map_err(|error| Trouble::waiting(error.to_string(), "the node tries again by itself"))?;
    }
    context.spool.attach(&state);
    // Of a disk before this one, or of a walk without a disk.
    carry(&context.paths.in_run(RELEASE_METADATA), &state.join(RELEASE_METADATA)).map_err(|e| trouble(&e))?;
    super::time::keep_time(context);
    super::plan::keep_floor_on_state(context);
    Ok(())
}
