//! The client workflow (specification, 5), without a network.
//!
//! ```text
//! let mut updater = Updater::open(store, Some(root_in_the_image), Date::now(), Limits::default())?;
//! let mut step = updater.refresh()?;
//! while let Step::Need(request) = step { step = updater.feed(Answer::Bytes(&fetch(&request)?))?; }
//! let mut step = updater.lookup("os/base/1.0.0/manifest.json")?;      // Need..., then Found
//! ```
//! After an error the update is over; what was trusted by then stays, and a new `refresh` may follow. A request that
//! failed on the way may simply be made again: nothing changes before [`Updater::feed`].

use std::collections::BTreeSet;

use super::error::TufError;
pub use super::exchange::{Answer, Limits, Request, RunError, Step};
use super::metadata::{Role, RoleKeys, TargetInfo};
use super::store::MetadataStore;
use super::time::Date;
use super::trusted::Trusted;

#[derive(Debug)]
enum Phase {
    Idle,
    Root { rotations: u32 },
    Timestamp,
    Snapshot,
    Targets,
    Lookup { search: Search, role: Role, delegator: Role },
}

/// A pre-order depth-first search (5.6.7).
#[derive(Debug)]
struct Search {
    path: String,
    visited: BTreeSet<Role>,
    /// Roles to visit, the next one last, each with who delegates to it.
    open: Vec<(Role, Role)>,
}

/// The client.
#[derive(Debug)]
pub struct Updater<S> {
    store: S,
    limits: Limits,
    trusted: Trusted,
    phase: Phase,
    refreshed: bool,
    /// Keys of the roles at the start of the update: which were rotated.
    before: [Option<RoleKeys>; 2],
}

impl<S: MetadataStore> Updater<S> {
    /// Begins at `now`, the fixed update start time.
    ///
    /// With `anchor`, the root that came with the program, trust begins there and nowhere else: stored roots count as far
    /// as an unbroken chain leads from it to them. Without, the stored `root.json` is the anchor.
    ///
    /// # Errors
    /// [`TufError::Forged`] and [`TufError::Malformed`] for an anchor that does not sign itself; [`TufError::Missing`]
    /// when there is none.
    pub fn open(mut store: S, anchor: Option<&[u8]>, now: Date, limits: Limits) -> Result<Self, TufError> {
        let trusted = match anchor {
            Some(anchor) => {
                let mut trusted = Trusted::new(anchor, now)?;
                let last = follow_stored_roots(&mut trusted, &store, limits)?;
                let current = last.as_deref().unwrap_or(anchor);
                if store.load(&Role::Root.file(), limits.root)?.as_deref() != Some(current) {
                    store.save(&Role::Root.file(), current)?;
                }
                trusted
            }
            None => {
                let stored = store.load(&Role::Root.file(), limits.root)?;
                Trusted::new(&stored.ok_or(TufError::Missing { role: Role::Root, version: None })?, now)?
            }
        };
        let before = rotating_keys(&trusted);
        Ok(Self { store, limits, trusted, phase: Phase::Idle, refreshed: false, before })
    }

    /// The version of a role that is trusted now.
    pub fn version(&self, role: &Role) -> Option<u64> {
        match role {
            Role::Root => Some(self.trusted.root.header.version),
            Role::Timestamp => self.trusted.timestamp.as_ref().map(|t| t.header.version),
            Role::Snapshot => self.trusted.snapshot.as_ref().map(|s| s.header.version),
            targets => self.trusted.targets.get(targets).map(|t| t.header.version),
        }
    }

    /// When the first of the trusted top-level roles ends: refresh before.
    pub fn expires(&self) -> Date {
        let trusted = &self.trusted;
        let ends = [
            Some(trusted.root.header.expires),
            trusted.timestamp.as_ref().map(|t| t.header.expires),
            trusted.snapshot.as_ref().map(|s| s.header.expires),
            trusted.targets.get(&Role::Targets).map(|t| t.header.expires),
        ];
        ends.into_iter().flatten().min().unwrap_or(Date(0))
    }

