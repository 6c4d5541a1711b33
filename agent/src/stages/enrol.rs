//! `enrol`: a certificate from the controller: by serial, or by token and an operator's approval.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cairn_protocol::enrol::{EnrolAnswer, EnrolRequest, RenewRequest};
use cairn_protocol::inventory::Inventory;
use cairn_protocol::stage::Stage;

use crate::engine::{Outcome, Trouble};
use crate::heartbeat::{Beater, Source};
use crate::identity::{Identity, IdentityError, Member};
use crate::inventory;
use crate::uplink::Uplink;
use crate::worker::context::Context;

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    let Some(uplink) = context.uplink.clone() else {
        return again("there is no line to the controller yet", Stage::Time);
    };
    if context.heartbeats.take().is_some_and(|beats| beats.outcast.load(std::sync::atomic::Ordering::Relaxed))
        && let Some(identity) = &mut context.identity
    {
        identity.forget_membership();
    }
    let now = context.clock.now();
    let facts = inventory(context);
    context.report.change_status(|status| status.inventory.clone_from(&facts));
    let boot_source = boot_source(context);
    context.report.change_status(|status| status.boot_source = boot_source);
    let Some(identity) = &mut context.identity else { return again("there is no key yet", Stage::Identity) };
    let validity = identity.validity();
    let valid = validity.is_some_and(|(from, to)| (from..to).contains(&now));
    if valid && validity.is_some_and(|validity| renewal_due(validity, now)) {
        context.renewal_tried = Some(crate::clock::since_boot());
        renew(identity, &uplink).await;
    }
    if identity.member.is_none() || !valid {
        let csr = match identity.request() {
            Ok(csr) => csr,
            Err(error) => return broken(&error),
        };
        let token = context.seed.as_ref().and_then(|seed| seed.token.clone());
        let request = EnrolRequest { csr, serial: facts.machine.serial.clone(), token, inventory: facts };
        match uplink.enrol(&request).await {
            Ok(EnrolAnswer::Enrolled { site, node, certificates, assurance, keys }) => {
                if let Err(error) = identity.enrolled(Member { site, node, assurance }, certificates, keys) {
                    return broken(&error);
                }
            }
            Ok(EnrolAnswer::Quarantined { retry_seconds, .. }) => {
                // The node's own words, not the answer's: they are what the operator compares.
                let words = identity.words();
                context.report.change(|facts| facts.words = Some(words.clone()));
                return Outcome::Wait(
                    Trouble::waiting(
                        format!("an operator has to approve this node; its words are {words}"),
                        "compare the words with the controller's, then: cairnctl node approve",
                    )
                    .every(Duration::from_secs(u64::from(retry_seconds.clamp(1, 300)))),
                );
            }
            Err(error) => {
                let trouble = super::trouble(&error);
                let serial = &request.serial;
                let reason = format!("{} (this machine's serial is {serial:?})", trouble.reason);
                return Outcome::Wait(Trouble { reason, ..trouble });
            }
        }
    }
    match identity.credential() {
        Ok(credential) => uplink.use_credential(Some(credential)),
        Err(error) => return broken(&error),
    }
    if let Some(member) = &identity.member {
        context.console.note(Stage::Enrol, format!("node {} of site {}", member.node, member.site));
        context.report.change(|facts| {
            (facts.site, facts.node) = (Some(member.site.clone()), Some(member.node.clone()));
            facts.words = None;
        });
    }
    context.heartbeats = Some(Beater::start(Source {
        uplink,
        report: Arc::clone(&context.report),
        spool: Arc::clone(&context.spool),
        clock: Arc::clone(&context.clock),
        count_file: context.paths.in_run("heartbeat.json"),
    }));
    Outcome::Done
}

/// A renewal that failed is tried again after this long, while a third of the certificate's life is left.
const RENEW_AGAIN: Duration = Duration::from_secs(600);

/// Whether the certificate should be renewed, or replaced, now.
pub(crate) fn wants_renewal(context: &Context) -> bool {
    let validity = context.identity.as_ref().and_then(Identity::validity);
    let now = context.clock.now();
    let tried = context.renewal_tried.is_some_and(|tried| crate::clock::since_boot() < tried + RENEW_AGAIN);
    validity.is_some_and(|validity| now >= validity.1 || (renewal_due(validity, now) && !tried))
}

/// Whether two thirds of a certificate's life are over.
fn renewal_due((from, to): (u64, u64), now: u64) -> bool {
    now >= from + to.saturating_sub(from) / 3 * 2
}

/// Asks for the next certificate with the one at hand. A failure is no harm yet: a third of the life is left, and an
/// expired one is replaced by enrolling again with the same key.
async fn renew(identity: &mut Identity, uplink: &Uplink) {
    let (Ok(csr), Ok(credential)) = (identity.request(), identity.credential()) else { return };
    uplink.use_credential(Some(credential));
    if let Ok(answer) = uplink.renew(&RenewRequest { csr }).await {
        let _ = identity.renewed(answer.certificates);
    }
}

fn again(reason: &str, from: Stage) -> Outcome {
    Outcome::Wait(Trouble::waiting(reason, "the node tries again by itself").from(from))
}

fn broken(error: &IdentityError) -> Outcome {
    Outcome::Wait(Trouble::waiting(error.to_string(), "the node tries again by itself"))
}

/// What the machine has; in hosted mode what the flags say.
fn inventory(context: &Context) -> Inventory {
    let (cpu, memory_bytes) = inventory::cpu_and_memory();
    if context.options.hosted {
        let mut inventory = Inventory { cpu, memory_bytes, ..Inventory::default() };
        inventory.machine.serial = context.options.serial.clone().unwrap_or_default();
        inventory.machine.product = "hosted".to_owned();
        return inventory;
    }
    let sys = Path::new("/sys");
    if let Some(container) = &context.container {
        let (cpu, memory_bytes) = container.cpu_and_memory(cpu, memory_bytes);
        let firmware = cairn_protocol::inventory::Firmware { kind: "none".to_owned(), ..Default::default() };
        return Inventory {
            machine: container.machine(),
            cpu,
            memory_bytes,
            nics: crate::container::nics(sys),
            disks: context.report.status().inventory.disks,
            firmware,
            tpm: None,
        };
    }
    Inventory {
        machine: inventory::machine(sys),
        cpu,
        memory_bytes,
        // Bonds are not made yet when the inventory is taken first: the address in use is the factory's.
        nics: cairn_net::links::nics(sys, |_| None),
        disks: context.report.status().inventory.disks,
        firmware: inventory::firmware(sys),
        tpm: inventory::tpm(sys),
    }
}

/// How this boot started, as far as it can be told.
fn boot_source(context: &Context) -> String {
    context.cmdline.boot.clone().unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_in_their_last_third() {
        for (now, due) in [(1_000, false), (1_599, false), (1_600, true), (2_000, true)] {
            assert_eq!(renewal_due((1_000, 1_900), now), due, "{now}");
        }
    }
}
