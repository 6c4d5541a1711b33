//! The online TUF roles: a fresh timestamp, and now and then a snapshot, signed where the repository is served.
//!
//! Whoever holds these keys can hold releases back for as long as a timestamp lives, and can ship nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_bundle::tuf::Date;
use cairn_bundle::tuf::repository::{Lifetimes, Repository, RepositoryError};
use cairn_bundle::tuf::signing::{KeyError, SigningKey};

use crate::app::App;

/// How often the timestamp's age is looked at.
const EVERY: Duration = Duration::from_secs(60);

/// The keys of the online roles: `timestamp.pem` and, where it is there, `snapshot.pem`.
pub struct OnlineKeys {
    timestamp: SigningKey,
    snapshot: Option<SigningKey>,
}

impl std::fmt::Debug for OnlineKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnlineKeys").field("snapshot", &self.snapshot.is_some()).finish_non_exhaustive()
    }
}

impl OnlineKeys {
    /// Reads the keys from their folder.
    ///
    /// # Errors
    /// [`KeyError`] when `timestamp.pem` is not there, or either cannot be read.
    pub fn load(dir: &Path) -> Result<Self, KeyError> {
        let snapshot = dir.join("snapshot.pem");
        Ok(Self {
            timestamp: SigningKey::load(&dir.join("timestamp.pem"))?,
            snapshot: if snapshot.exists() { Some(SigningKey::load(&snapshot)?) } else { None },
        })
    }

    /// Signs a new timestamp when the visible one is past half its life; the files that were written.
    ///
    /// # Errors
    /// [`RepositoryError`]; what is visible stays as it was.
    pub fn refresh(&self, repo: &Path, now: Date) -> Result<Vec<String>, RepositoryError> {
        let lifetimes = Lifetimes::default();
        let repository = Repository::at(repo, lifetimes);
        let expires = match repository.timestamp_expires() {
            // Nothing is published yet.
            Err(RepositoryError::NoRepository(_)) => return Ok(Vec::new()),
            expires => expires?,
        };
        let half = lifetimes.timestamp * 86_400 / 2;
        if expires.0 > now.0 + half {
            return Ok(Vec::new());
        }
        repository.refresh(self.snapshot.as_ref(), &self.timestamp, now)
    }
}

/// Keeps the timestamp fresh until the controller stops.
pub async fn keep_fresh(app: Arc<App>, keys: Arc<OnlineKeys>) {
    let mut stop = app.stop.clone();
    let mut every = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = crate::server::stopped(&mut stop) => return,
            _ = every.tick() => {}
        }
        let _one_at_a_time = app.publishing.lock().await;
        let (keys, repo, now): (_, PathBuf, _) = (keys.clone(), app.dir.repo(), Date(app.clock.now()));
        match tokio::task::spawn_blocking(move || keys.refresh(&repo, now)).await {
            Ok(Ok(files)) if files.is_empty() => {}
            Ok(Ok(files)) => tracing::info!(files = files.join(" "), "the timestamp was signed anew"),
            Ok(Err(error)) => tracing::error!(%error, "the timestamp cannot be signed anew"),
            Err(error) => tracing::error!(%error, "the timestamp cannot be signed anew"),
        }
    }
}
