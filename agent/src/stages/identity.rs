//! `identity`: the node's key, loaded from STATE, or from this boot, or made.

use cairn_protocol::heartbeat::Severity;
use cairn_protocol::stage::Stage;

use crate::engine::{Outcome, Trouble};
use crate::identity::Identity;
use crate::worker::context::Context;

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    match Identity::open(&context.paths, context.has_state()) {
        Ok(identity) => {
            for path in &identity.set_aside {
                let line = format!(
                    "the node's key was damaged; it is kept as {}: look at the disk's health",
                    path.display()
                );
                context.console.note(Stage::Identity, line.clone());
                context.spool.event(&context.clock, Stage::Identity, Severity::Error, "key-damaged", &line);
            }
            if let Some(member) = &identity.member {
                context
                    .console
                    .note(Stage::Identity, format!("node {} of site {}", member.node, member.site));
            }
            context.identity = Some(identity);
            Outcome::Done
        }
        Err(error) => Outcome::Wait(Trouble::waiting(error.to_string(), "the node tries again by itself")),
    }
}