    /// The store, back.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Copies into `to` what authorises the targets that were looked up: a generation keeps it, for [`super::offline`].
    ///
    /// # Errors
    /// [`TufError::File`].
    pub fn export(&self, to: &mut impl MetadataStore) -> Result<(), TufError> {
        let mut copy = |name: &str, limit| match self.store.load(name, limit)? {
            Some(bytes) => to.save(name, &bytes),
            None => Ok(()),
        };
        let last = self.trusted.root.header.version;
        for version in last.saturating_sub(self.limits.root_rotations.into()).max(1)..=last {
            copy(&history(version), self.limits.root)?;
        }
        let top = [(Role::Root, self.limits.root), (Role::Timestamp, self.limits.timestamp)];
        let top = top.into_iter().chain([(Role::Snapshot, self.limit_of_snapshot())]);
        let targets = self.trusted.targets.keys().map(|role| (role.clone(), self.limit_of_targets(role)));
        for (role, limit) in top.chain(targets) {
            copy(&role.file(), limit)?;
        }
        Ok(())
    }

    /// Begins to bring the top-level roles up to date.
    ///
    /// # Errors
    /// [`TufError`].
    pub fn refresh(&mut self) -> Result<Step, TufError> {
        self.refreshed = false;
        self.before = rotating_keys(&self.trusted);
        self.trusted.timestamp = None;
        self.trusted.snapshot = None;
        self.trusted.targets.clear();
        self.phase = Phase::Root { rotations: 0 };
        Ok(self.need_root())
    }

    /// Begins to look for a target, after a refresh.
    ///
    /// # Errors
    /// [`TufError::UnknownTarget`] when no role lists it; [`TufError`] when a role that may know cannot be had.
    pub fn lookup(&mut self, path: &str) -> Result<Step, TufError> {
        if !self.refreshed {
            return Err(TufError::OutOfOrder);
        }
        let search = Search { path: path.to_owned(), visited: [Role::Targets].into(), open: Vec::new() };
        self.visit(search, Role::Targets)
    }

