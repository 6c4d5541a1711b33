//! `handover`: layers stacked, the agent's binary and unit carried over, PID 1 told to switch the root.

use crate::engine::{Outcome, Trouble};
use crate::worker::context::Context;

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    let _ = context;
    Outcome::Wait(Trouble::waiting("this agent cannot hand over yet", "install a newer image"))
}
