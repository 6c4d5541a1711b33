//! The stages: each tries once, leaves what it found in the context, and says how it ended.

mod devices;
mod network;

use cairn_protocol::stage::Stage;

use crate::engine::{Outcome, Trouble};
use crate::worker::context::Context;

/// Tries `stage` once.
pub async fn run(stage: Stage, context: &mut Context) -> Outcome {
    match stage {
        Stage::Devices => devices::run(context).await,
        Stage::Network => network::run(context).await,
        other => Outcome::Wait(Trouble::waiting(
            format!("this agent cannot do the stage {other} yet"),
            "install a newer image",
        )),
    }
}
