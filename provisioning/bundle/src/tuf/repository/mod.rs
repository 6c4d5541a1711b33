//! Making and signing a repository (specification, 6): in a directory, by people who never meet.
//!
//! ```text
//! init -> staged/{root,targets,os,...}.json, unsigned
//!         each holder: sign            (or signs a copy elsewhere, which is merged)
//! publish (online keys) -> metadata/{N.root,N.targets,N.os,N.snapshot,timestamp}.json
//! stage_target / stage_root / stage_delegations / renew -> staged/ again
//! refresh (online keys) -> a new timestamp, and a new snapshot when it is past half its life
//! ```
//! Snapshots are consistent: nothing that is published is ever changed, but for `timestamp.json`, which is written last.
//! What our own client would refuse is not published.

mod build;
mod staged;
mod state;
mod types;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::build::{delegations, meta_file, role_keys, signed};
pub use self::types::{Holders, Lifetimes, Need, Policy, RepositoryError, Staged};
use super::keys::KeyId;
use super::metadata::{Role, Root, Snapshot, TargetFile, Targets, Timestamp};
use super::signing::{Document, SigningKey};
use super::store::MemoryStore;
use super::time::Date;
use crate::durable::{self, FileError};
use crate::manifest::Kind;

/// A repository in a directory: `metadata/`, `targets/`, `staged/`.
#[derive(Debug, Clone)]
pub struct Repository {
    dir: PathBuf,
    lifetimes: Lifetimes,
}

impl Repository {
    /// The repository in `dir`, which need not be there yet.
    pub fn at(dir: &Path, lifetimes: Lifetimes) -> Self {
        Self { dir: dir.to_owned(), lifetimes }
    }

    /// Where published metadata lies.
    pub fn metadata_dir(&self) -> PathBuf {
        self.dir.join("metadata")
    }

    /// Stages the first version of every offline role.
    ///
    /// # Errors
    /// [`RepositoryError::Exists`], [`RepositoryError::Holders`], [`RepositoryError::File`].
    pub fn init(&self, policy: &Policy, now: Date) -> Result<(), RepositoryError> {
        if self.metadata_dir().join("1.root.json").exists() || self.staged_path(&Role::Root).exists() {
            return Err(RepositoryError::Exists(self.dir.clone()));
        }
        for dir in [self.metadata_dir(), self.dir.join("targets"), self.dir.join("staged")] {
            std::fs::create_dir_all(&dir).map_err(FileError::at("create", &dir))?;
        }
        let mut root = Root { consistent_snapshot: true, keys: BTreeMap::new(), roles: BTreeMap::new() };
        let roles = [
            (Role::Root, &policy.root),
            (Role::Targets, &policy.targets),
            (Role::Snapshot, &policy.snapshot),
            (Role::Timestamp, &policy.timestamp),
        ];
        for (role, holders) in roles {
            let keys = role_keys(role.name(), holders, &mut root.keys)?;
            root.roles.insert(role.name().to_owned(), keys);
        }
        let delegations = Some(delegations(&policy.delegations)?);
        let empty = |delegations| Targets { targets: BTreeMap::new(), delegations };
        for kind in policy.delegations.keys() {
            self.stage(&Role::named(kind.as_str()), 1, policy.lifetimes.targets, now, &empty(None))?;
        }
        self.stage(&Role::Targets, 1, policy.lifetimes.targets, now, &empty(delegations))?;
        self.stage(&Role::Root, 1, policy.lifetimes.root, now, &root)
    }

