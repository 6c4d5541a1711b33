//! `plan`: the signed assignment with the node's part of the plan.

use std::time::Duration;

use cairn_protocol::assignment::{self, Assignment, AssignmentError};
use cairn_protocol::heartbeat::NodeState;
use cairn_protocol::signed::{Envelope, SignedError};
use cairn_protocol::stage::Stage;

use crate::engine::{Outcome, Trouble};
use crate::report::read_json;
use crate::uplink::AssignmentAnswer;
use crate::worker::context::Context;

/// A verified assignment.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What it says.
    pub assignment: Assignment,
    /// As it was signed.
    pub envelope: Envelope,
    /// Its etag, which is the generation's id too.
    pub etag: String,
}

/// How often a node without work asks again by itself; a heartbeat's answer wakes it sooner.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    match refresh(context).await {
        Ok(()) => Outcome::Done,
        Err(trouble) => Outcome::Wait(trouble),
    }
}

/// Fetches and verifies the assignment where it is new.
pub(super) async fn refresh(context: &mut Context) -> Result<(), Trouble> {
    let by_itself = "the node tries again by itself";
    let outcast = context
        .heartbeats
        .as_ref()
        .is_some_and(|beats| beats.outcast.load(std::sync::atomic::Ordering::Relaxed));
    let (Some(uplink), Some(identity), false) = (context.uplink.clone(), &mut context.identity, outcast)
    else {
        return Err(
            Trouble::waiting("the controller does not know this node any more", by_itself).from(Stage::Enrol)
        );
    };
    let etag = context.assignment.as_ref().map(|accepted| accepted.etag.clone());
    let answer = uplink.assignment(etag.as_deref()).await.map_err(|error| {
        let trouble = super::trouble(&error);
        if error.needs_enrolment() {
            identity.forget_membership();
            trouble.from(Stage::Enrol)
        } else {
            trouble
        }
    })?;
    let (envelope, etag) = match answer {
        AssignmentAnswer::Unchanged => return Ok(()),
        AssignmentAnswer::None => {
            context.assignment = None;
            context.report.change(|facts| {
                facts.state = NodeState::Waiting;
                facts.assignment_etag = String::new();
            });
            return Err(Trouble::waiting(
                "the site's plan has no place for this node any more",
                "put the node into the site's plan, or switch it off",
            )
            .every(ASK_AGAIN));
        }
        AssignmentAnswer::New { envelope, etag } => (envelope, etag),
    };
    let assignment = verify(context, &envelope)?;
    let sequence = assignment.sequence;
    keep_floor(context, sequence);
    context.planned = assignment.plan.timeouts;
    context.report.change(|facts| {
        facts.assignment_sequence = sequence;
        facts.assignment_etag.clone_from(&etag);
    });
    context.assignment = Some(Accepted { assignment, envelope, etag });
    Ok(())
}

/// Verifies an assignment for this node.
fn verify(context: &Context, envelope: &Envelope) -> Result<Assignment, Trouble> {
    let advice = "find out who answers in the controller's place; the node keeps what it has";
    let refused = |error: &AssignmentError| {
        let code = match error {
            AssignmentError::Signed(SignedError::Pin { .. }) => "ca-pin",
            AssignmentError::Signed(_) | AssignmentError::Version(_) => "assignment-forged",
            AssignmentError::Other { .. } => "assignment-other",
            AssignmentError::RolledBack { .. } => "assignment-rollback",
        };
        Trouble::refused(code, error.to_string(), advice)
    };
    let enrol = || {
        Trouble::waiting("this node is not enrolled", "the node enrols again by itself").from(Stage::Enrol)
    };
    let (identity, pin) = (context.identity.as_ref().ok_or_else(enrol)?, context.pin().ok_or_else(enrol)?);
    let member = identity.member.as_ref().ok_or_else(enrol)?;
    let keys = identity.trusted_keys(pin).map_err(|error| refused(&error.into()))?.ok_or_else(enrol)?;
    assignment::verify(envelope, &keys, &member.site, &member.node, floor(context))
        .map_err(|error| refused(&error))
}

/// The highest assignment sequence that was accepted, in this boot or by STATE.
fn floor(context: &Context) -> u64 {
    let of = |dir: std::path::PathBuf| read_json::<u64>(&dir.join("floor.json")).unwrap_or(0);
    of(context.paths.run()).max(of(context.paths.state()))
}

fn keep_floor(context: &Context, sequence: u64) {
    let text = sequence.to_string();
    let _ = crate::durable::write(&context.paths.in_run("floor.json"), text.as_bytes());
    if context.has_state() {
        let _ = crate::durable::write(&context.paths.state().join("floor.json"), text.as_bytes());
    }
}

/// STATE is mounted now: the floor is kept there too.
pub(super) fn keep_floor_on_state(context: &Context) {
    let sequence = floor(context);
    if sequence > 0 {
        keep_floor(context, sequence);
    }
}

/// The assignment, where it has something to install. A node without any stays, enrolled and waiting: a normal state.
pub(super) async fn work(context: &mut Context) -> Result<Accepted, Trouble> {
    let idle = |context: &Context| {
        context.assignment.as_ref().is_none_or(|accepted| accepted.assignment.bundles.is_empty())
    };
    if idle(context) || is_outdated(context) {
        refresh(context).await?;
    }
    match context.assignment.clone().filter(|_| !idle(context)) {
        Some(accepted) => {
            context.report.change(|facts| facts.state = NodeState::Installing);
            Ok(accepted)
        }
        None => {
            context.report.change(|facts| facts.state = NodeState::Waiting);
            let trouble = Trouble::waiting(
                "the plan has no bundle for this node",
                "name a bundle in the site's plan, such as os/base: 1.0.0",
            );
            Err(trouble.every(ASK_AGAIN))
        }
    }
}

/// Whether central has another assignment than the one that is worked on.
pub(super) fn is_outdated(context: &Context) -> bool {
    let offered = context.report.facts().offered_etag;
    !offered.is_empty() && context.assignment.as_ref().is_some_and(|accepted| accepted.etag != offered)
}

/// Goes back to the plan when central has another assignment by now.
pub(super) fn still_current(context: &Context) -> Result<(), Trouble> {
    if is_outdated(context) {
        let trouble =
            Trouble::waiting("central has another assignment for this node", "nothing: it is fetched now");
        return Err(trouble.every(Duration::ZERO).from(Stage::Plan));
    }
    Ok(())
}
