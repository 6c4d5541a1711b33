//! The published state, and whether a client would take the next one.

use std::collections::BTreeMap;

use super::{Repository, RepositoryError};
use crate::durable::{self, FileError};
use crate::manifest::Kind;
use crate::tuf::error::TufError;
use crate::tuf::metadata::{Body, Parsed, Role, Root, Snapshot, Targets, Timestamp};
use crate::tuf::store::MemoryStore;
use crate::tuf::time::Date;
use crate::tuf::updater::{Limits, RunError, Updater};
use crate::tuf::{Request, quote};

/// The most bytes of a metadata file of our own: what our client reads.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// The published state.
pub(super) struct State {
    pub(super) root: Parsed<Root>,
    pub(super) root_bytes: Vec<u8>,
    pub(super) snapshot: Option<Parsed<Snapshot>>,
    pub(super) snapshot_bytes: Vec<u8>,
    pub(super) timestamp: Option<Parsed<Timestamp>>,
    pub(super) targets: BTreeMap<Role, Parsed<Targets>>,
}

impl Repository {
    /// As a node sees it that knows the state before, and as a new one does.
    pub(super) fn check_as_known(
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

    pub(super) fn check_with(
        &self,
        anchor: &[u8],
        known: MemoryStore,
        new: &[(String, Vec<u8>)],
        now: Date,
    ) -> Result<(), RepositoryError> {
        let mut updater = Updater::open(known, Some(anchor), now, Limits::default())?;
        let mut fetch = |request: &Request| match new.iter().find(|(name, _)| *name == request.path) {
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

    pub(super) fn read_metadata(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        durable::read(&self.metadata_dir().join(name), MAX_FILE)
    }

    /// The published state; `None` where nothing was published yet.
    pub(super) fn published(&self) -> Result<Option<State>, RepositoryError> {
        match self.state() {
            Err(RepositoryError::NoRepository(_)) => Ok(None),
            state => state.map(Some),
        }
    }

    /// A file that others name.
    fn named(&self, name: &str) -> Result<Vec<u8>, RepositoryError> {
        let missing = || RepositoryError::damaged(&self.metadata_dir().join(name), &"is missing");
        self.read_metadata(name)?.ok_or_else(missing)
    }

    fn parse<T: Body>(&self, role: &Role, name: &str, bytes: &[u8]) -> Result<Parsed<T>, RepositoryError> {
        Parsed::parse(role, bytes).map_err(|e| RepositoryError::damaged(&self.metadata_dir().join(name), &e))
    }

    pub(super) fn state(&self) -> Result<State, RepositoryError> {
        let mut version = 0;
        let mut root_bytes = None;
        while let Some(bytes) = self.read_metadata(&format!("{}.root.json", version + 1))? {
            version += 1;
            root_bytes = Some(bytes);
        }
        let Some(root_bytes) = root_bytes else {
            // Anything that was published was so after a first root.
            return match self.read_metadata("timestamp.json")? {
                Some(_) => {
                    Err(RepositoryError::damaged(&self.metadata_dir().join("1.root.json"), &"is missing"))
                }
                None => Err(RepositoryError::NoRepository(self.dir.clone())),
            };
        };
        let root = self.parse(&Role::Root, &format!("{version}.root.json"), &root_bytes)?;
        let mut state = State {
            root,
            root_bytes,
            snapshot: None,
            snapshot_bytes: Vec::new(),
            timestamp: None,
            targets: BTreeMap::new(),
        };
        let Some(bytes) = self.read_metadata("timestamp.json")? else {
            // A first publication that was cut short still has what it publishes staged, and can be made again.
            let unfinished = self.staged_path(&Role::Targets).exists();
            return match self.read_metadata("1.snapshot.json")?.filter(|_| !unfinished) {
                Some(_) => {
                    Err(RepositoryError::damaged(&self.metadata_dir().join("timestamp.json"), &"is missing"))
                }
                None => Ok(state),
            };
        };
        let timestamp: Parsed<Timestamp> = self.parse(&Role::Timestamp, "timestamp.json", &bytes)?;
        let name = format!("{}.snapshot.json", timestamp.body.snapshot().version);
        state.snapshot_bytes = self.named(&name)?;
        let snapshot: Parsed<Snapshot> = self.parse(&Role::Snapshot, &name, &state.snapshot_bytes)?;
        for (key, meta) in &snapshot.body.meta {
            let role = Role::named(key.strip_suffix(".json").unwrap_or(key));
            let name = format!("{}.{}.json", meta.version, quote(role.name()));
            let parsed = self.parse(&role, &name, &self.named(&name)?)?;
            state.targets.insert(role, parsed);
        }
        state.timestamp = Some(timestamp);
        state.snapshot = Some(snapshot);
        Ok(state)
    }
}

fn run<T>(result: Result<T, RunError<FileError>>) -> Result<(), RepositoryError> {
    match result {
        Ok(_) => Ok(()),
        Err(RunError::Tuf(error)) => Err(error.into()),
        Err(RunError::Fetch(error)) => Err(error.into()),
    }
}