    /// Goes on with what was fetched.
    ///
    /// # Errors
    /// [`TufError`]; the update is then over.
    pub fn feed(&mut self, answer: Answer<'_>) -> Result<Step, TufError> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => Err(TufError::OutOfOrder),
            Phase::Root { rotations } => self.feed_root(answer, rotations),
            Phase::Timestamp => {
                let bytes = take(answer, &Role::Timestamp, None, self.limits.timestamp)?;
                if self.trusted.update_timestamp(bytes)? {
                    self.store.save(&Role::Timestamp.file(), bytes)?;
                }
                self.begin_snapshot()
            }
            Phase::Snapshot => {
                let version = self.trusted.snapshot_meta()?.0.version;
                let bytes = take(answer, &Role::Snapshot, Some(version), self.limit_of_snapshot())?;
                self.trusted.update_snapshot(bytes)?;
                self.store.save(&Role::Snapshot.file(), bytes)?;
                self.begin_targets()
            }
            Phase::Targets => {
                self.feed_targets(answer, &Role::Targets, None)?;
                Ok(self.end_refresh())
            }
            Phase::Lookup { search, role, delegator } => {
                self.feed_targets(answer, &role, Some(&delegator))?;
                self.visit(search, role)
            }
        }
    }

    /// Goes on with `step` until there is a result, with `fetch` for what is needed: `None` is «not found». For callers
    /// that may block.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run<E>(
        &mut self,
        mut step: Result<Step, TufError>,
        mut fetch: impl FnMut(&Request) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Step, RunError<E>> {
        loop {
            let request = match step? {
                Step::Need(request) => request,
                done => return Ok(done),
            };
            step = match fetch(&request).map_err(RunError::Fetch)? {
                Some(bytes) => self.feed(Answer::Bytes(&bytes)),
                None => self.feed(Answer::NotFound),
            };
        }
    }

    fn feed_root(&mut self, answer: Answer<'_>, rotations: u32) -> Result<Step, TufError> {
        if answer != Answer::NotFound {
            let version = self.trusted.root.header.version + 1;
            let bytes = take(answer, &Role::Root, Some(version), self.limits.root)?;
            self.trusted.update_root(bytes)?;
            // The history first: a root without the one before it cannot be followed from the anchor.
            self.store.save(&history(version), bytes)?;
            self.store.save(&Role::Root.file(), bytes)?;
            if rotations + 1 < self.limits.root_rotations {
                self.phase = Phase::Root { rotations: rotations + 1 };
                return Ok(self.need_root());
            }
        }
        self.trusted.check_root_expiry(answer != Answer::NotFound || rotations > 0)?;
        // 5.3.11: fast-forward recovery. After a power cut before this, a rotated key's file is not signed any more, and
        // is ignored below.
        let after = rotating_keys(&self.trusted);
        if self.before.iter().zip(&after).any(|(before, after)| was_rotated(before.as_ref(), after.as_ref()))
        {
            self.store.remove(&Role::Timestamp.file())?;
            self.store.remove(&Role::Snapshot.file())?;
        }
        self.begin_timestamp()
    }

    fn begin_timestamp(&mut self) -> Result<Step, TufError> {
        if let Some(bytes) = self.store.load(&Role::Timestamp.file(), self.limits.timestamp)? {
            // What is stored and not signed by today's keys is not trusted.
            let _ = self.trusted.restore_timestamp(&bytes);
        }
        self.phase = Phase::Timestamp;
        let max_length = self.limits.timestamp;
        Ok(Step::Need(Request {
            path: Role::Timestamp.file(),
            max_length,
            role: Role::Timestamp,
            version: None,
        }))
    }

    fn begin_snapshot(&mut self) -> Result<Step, TufError> {
        let (meta, _) = self.trusted.snapshot_meta()?;
        if let Some(bytes) = self.store.load(&Role::Snapshot.file(), self.limits.snapshot)?
            && self.trusted.restore_snapshot(&bytes).is_ok()
        {
            return self.begin_targets();
        }
        self.phase = Phase::Snapshot;
        Ok(self.need(Role::Snapshot, meta.version, self.limit_of_snapshot()))
    }

    fn begin_targets(&mut self) -> Result<Step, TufError> {
        match self.need_targets(&Role::Targets, None)? {
            None => Ok(self.end_refresh()),
            Some(need) => {
                self.phase = Phase::Targets;
                Ok(need)
            }
        }
    }

    fn end_refresh(&mut self) -> Step {
        self.refreshed = true;
        Step::Refreshed
    }

    /// Takes a targets role from the store, or says what to fetch.
    fn need_targets(&mut self, role: &Role, delegator: Option<&Role>) -> Result<Option<Step>, TufError> {
        if self.trusted.recheck_targets(role, delegator)? {
            return Ok(None);
        }
        let (meta, _) = self.trusted.targets_meta(role)?;
        let limit = self.limit_of_targets(role);
        if let Some(bytes) = self.store.load(&role.file(), limit)?
            && self.trusted.update_targets(role, delegator, &bytes, false).is_ok()
        {
            return Ok(None);
        }
        Ok(Some(self.need(role.clone(), meta.version, limit)))
    }

    fn feed_targets(
        &mut self,
        answer: Answer<'_>,
        role: &Role,
        delegator: Option<&Role>,
    ) -> Result<(), TufError> {
        let version = self.trusted.targets_meta(role)?.0.version;
        let bytes = take(answer, role, Some(version), self.limit_of_targets(role))?;
        self.trusted.update_targets(role, delegator, bytes, true)?;
        Ok(self.store.save(&role.file(), bytes)?)
    }

    /// Looks into `role`, which is trusted, and goes on with the next.
    fn visit(&mut self, mut search: Search, mut role: Role) -> Result<Step, TufError> {
        loop {
            let targets = self.trusted.targets.get(&role).ok_or(TufError::OutOfOrder)?;
            if let Some(file) = targets.body.targets.get(&search.path) {
                let consistent = self.trusted.root.body.consistent_snapshot;
                let version = targets.header.version;
                return Ok(Step::Found(TargetInfo::new(&search.path, file, &role, version, consistent)));
            }
            let mut children = Vec::new();
            for delegation in targets.body.delegations.iter().flat_map(|d| &d.roles) {
                if delegation.matches(&search.path) {
                    children.push((Role::named(&delegation.name), role.clone()));
                    if delegation.terminating {
                        search.open.clear();
                        break;
                    }
                }
            }
            search.open.extend(children.into_iter().rev());
            let (next, delegator) = loop {
                let Some((next, delegator)) = search.open.pop() else {
                    return Err(TufError::UnknownTarget { path: search.path });
                };
                if search.visited.len() > self.limits.delegations {
                    return Err(TufError::UnknownTarget { path: search.path });
                }
                if search.visited.insert(next.clone()) {
                    break (next, delegator);
                }
            };
            if let Some(need) = self.need_targets(&next, Some(&delegator))? {
                self.phase = Phase::Lookup { search, role: next, delegator };
                return Ok(need);
            }
            role = next;
        }
    }

    fn need_root(&self) -> Step {
        let version = self.trusted.root.header.version + 1;
        // Roots have a version in their name whether or not snapshots are consistent.
        let path = format!("{version}.{}", Role::Root.file());
        Step::Need(Request { path, max_length: self.limits.root, role: Role::Root, version: Some(version) })
    }

    fn need(&self, role: Role, version: u64, max_length: u64) -> Step {
        let file = role.file();
        let path =
            if self.trusted.root.body.consistent_snapshot { format!("{version}.{file}") } else { file };
        Step::Need(Request { path, max_length, role, version: Some(version) })
    }

    /// A stated length counts, up to the same limit: whoever signs may not make a node read for ever either.
    fn limit_of_snapshot(&self) -> u64 {
        let stated = self.trusted.snapshot_meta().ok().and_then(|(meta, _)| meta.length);
        stated.unwrap_or(u64::MAX).min(self.limits.snapshot)
    }

    fn limit_of_targets(&self, role: &Role) -> u64 {
        let stated = self.trusted.targets_meta(role).ok().and_then(|(meta, _)| meta.length);
        stated.unwrap_or(u64::MAX).min(self.limits.targets)
    }

    /// For [`super::offline`]: the top-level roles from the store alone.
    pub(super) fn restore(&mut self) -> Result<(), TufError> {
        let missing = |role: &Role| TufError::Missing { role: role.clone(), version: None };
        let load = |role: Role, limit| -> Result<Vec<u8>, TufError> {
            self.store.load(&role.file(), limit)?.ok_or_else(|| missing(&role))
        };
        let timestamp = load(Role::Timestamp, self.limits.timestamp)?;
        let snapshot = load(Role::Snapshot, self.limits.snapshot)?;
        let targets = load(Role::Targets, self.limits.targets)?;
        self.trusted.restore_timestamp(&timestamp)?;
        self.trusted.restore_snapshot(&snapshot)?;
        self.trusted.update_targets(&Role::Targets, None, &targets, false)?;
        self.refreshed = true;
        Ok(())
    }

    /// For [`super::offline`]: why a stored delegated role is not what it should be.
    pub(super) fn restore_delegated(&mut self, role: &Role) -> Result<(), TufError> {
        let Phase::Lookup { delegator, .. } = &self.phase else { return Err(TufError::OutOfOrder) };
        let delegator = delegator.clone();
        let missing = TufError::Missing { role: role.clone(), version: None };
        let bytes = self.store.load(&role.file(), self.limit_of_targets(role))?.ok_or(missing)?;
        self.trusted.update_targets(role, Some(&delegator), &bytes, false)
    }
}

