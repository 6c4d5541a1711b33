//! The short path: a disk that carries an installation starts it, with no network and no controller.

use cairn_disk::generation::Store;
use cairn_disk::generation::choose::{Action, choose};
use cairn_disk::loader::Loaders;
use cairn_disk::mounts::Mounts;
use cairn_disk::tool::Tools;
use cairn_disk::{installed, system};
use cairn_protocol::assignment;
use cairn_protocol::heartbeat::{FailedGeneration, Severity};
use cairn_protocol::stage::Stage;

use super::disks;
use crate::control::Message;
use crate::engine::{Outcome, Trouble};
use crate::release;
use crate::running::{candidates, last_failed, manifest, unverified};
use crate::worker::context::{Chosen, Context};

/// Looks for an installation and chooses what to run.
pub(super) async fn find(context: &mut Context) -> Outcome {
    match try_find(context).await {
        Ok(outcome) => outcome,
        // A disk that cannot be read must not keep the node from the controller, which may order a reinstall.
        Err(trouble) => {
            context.console.note(Stage::Devices, format!("no installation is used: {}", trouble.reason));
            Outcome::Done
        }
    }
}

async fn try_find(context: &mut Context) -> Result<Outcome, Trouble> {
    let found = disks::discover(context).await?;
    let Some(ours) = installed::find(&found).map_err(|e| disks::trouble(&e))? else {
        return Ok(Outcome::Done);
    };
    let mounts = Mounts::below(&context.paths.run());
    let disk = system::open(ours).map_err(|e| disks::trouble(&e))?;
    let (disk, loaders) = {
        let mounts = mounts.clone();
        super::blocking(move || {
            disk.mount(&mounts, &Tools::default())?;
            // Without an ESP the choice is made from STATE alone.
            let loaders =
                disk.mount_esp(&mounts).and_then(|()| Loaders::open(&mounts.esp)).and_then(|l| l.list());
            // Mounted for as short as can be: it has no journal.
            cairn_disk::mounts::detach(&mounts.esp)?;
            Ok((disk, loaders.ok()))
        })
        .await?
        .map_err(|e| disks::trouble(&e))?
    };
    context.disk = Some(disk);
    context.clock.raise_floor(super::last_time(&context.paths.state()));
    disks::keep_on_state(context)?;

    let store = Store::open(&context.paths.state()).map_err(|e| disks::trouble(&e))?;
    let cairn_disk::generation::Listing { stored, damaged } = store.list().map_err(|e| disks::trouble(&e))?;
    for (id, why) in damaged {
        context.tell(
            Stage::Devices,
            Severity::Error,
            "generation-damaged",
            &format!("generation {id}: {why}"),
        );
    }
    let running = context.settings().map(|settings| settings.image_version.clone()).unwrap_or_default();
    let choice = choose(&candidates(&stored, &running), &running, loaders.as_deref());
    for (id, reason) in &choice.failed {
        let _ = store.fail(id, reason);
        context.tell(
            Stage::Devices,
            Severity::Error,
            "generation-failed",
            &format!("generation {id}: {reason}"),
        );
        context.report.change(|facts| {
            facts.failed = Some(FailedGeneration { id: id.clone(), reason: reason.clone() });
        });
    }
    context.report.change(|facts| facts.failed = facts.failed.take().or_else(|| last_failed(&store)));
    match choice.action {
        Action::Run { id, count } => {
            let one = stored.into_iter().find(|one| one.generation.id == id);
            context.chosen = one.map(|stored| Chosen { stored, count });
            context.console.note(Stage::Devices, format!("generation {id} is installed"));
            Ok(Outcome::Jump(Stage::Verify))
        }
        Action::Reboot { id, uki } => {
            let reason = format!("generation {id} needs boot image {uki}, {running} is running");
            if let Some(disk) = &context.disk
                && disk.mount_esp(&mounts).is_ok()
            {
                let _ = Loaders::open(&mounts.esp).and_then(|loaders| loaders.give_up(&running));
                let _ = cairn_disk::mounts::detach(&mounts.esp);
            }
            context.control.send(&Message::Reboot { reason: reason.clone() });
            Err(Trouble::waiting(reason, "the machine reboots; let it boot from its own disk"))
        }
        Action::Nothing => Ok(Outcome::Done),
    }
}

/// Checks an installed generation as on the day it was installed: signatures back to the pin and the image's root.
pub(super) fn verify(context: &mut Context) -> Result<(), Trouble> {
    let Some(chosen) = context.chosen.clone() else { return Ok(()) };
    let bad = |code: &'static str, reason: String| {
        Trouble::refused(code, reason, "nothing: the node asks its controller for it again")
            .from(Stage::Network)
    };
    let trust = context.trust.clone().map_err(|error| bad("generation-damaged", error))?;
    let generation = &chosen.stored.generation;
    let keys = generation.keys.verify(trust.pin).map_err(|e| bad("ca-pin", e.to_string()))?;
    let claimed = unverified(&chosen.stored)
        .ok_or_else(|| bad("assignment-forged", "the kept assignment cannot be read".to_owned()))?;
    // Whose disk this is was written when it was installed; the floor is not asked: going back is what it is for.
    let record = cairn_disk::record::read(&context.paths.state()).ok().flatten();
    let (site, node) = record.map_or((claimed.site, claimed.node), |record| (record.site, record.node));
    let assignment = assignment::verify(&generation.assignment, &keys, &site, &node, 0)
        .map_err(|e| bad("assignment-forged", e.to_string()))?;
    let tuf = chosen.stored.dir.join("tuf");
    let release =
        release::verify_installed(&trust.root, &tuf, &generation.id, &assignment.bundles, |sha256| {
            manifest(&chosen.stored, sha256)
        })
        .map_err(|e| bad(e.code().unwrap_or("generation-damaged"), e.to_string()))?;
    context.planned = assignment.plan.timeouts;
    context.report.change(|facts| {
        (facts.site, facts.node) = (Some(site), Some(node));
        facts.assignment_sequence = assignment.sequence;
        facts.assignment_etag.clone_from(&generation.id);
    });
    context.assignment = Some(super::Accepted {
        assignment,
        envelope: generation.assignment.clone(),
        etag: generation.id.clone(),
    });
    context.release = Some(release);
    Ok(())
}