    /// Stages a new root: other holders for some roles.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn stage_root(&self, change: &[(Role, Holders)], now: Date) -> Result<(), RepositoryError> {
        let current = self.state()?.root;
        let mut root = current.body;
        for (role, holders) in change {
            let keys = role_keys(role.name(), holders, &mut root.keys)?;
            root.roles.insert(role.name().to_owned(), keys);
        }
        let used: Vec<&KeyId> = root.roles.values().flat_map(|role| &role.keyids).collect();
        root.keys.retain(|id, _| used.contains(&id));
        self.stage(&Role::Root, current.header.version + 1, self.lifetimes.root, now, &root)
    }

    /// Stages a new top-level targets: other holders for bundles.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn stage_delegations(
        &self,
        holders: &BTreeMap<Kind, Holders>,
        now: Date,
    ) -> Result<(), RepositoryError> {
        self.restage_targets(&Role::Targets, now, |targets| {
            targets.delegations = Some(delegations(holders)?);
            Ok(())
        })
    }

    /// Stages a role as it is, with a new end.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn renew(&self, role: &Role, now: Date) -> Result<(), RepositoryError> {
        match role {
            Role::Root => self.stage_root(&[], now),
            Role::Snapshot | Role::Timestamp => Err(RepositoryError::NoRole(role.name().to_owned())),
            targets => self.restage_targets(targets, now, |_| Ok(())),
        }
    }

    /// Publishes everything staged, with a new snapshot and timestamp.
    ///
    /// # Errors
    /// [`RepositoryError::Unsigned`] when holders are missing; [`RepositoryError::Refused`] when our client would not
    /// take it. Nothing is published then.
    pub fn publish(
        &self,
        snapshot_key: &SigningKey,
        timestamp_key: &SigningKey,
        now: Date,
    ) -> Result<Vec<String>, RepositoryError> {
        let missing: Vec<String> = self
            .staged()?
            .iter()
            .flat_map(|staged| {
                staged.needs.iter().filter(|need| !need.is_met()).map(move |need| (staged, need))
            })
            .map(|(staged, Need { authority, threshold, signed, .. })| {
                format!(
                    "{} {} has {} of the {threshold} that {authority} asks",
                    staged.role,
                    staged.version,
                    signed.len()
                )
            })
            .collect();
        if !missing.is_empty() {
            return Err(RepositoryError::Unsigned(missing.join("; ")));
        }
        let documents = self.staged_documents()?;
        let mut new = Vec::new();
        for (role, document) in &documents {
            new.push((format!("{}.{}", document.header()?.version, role.file()), document.to_bytes()));
        }
        let written = self.issue(new, &documents, Some(snapshot_key), timestamp_key, now)?;
        for (role, _) in &documents {
            durable::remove(&self.staged_path(role))?;
        }
        Ok(written)
    }

    /// Signs a new timestamp, and a new snapshot when the current one is past half its life and there is a key for it.
    /// For the online machine, at half a timestamp's life.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn refresh(
        &self,
        snapshot_key: Option<&SigningKey>,
        timestamp_key: &SigningKey,
        now: Date,
    ) -> Result<Vec<String>, RepositoryError> {
        let state = self.state()?;
        let snapshot = state.snapshot.ok_or_else(|| RepositoryError::NoRepository(self.dir.clone()))?;
        let half = now.plus_days(self.lifetimes.snapshot.div_ceil(2));
        let snapshot_key = snapshot_key.filter(|_| snapshot.header.expires < half);
        self.issue(Vec::new(), &[], snapshot_key, timestamp_key, now)
    }

    /// When the published timestamp ends.
    ///
    /// # Errors
    /// [`RepositoryError::NoRepository`].
    pub fn timestamp_expires(&self) -> Result<Date, RepositoryError> {
        let timestamp = self.state()?.timestamp;
        timestamp.map(|t| t.header.expires).ok_or_else(|| RepositoryError::NoRepository(self.dir.clone()))
    }

    /// The newest published root: what goes into images.
    ///
    /// # Errors
    /// [`RepositoryError::NoRepository`].
    pub fn root(&self) -> Result<Vec<u8>, RepositoryError> {
        Ok(self.state()?.root_bytes)
    }

    /// Paths of all published targets, with who lists them.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn targets(&self) -> Result<Vec<(Role, String, TargetFile)>, RepositoryError> {
        let state = self.state()?;
        let list = state.targets.into_iter().flat_map(|(role, parsed)| {
            parsed.body.targets.into_iter().map(move |(path, file)| (role.clone(), path, file))
        });
        Ok(list.collect())
    }

    /// Reads the repository as a new node would, from its first root.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`].
    pub fn check(&self, now: Date) -> Result<(), RepositoryError> {
        let anchor = self
            .read_metadata("1.root.json")?
            .ok_or_else(|| RepositoryError::NoRepository(self.dir.clone()))?;
        self.check_with(&anchor, MemoryStore::default(), &[], now)
    }

    /// Writes new files, a snapshot when there is a key for it, and a timestamp.
    fn issue(
        &self,
        mut new: Vec<(String, Vec<u8>)>,
        documents: &[(Role, Document)],
        snapshot_key: Option<&SigningKey>,
        timestamp_key: &SigningKey,
        now: Date,
    ) -> Result<Vec<String>, RepositoryError> {
        let before = self.published()?;
        let mut snapshot_bytes =
            before.as_ref().map(|state| state.snapshot_bytes.clone()).unwrap_or_default();
        let old_snapshot = before.as_ref().and_then(|state| state.snapshot.as_ref());
        let mut snapshot_version = old_snapshot.map_or(0, |snapshot| snapshot.header.version);
        if let Some(key) = snapshot_key {
            let mut meta = old_snapshot.map(|snapshot| snapshot.body.meta.clone()).unwrap_or_default();
            for (role, document) in documents.iter().filter(|(role, _)| *role != Role::Root) {
                meta.insert(role.meta_key(), meta_file(document.header()?.version, &document.to_bytes()));
            }
            snapshot_version += 1;
            let days = self.lifetimes.snapshot;
            snapshot_bytes = signed(&Snapshot { meta }, snapshot_version, now.plus_days(days), key)?;
            new.push((format!("{snapshot_version}.snapshot.json"), snapshot_bytes.clone()));
        }
        let meta =
            BTreeMap::from([("snapshot.json".to_owned(), meta_file(snapshot_version, &snapshot_bytes))]);
        let old = before.as_ref().and_then(|state| state.timestamp.as_ref());
        let version = old.map_or(0, |timestamp| timestamp.header.version) + 1;
        let expires = now.plus_days(self.lifetimes.timestamp);
        // Last: it makes the rest visible.
        new.push((
            "timestamp.json".to_owned(),
            signed(&Timestamp { meta }, version, expires, timestamp_key)?,
        ));

        self.check_as_known(before.as_ref(), &new, now)?;
        for (name, bytes) in &new {
            durable::write(&self.metadata_dir().join(name), bytes)?;
        }
        Ok(new.into_iter().map(|(name, _)| name).collect())
    }
}
