//! `fetch`: release metadata, manifests and missing chunks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_protocol::stage::Stage;

use super::disks::RELEASE_METADATA;
use super::plan;
use crate::engine::{Outcome, Trouble};
use crate::fetch::{self, FetchError, Pace, Places};
use crate::release::{self, ReleaseError};
use crate::worker::context::Context;

const ADVICE: &str =
    "look into the repository: cairnctl publish; the node tries again by itself and keeps what it has";
/// How often the console and the status hear of progress.
const TELL: Duration = Duration::from_secs(10);

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    match fetch(context).await {
        Ok(()) => Outcome::Done,
        Err(trouble) => Outcome::Wait(trouble),
    }
}

async fn fetch(context: &mut Context) -> Result<(), Trouble> {
    let accepted = plan::work(context).await?;
    let uplink = context.uplink.clone().ok_or_else(|| {
        Trouble::waiting("there is no line to the controller yet", "the node tries again by itself")
            .from(Stage::Time)
    })?;
    let root = context.trust.as_ref().map(|trust| trust.root.clone()).unwrap_or_default();
    let store = if context.has_state() { context.paths.state() } else { context.paths.run() };
    let store = store.join(RELEASE_METADATA);
    let export = context.paths.in_run("tuf-export");
    let (now, bundles) = (context.clock.now(), &accepted.assignment.bundles);
    let release = release::fetch(&uplink, &root, now, &store, &export, &accepted.etag, bundles)
        .await
        .map_err(|error| of_release(&error))?;

    let components: Vec<_> =
        release.bundles.iter().flat_map(|bundle| bundle.manifest.components.iter().cloned()).collect();
    let total: u64 = components.iter().map(|component| component.length).sum();
    context.release = Some(release);
    let places = Places::new(context.paths.data());
    let mut pace = Pace::new(context.options.rate.or(context.cmdline.rate));
    let before = AtomicU64::new(0);
    let told = Arc::new(std::sync::Mutex::new(crate::clock::since_boot()));
    for component in &components {
        plan::still_current(context)?;
        let (report, console, start) = (&context.report, &context.console, before.load(Ordering::Relaxed));
        let progress = |done: u64| {
            let now = crate::clock::since_boot();
            let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if now.saturating_sub(*told) >= TELL {
                *told = now;
                report.update(|facts| facts.progress = Some((start + done, total)));
                console.note(
                    Stage::Fetch,
                    format!("{} of {} MB", (start + done) / 1_000_000, total / 1_000_000),
                );
            }
        };
        fetch::component(&uplink, &places, component, &mut pace, &progress)
            .await
            .map_err(|e| of_fetch(&e))?;
        before.fetch_add(component.length, Ordering::Relaxed);
    }
    context.report.update(|facts| facts.progress = Some((total, total)));
    context.console.note(Stage::Fetch, format!("{} components, {} MB", components.len(), total / 1_000_000));
    Ok(())
}

/// What a release that cannot be had means for the walk.
pub(crate) fn of_release(error: &ReleaseError) -> Trouble {
    match (error.code(), error) {
        (Some(_), ReleaseError::Uplink(error)) => super::trouble(error),
        (Some(code), _) => Trouble::refused(code, error.to_string(), ADVICE),
        (None, ReleaseError::Uplink(error)) if error.needs_enrolment() => {
            super::trouble(error).from(Stage::Enrol)
        }
        (None, ReleaseError::Uplink(error)) => super::trouble(error),
        (None, _) => Trouble::waiting(error.to_string(), ADVICE),
    }
}

/// What a component that cannot be had means for the walk.
pub(crate) fn of_fetch(error: &FetchError) -> Trouble {
    match (error.code(), error) {
        (_, FetchError::Uplink(error)) => super::trouble(error),
        (Some(code), _) => Trouble::refused(code, error.to_string(), ADVICE),
        (None, _) => Trouble::waiting(error.to_string(), ADVICE),
    }
}
