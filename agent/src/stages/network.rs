//! `network`: links up, addresses, routes, resolver.

use crate::engine::{Outcome, Trouble};
use crate::worker::context::Context;

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    if context.options.hosted {
        return Outcome::Done;
    }
    Outcome::Wait(Trouble::waiting("this agent has no network yet", "install a newer image"))
}
