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

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::error::TufError;
use super::keys::{KeyId, KeyRing, PublicKey};
use super::metadata::{
    Body, DelegatedRole, Delegations, Header, MetaFile, Parsed, Role, RoleKeys, Root, SPEC_VERSION, Snapshot,
    TargetFile, Targets, Timestamp,
};
use super::quote;
use super::signing::{Document, KeyError, SigningKey};
use super::store::MemoryStore;
use super::time::Date;
use super::updater::{Limits, RunError, Updater};
use crate::durable::{self, FileError};
use crate::manifest::Kind;

/// Who holds a role: its keys, and how many of them must sign.
#[derive(Debug, Clone)]
pub struct Holders {
    /// Their public keys.
    pub keys: Vec<PublicKey>,
    /// How many must sign.
    pub threshold: u32,
}

/// How long metadata lives, in days; 1 to 3650.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Root, default 365: the holders meet once a year.
    pub root: u64,
    /// Targets, top-level and delegated, default 365.
    pub targets: u64,
    /// Snapshot, default 30.
    pub snapshot: u64,
    /// Timestamp, default 2: how long an update can be held back unseen.
    pub timestamp: u64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { root: 365, targets: 365, snapshot: 30, timestamp: 2 }
    }
}

/// Who holds which role of a new repository.
#[derive(Debug, Clone)]
pub struct Policy {
    /// 3-of-5, offline.
    pub root: Holders,
    /// 2-of-3, offline.
    pub targets: Holders,
    /// Online.
    pub snapshot: Holders,
    /// Online.
    pub timestamp: Holders,
    /// Who signs bundles of each kind.
    pub delegations: BTreeMap<Kind, Holders>,
    /// How long it lives.
    pub lifetimes: Lifetimes,
}

/// Why a repository could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or a metadata file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What is there, or what would be published, is refused by our own client.
    #[error("the repository would be refused: {0}")]
    Refused(#[from] TufError),
    /// There is one already.
    #[error("{0} holds a repository already")]
    Exists(PathBuf),
    /// There is none.
    #[error("{0} holds no repository: make one with `repo init`, and publish it once")]
    NoRepository(PathBuf),
    /// A threshold that cannot be reached.
    #[error("role {role} would need {threshold} signatures of {keys} keys")]
    Holders {
        /// Whose.
        role: String,
        /// Asked for.
        threshold: u32,
        /// Given.
        keys: usize,
    },
    /// Not enough holders have signed.
    #[error("not signed by enough holders: {0}")]
    Unsigned(String),
    /// The key has no part in what is staged.
    #[error("key {0} signs none of the staged files")]
    WrongKey(KeyId),
    /// The role is not staged, or not there.
    #[error("there is no {0} to change")]
    NoRole(String),
}

/// What a staged file still needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Who asks: `root 1`.
    pub authority: String,
    /// Signatures needed.
    pub threshold: u32,
    /// Keys that have signed.
    pub signed: Vec<KeyId>,
    /// Keys that may sign yet.
    pub unsigned: Vec<KeyId>,
}

impl Need {
    /// Whether enough have signed.
    pub fn is_met(&self) -> bool {
        self.signed.len() >= self.threshold as usize
    }
}

/// A staged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Whose.
    pub role: Role,
    /// Its version.
    pub version: u64,
    /// Where it lies.
    pub path: PathBuf,
    /// What it needs: a new root, what the old root asks and what it asks itself.
    pub needs: Vec<Need>,
}

/// A repository in a directory: `metadata/`, `targets/`, `staged/`.
#[derive(Debug, Clone)]
pub struct Repository {
    dir: PathBuf,
    lifetimes: Lifetimes,
}

/// The published state.
struct State {
    root: Parsed<Root>,
    root_bytes: Vec<u8>,
    snapshot: Option<Parsed<Snapshot>>,
    snapshot_bytes: Vec<u8>,
    timestamp: Option<Parsed<Timestamp>>,
    targets: BTreeMap<Role, Parsed<Targets>>,
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
        let info = super::TargetInfo::new(path, &file, &role, 0, true);
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

    /// As a node sees it that knows the state before, and as a new one does.
    fn check_as_known(
        &self,
        before: Option<&State>,
        new: &[(String, Vec<u8>)],
        now: Date,
    ) -> Result<(), RepositoryError> {
        let first = match self.read_metadata("1.root.json")? {
            Some(root) => Some(root),
            None => new.iter().find(|(name, _)| name == "1.root.json").map(|(_, bytes)| bytes.clone()),
        };
        let anchor = first.ok_or_else(|| RepositoryError::NoRepository(self.dir.clone()))?;
        self.check_with(&anchor, MemoryStore::default(), new, now)?;
        let Some(state) = before else { return Ok(()) };
        let mut known = MemoryStore::default();
        for (role, name) in [(Role::Timestamp, "timestamp.json".to_owned())]
            .into_iter()
            .chain(
                state
                    .snapshot
                    .as_ref()
                    .map(|s| (Role::Snapshot, format!("{}.snapshot.json", s.header.version))),
            )
            .chain(
                state
                    .targets
                    .iter()
                    .map(|(role, t)| (role.clone(), format!("{}.{}", t.header.version, role.file()))),
            )
        {
            if let Some(bytes) = self.read_metadata(&name)? {
                known.0.insert(role.file(), bytes);
            }
        }
        self.check_with(&state.root_bytes, known, new, now)
    }

