//! `verify`: components checked whole against release metadata and assignment.

use cairn_protocol::stage::Stage;

use crate::engine::{Outcome, Trouble};
use crate::fetch::{Places, is_there};
use crate::worker::context::Context;

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    match verify(context).await {
        Ok(()) => Outcome::Done,
        Err(trouble) => Outcome::Wait(trouble),
    }
}

async fn verify(context: &mut Context) -> Result<(), Trouble> {
    if context.chosen.is_some() {
        super::installed::verify(context)?;
    } else {
        super::plan::still_current(context)?;
    }
    let Some(release) = context.release.clone() else {
        return Err(
            Trouble::waiting("nothing was fetched yet", "the node tries again by itself").from(Stage::Fetch)
        );
    };
    let places = Places::new(context.paths.data());
    for component in release.bundles.iter().flat_map(|bundle| &bundle.manifest.components) {
        if !is_there(&places, component) {
            let reason = format!("{} is not there any more", component.name);
            return Err(Trouble::waiting(reason, "it is fetched again").from(Stage::Fetch));
        }
    }
    Ok(())
}
