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
use crate::reinstall;
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
    if asks_about_reinstall(context) {
        return Ok(Outcome::Done);
    }

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
    let mut candidates = candidates(&stored, &running);
    if context.container.is_some() {
        // The lab boots its own image, whatever a generation names.
        candidates.iter_mut().for_each(|candidate| candidate.uki.clone_from(&running));
    }
    let choice = choose(&candidates, &running, loaders.as_deref());
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

/// Whether this boot goes to the controller, because a reinstall was ordered, instead of starting what is installed.
fn asks_about_reinstall(context: &mut Context) -> bool {
    let state = context.paths.state();
    let Ok(Some(record)) = cairn_disk::record::read(&state) else { return false };
    let Some(order) = reinstall::ask(reinstall::read(&state).as_ref(), record.reinstall) else {
        return false;
    };
    // A boot that cannot be counted could be repeated for ever.
    if let Err(error) = reinstall::write(&state, &order) {
        context.console.note(Stage::Devices, format!("no reinstall: STATE cannot be written: {error}"));
        return false;
    }
    let line = format!("reinstall {} was ordered: the controller is asked about it", order.reinstall);
    context.console.note(Stage::Devices, line);
    context.asks_since = Some(crate::clock::since_boot());
    true
}

/// For a boot that asks about a reinstall, before it tries `stage`: a walk that took too long, or that came to `disks`
/// without a signed order, ends with a reboot into what is installed.
pub(super) async fn while_asking(context: &mut Context, stage: Stage) -> Option<Outcome> {
    let since = context.asks_since?;
    // The disk is being made anew already: there is nothing to go back to.
    if !matches!(cairn_disk::record::read(&context.paths.state()), Ok(Some(_))) {
        context.asks_since = None;
        return None;
    }
    let decided = stage == Stage::Disks && context.assignment.is_some();
    let why = if decided && context.reinstall_ordered().is_none() {
        "the controller's signed assignment does not order it".to_owned()
    } else if reinstall::is_over(since, crate::clock::since_boot(), context.speed()) {
        context.report.facts().waiting.map_or_else(|| "it took too long".to_owned(), |waiting| waiting.reason)
    } else {
        return None;
    };
    let state = context.paths.state();
    if let Some(order) = reinstall::read(&state) {
        let _ = reinstall::write(&state, &reinstall::Order { pending: false, ..order });
    }
    let line = format!("no reinstall: {why}; what is installed is started");
    context.tell(stage, Severity::Warning, "reinstall-put-off", &line);
    if let Some(heartbeats) = context.heartbeats.take() {
        heartbeats.last().await;
    }
    // Not on to the handover: this boot's network and line would be in its way.
    context.control.send(&Message::Reboot { reason: line.clone() });
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    Some(Outcome::Wait(Trouble::waiting(line, "the machine reboots; let it boot from its own disk")))
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
