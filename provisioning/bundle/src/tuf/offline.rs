//! Checking installed content again, at boot, with no network and no clock.
//!
//! Installed content does not expire: a site may be alone for weeks, and its nodes must boot. Everything else is judged
//! as on the day it was installed: the chain of roots from the image's own, every threshold, version, length and digest.

use super::error::TufError;
use super::metadata::TargetInfo;
use super::store::MetadataStore;
use super::time::Date;
use super::updater::{Limits, Step, Updater};

/// The metadata that an installed generation was kept with.
#[derive(Debug)]
pub struct Installed<S>(Updater<S>);

impl<S: MetadataStore> Installed<S> {
    /// Checks the top-level roles of what [`Updater::export`] wrote, beginning at `anchor`, the image's own root.
    ///
    /// # Errors
    /// [`TufError`], never for expiry.
    pub fn open(store: S, anchor: &[u8], limits: Limits) -> Result<Self, TufError> {
        // Everything ends after 1970.
        let mut updater = Updater::open(store, Some(anchor), Date(0), limits)?;
        updater.restore()?;
        Ok(Self(updater))
    }

    /// Finds a target and checks its bytes.
    ///
    /// # Errors
    /// [`TufError`], never for expiry.
    pub fn verify(&mut self, path: &str, bytes: &[u8]) -> Result<TargetInfo, TufError> {
        match self.0.lookup(path)? {
            Step::Found(target) => {
                target.verify(bytes)?;
                Ok(target)
            }
            // The store lacks the role, or what it has was refused: say which.
            Step::Need(request) => {
                self.0.restore_delegated(&request.role)?;
                Err(TufError::Missing { role: request.role, version: request.version })
            }
            Step::Refreshed => Err(TufError::OutOfOrder),
        }
    }
}