fn history(version: u64) -> String {
    format!("root_history/{version}.root.json")
}

/// Follows stored roots from the anchor as far as each follows from the one before; returns the last one's bytes.
fn follow_stored_roots(
    trusted: &mut Trusted,
    store: &impl MetadataStore,
    limits: Limits,
) -> Result<Option<Vec<u8>>, TufError> {
    let mut last = None;
    for _ in 0..limits.root_rotations {
        let Some(bytes) = store.load(&history(trusted.root.header.version + 1), limits.root)? else { break };
        if trusted.update_root(&bytes).is_err() {
            break;
        }
        last = Some(bytes);
    }
    Ok(last)
}

fn take<'a>(answer: Answer<'a>, role: &Role, version: Option<u64>, limit: u64) -> Result<&'a [u8], TufError> {
    match answer {
        Answer::Bytes(bytes) if bytes.len() as u64 <= limit => Ok(bytes),
        Answer::Bytes(_) | Answer::TooLong => Err(TufError::TooLong { role: role.clone(), limit }),
        Answer::NotFound => Err(TufError::Missing { role: role.clone(), version }),
    }
}

fn rotating_keys(trusted: &Trusted) -> [Option<RoleKeys>; 2] {
    [Role::Timestamp, Role::Snapshot].map(|role| trusted.root.body.role(&role).cloned())
}

/// A key that was taken away may have been an attacker's; one that was added takes nothing back.
fn was_rotated(before: Option<&RoleKeys>, after: Option<&RoleKeys>) -> bool {
    before
        .into_iter()
        .flat_map(|role| &role.keyids)
        .any(|id| !after.is_some_and(|role| role.keyids.contains(id)))
}
