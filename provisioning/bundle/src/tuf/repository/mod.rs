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
mod state;
mod types;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use self::build::{delegations, document, meta_file, role_keys, signed};
use self::state::MAX_FILE;
pub use self::types::{Holders, Lifetimes, Need, Policy, RepositoryError, Staged};
use super::keys::{KeyId, KeyRing};
use super::metadata::{
    Body, Parsed, Role, RoleKeys, Root, Snapshot, TargetFile, TargetInfo, Targets, Timestamp,
};
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

    /// What is staged, and whose signatures are missing.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn staged(&self) -> Result<Vec<Staged>, RepositoryError> {
        let mut staged = Vec::new();
        for (role, document) in self.staged_documents()? {
            let canonical = document.canonical()?;
            let mut needs = Vec::new();
            for (authority, ring, keys) in self.authorities(&role, &document)? {
                let (mut signed, mut unsigned) = (Vec::new(), Vec::new());
                for id in keys.keyids {
                    let one = RoleKeys { keyids: vec![id.clone()], threshold: 1 };
                    let list = if ring.count(&one, &canonical, &document.signatures) > 0 {
                        &mut signed
                    } else {
                        &mut unsigned
                    };
                    list.push(id);
                }
                needs.push(Need { authority, threshold: keys.threshold, signed, unsigned });
            }
            let path = self.staged_path(&role);
            staged.push(Staged { role, version: document.header()?.version, path, needs });
        }
        Ok(staged)
    }

    /// Signs everything staged that the key has a part in; returns which roles.
    ///
    /// # Errors
    /// [`RepositoryError::WrongKey`] when that is nothing.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<Role>, RepositoryError> {
        let id = key.id();
        let mut roles = Vec::new();
        for (role, mut document) in self.staged_documents()? {
            if self.authorities(&role, &document)?.iter().any(|(_, _, keys)| keys.keyids.contains(&id)) {
                document.sign(key)?;
                durable::write(&self.staged_path(&role), &document.to_bytes())?;
                roles.push(role);
            }
        }
        if roles.is_empty() { Err(RepositoryError::WrongKey(id)) } else { Ok(roles) }
    }

    /// Takes the signatures of a holder's copy of a staged file.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn merge(&self, role: &Role, copy: &[u8]) -> Result<(), RepositoryError> {
        let path = self.staged_path(role);
        let bytes =
            durable::read(&path, MAX_FILE)?.ok_or_else(|| RepositoryError::NoRole(role.name().to_owned()))?;
        let mut document = Document::read(&bytes)?;
        document.merge(Document::read(copy)?)?;
        Ok(durable::write(&path, &document.to_bytes())?)
    }

    /// Adds a target to the role of its kind: writes its bytes below `targets/`, and stages the role's next version.
    /// Several targets may be added to one version; a new one takes back the signatures of the staged file.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn stage_target(
        &self,
        kind: Kind,
        path: &str,
        bytes: &[u8],
        now: Date,
    ) -> Result<(), RepositoryError> {
        if !path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains('\0'))
        {
            return Err(RepositoryError::NoRole(format!(
                "target {path:?}, which is no plain relative path,"
            )));
        }
        let digest = hex::encode(Sha256::digest(bytes));
        let hashes = BTreeMap::from([("sha256".to_owned(), digest)]);
        let file = TargetFile { length: bytes.len() as u64, hashes, custom: None };
        let role = Role::named(kind.as_str());
        let info = TargetInfo::new(path, &file, &role, 0, true);
        let place = self.dir.join("targets").join(&info.place);
        if let Some(dir) = place.parent() {
            std::fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
        }
        durable::write(&place, bytes)?;
        self.restage_targets(&role, now, |targets| {
            targets.targets.insert(path.to_owned(), file);
            Ok(())
        })
    }

    /// Takes a target back: the role's next version does not list it. Its bytes stay for those who read older snapshots.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn stage_removal(&self, kind: Kind, path: &str, now: Date) -> Result<(), RepositoryError> {
        self.restage_targets(&Role::named(kind.as_str()), now, |targets| {
            targets.targets.remove(path).map(|_| ()).ok_or_else(|| RepositoryError::NoRole(path.to_owned()))
        })
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
        let before = self.state().ok();
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

    fn restage_targets(
        &self,
        role: &Role,
        now: Date,
        change: impl FnOnce(&mut Targets) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let published = self.state().ok().and_then(|mut state| state.targets.remove(role));
        let staged = match durable::read(&self.staged_path(role), MAX_FILE)? {
            Some(bytes) => Some(Parsed::<Targets>::parse(role, &bytes)?),
            None => None,
        };
        let version = published.as_ref().map_or(0, |parsed| parsed.header.version) + 1;
        let parsed = staged.or(published).ok_or_else(|| RepositoryError::NoRole(role.name().to_owned()))?;
        let mut targets = parsed.body;
        change(&mut targets)?;
        self.stage(role, version, self.lifetimes.targets, now, &targets)
    }

    fn stage<T: Body>(
        &self,
        role: &Role,
        version: u64,
        days: u64,
        now: Date,
        body: &T,
    ) -> Result<(), RepositoryError> {
        let document = document(body, version, now.plus_days(days.clamp(1, 3650)))?;
        let bytes = document.to_bytes();
        // What would not be read is not staged.
        Parsed::<T>::parse(role, &bytes)?;
        Ok(durable::write(&self.staged_path(role), &bytes)?)
    }

    fn staged_path(&self, role: &Role) -> PathBuf {
        self.dir.join("staged").join(role.file())
    }

    fn staged_documents(&self) -> Result<Vec<(Role, Document)>, RepositoryError> {
        let roles =
            [Role::Root, Role::Targets].into_iter().chain(Kind::ALL.map(|kind| Role::named(kind.as_str())));
        let mut documents = Vec::new();
        for role in roles {
            if let Some(bytes) = durable::read(&self.staged_path(&role), MAX_FILE)? {
                documents.push((role, Document::read(&bytes)?));
            }
        }
        Ok(documents)
    }

    /// Who must sign a staged file: name, keys, threshold.
    fn authorities(
        &self,
        role: &Role,
        document: &Document,
    ) -> Result<Vec<(String, KeyRing, RoleKeys)>, RepositoryError> {
        let staged = |role: &Role| -> Result<Option<Vec<u8>>, RepositoryError> {
            Ok(durable::read(&self.staged_path(role), MAX_FILE)?)
        };
        let no_role = || RepositoryError::NoRole(role.name().to_owned());
        let published = self.state().ok();
        let root_of = |root: &Parsed<Root>| -> Result<_, RepositoryError> {
            let keys = root.body.role(role).ok_or_else(no_role)?.clone();
            Ok((format!("root {}", root.header.version), root.ring.clone(), keys))
        };
        match role {
            Role::Root => {
                let new: Parsed<Root> = Parsed::parse(role, &document.to_bytes())?;
                published.iter().map(|state| &state.root).chain([&new]).map(root_of).collect()
            }
            Role::Delegated(name) => {
                let targets = match staged(&Role::Targets)? {
                    Some(bytes) => Some(Parsed::<Targets>::parse(&Role::Targets, &bytes)?),
                    None => published.and_then(|mut state| state.targets.remove(&Role::Targets)),
                }
                .ok_or_else(no_role)?;
                let found = targets.body.delegations.iter().flat_map(|d| &d.roles).find(|d| d.name == *name);
                let keys = found.ok_or_else(no_role)?.keys.clone();
                Ok(vec![(format!("targets {}", targets.header.version), targets.ring, keys)])
            }
            _ => match staged(&Role::Root)? {
                Some(bytes) => Ok(vec![root_of(&Parsed::parse(&Role::Root, &bytes)?)?]),
                None => Ok(vec![root_of(&published.ok_or_else(no_role)?.root)?]),
            },
        }
    }
}