    fn check_with(
        &self,
        anchor: &[u8],
        known: MemoryStore,
        new: &[(String, Vec<u8>)],
        now: Date,
    ) -> Result<(), RepositoryError> {
        let mut updater = Updater::open(known, Some(anchor), now, Limits::default())?;
        let mut fetch = |request: &super::Request| match new.iter().find(|(name, _)| *name == request.path) {
            Some((_, bytes)) => Ok(Some(bytes.clone())),
            None => self.read_metadata(&request.path),
        };
        let step = updater.refresh();
        run(updater.run(step, &mut fetch))?;
        // A path in every kind, so that every delegated role is read.
        for kind in Kind::ALL {
            let step = updater.lookup(&format!("{kind}/-/-/manifest.json"));
            match run(updater.run(step, &mut fetch)) {
                Ok(()) | Err(RepositoryError::Refused(TufError::UnknownTarget { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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

    fn read_metadata(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        durable::read(&self.metadata_dir().join(name), MAX_FILE)
    }

    fn state(&self) -> Result<State, RepositoryError> {
        let none = || RepositoryError::NoRepository(self.dir.clone());
        let mut version = 0;
        let mut root_bytes = None;
        while let Some(bytes) = self.read_metadata(&format!("{}.root.json", version + 1))? {
            version += 1;
            root_bytes = Some(bytes);
        }
        let root_bytes = root_bytes.ok_or_else(none)?;
        let root = Parsed::parse(&Role::Root, &root_bytes)?;
        let mut state = State {
            root,
            root_bytes,
            snapshot: None,
            snapshot_bytes: Vec::new(),
            timestamp: None,
            targets: BTreeMap::new(),
        };
        let Some(bytes) = self.read_metadata("timestamp.json")? else { return Ok(state) };
        let timestamp: Parsed<Timestamp> = Parsed::parse(&Role::Timestamp, &bytes)?;
        let name = format!("{}.snapshot.json", timestamp.body.snapshot().version);
        state.snapshot_bytes = self.read_metadata(&name)?.ok_or_else(none)?;
        let snapshot: Parsed<Snapshot> = Parsed::parse(&Role::Snapshot, &state.snapshot_bytes)?;
        for (key, meta) in &snapshot.body.meta {
            let role = Role::named(key.strip_suffix(".json").unwrap_or(key));
            let name = format!("{}.{}.json", meta.version, quote(role.name()));
            let bytes = self.read_metadata(&name)?.ok_or_else(none)?;
            let parsed = Parsed::parse(&role, &bytes)?;
            state.targets.insert(role, parsed);
        }
        state.timestamp = Some(timestamp);
        state.snapshot = Some(snapshot);
        Ok(state)
    }
}

/// The most bytes of a metadata file of our own: what our client reads.
const MAX_FILE: u64 = 1 << 20;

fn run<T>(result: Result<T, RunError<FileError>>) -> Result<(), RepositoryError> {
    match result {
        Ok(_) => Ok(()),
        Err(RunError::Tuf(error)) => Err(error.into()),
        Err(RunError::Fetch(error)) => Err(error.into()),
    }
}

/// Enters the holders' keys into `keys`.
fn role_keys(
    role: &str,
    holders: &Holders,
    keys: &mut BTreeMap<KeyId, Value>,
) -> Result<RoleKeys, RepositoryError> {
    let mut keyids: Vec<KeyId> = holders.keys.iter().map(PublicKey::id).collect();
    keyids.sort();
    keyids.dedup();
    if holders.threshold == 0 || keyids.len() < holders.threshold as usize {
        let (threshold, keys) = (holders.threshold, keyids.len());
        return Err(RepositoryError::Holders { role: role.to_owned(), threshold, keys });
    }
    for key in &holders.keys {
        keys.insert(key.id(), to_value(key.object())?);
    }
    Ok(RoleKeys { keyids, threshold: holders.threshold })
}

fn delegations(holders: &BTreeMap<Kind, Holders>) -> Result<Delegations, RepositoryError> {
    let mut delegations = Delegations { keys: BTreeMap::new(), roles: Vec::new() };
    for (kind, holders) in holders {
        let keys = role_keys(kind.as_str(), holders, &mut delegations.keys)?;
        delegations.roles.push(DelegatedRole {
            name: kind.as_str().to_owned(),
            keys,
            terminating: true,
            // A `*` matches one part of a path: exactly what a manifest's path has.
            paths: Some(vec![format!("{kind}/*/*/manifest.json")]),
            path_hash_prefixes: None,
        });
    }
    Ok(delegations)
}

fn to_value(value: &impl Serialize) -> Result<Value, RepositoryError> {
    serde_json::to_value(value).map_err(|error| KeyError::NotMetadata(error.to_string()).into())
}

fn document<T: Body>(body: &T, version: u64, expires: Date) -> Result<Document, RepositoryError> {
    let (kind, spec_version) = (T::TYPE.to_owned(), SPEC_VERSION.to_owned());
    let mut signed = to_value(&Header { kind, spec_version, version, expires })?;
    if let (Value::Object(signed), Value::Object(body)) = (&mut signed, to_value(body)?) {
        signed.extend(body);
    }
    Ok(Document { signatures: Vec::new(), signed })
}

fn signed<T: Body>(
    body: &T,
    version: u64,
    expires: Date,
    key: &SigningKey,
) -> Result<Vec<u8>, RepositoryError> {
    let mut document = document(body, version, expires)?;
    document.sign(key)?;
    Ok(document.to_bytes())
}

fn meta_file(version: u64, bytes: &[u8]) -> MetaFile {
    let hashes = BTreeMap::from([("sha256".to_owned(), hex::encode(Sha256::digest(bytes)))]);
    MetaFile { version, length: Some(bytes.len() as u64), hashes: Some(hashes) }
}
