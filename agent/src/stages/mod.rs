//! The stages: each tries once, leaves what it found in the context, and says how it ended.

mod activate;
mod devices;
mod disks;
mod enrol;
mod fetch;
mod handover;
mod identity;
mod installed;
mod network;
mod outcome;
mod plan;
mod seed;
mod time;
mod verify;

use cairn_protocol::stage::Stage;

use crate::engine::{Outcome, Trouble};
use crate::uplink::UplinkError;
use crate::worker::context::Context;

pub(crate) use activate::stage as stage_generation;
pub(crate) use devices::{disks_came_late, rest as load_the_rest};
pub(crate) use disks::machine_disks;
pub(crate) use enrol::wants_renewal;
pub(crate) use handover::BOOTS;
pub(crate) use outcome::{commit, give_up};
pub use plan::Accepted;
pub use time::last_time;

/// Tries `stage` once.
pub async fn run(stage: Stage, context: &mut Context) -> Outcome {
    match installed::while_asking(context, stage).await {
        Some(outcome) => outcome,
        None => attempt(stage, context).await,
    }
}

async fn attempt(stage: Stage, context: &mut Context) -> Outcome {
    match stage {
        Stage::Devices => devices::run(context).await,
        Stage::Network => network::run(context).await,
        Stage::Time => time::run(context).await,
        Stage::Identity => identity::run(context).await,
        Stage::Enrol => enrol::run(context).await,
        Stage::Plan => plan::run(context).await,
        Stage::Disks => disks::run(context).await,
        Stage::Fetch => fetch::run(context).await,
        Stage::Verify => verify::run(context).await,
        Stage::Activate => activate::run(context).await,
        Stage::Handover => handover::run(context).await,
        // The walk of the initramfs ends before it.
        Stage::Service => Outcome::Done,
    }
}

/// Runs blocking work; a defect in it is a trouble, not the worker's end.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Trouble::waiting(format!("a task ended early: {error}"), "it is tried again"))
}

/// What a failed call means for the walk.
fn trouble(error: &UplinkError) -> Trouble {
    match error.code() {
        Some(code) => Trouble::refused(code, error.to_string(), error.advice()),
        None => Trouble::waiting(error.to_string(), error.advice()),
    }
}
