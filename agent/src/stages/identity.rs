//! `identity`: the node's key, loaded from STATE, or from this boot, or made.

use cairn_protocol::stage::Stage;

use crate::engine::{Outcome, Trouble};
use crate::identity::Identity;
use crate::worker::context::Context;

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    match Identity::open(&context.paths, context.has_state()) {
        Ok(identity) => {
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
