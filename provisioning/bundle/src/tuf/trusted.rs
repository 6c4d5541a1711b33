//! What is trusted, and the checks by which more becomes trusted (specification, 5.3 to 5.6). No I/O.

use std::collections::BTreeMap;

use super::error::{Mismatch, TufError};
use super::keys::KeyRing;
use super::metadata::{Body, MetaFile, Parsed, Role, RoleKeys, Root, Snapshot, Targets, Timestamp};
use super::target::verify_hashes;
use super::time::Date;

/// The trusted metadata of one update.
#[derive(Debug)]
pub(super) struct Trusted {
    /// The fixed update start time; 0 judges no expiry.
    pub(super) now: Date,
    pub(super) root: Parsed<Root>,
    pub(super) timestamp: Option<Parsed<Timestamp>>,
    /// The snapshot; while it does not match the timestamp, only what a newer one is compared with.
    pub(super) snapshot: Option<Parsed<Snapshot>>,
    pub(super) targets: BTreeMap<Role, Parsed<Targets>>,
}

impl Trusted {
    /// Begins with a root that came another way: it must be signed as it asks itself.
    pub(super) fn new(root: &[u8], now: Date) -> Result<Self, TufError> {
        let root: Parsed<Root> = Parsed::parse(&Role::Root, root)?;
        check_signed(
            &Role::Root,
            &root,
            &root.ring,
            root.body.role(&Role::Root),
            &authority(&Role::Root, &root),
        )?;
        Ok(Self { now, root, timestamp: None, snapshot: None, targets: BTreeMap::new() })
    }

    /// 5.3.4 to 5.3.7.
    pub(super) fn update_root(&mut self, bytes: &[u8]) -> Result<(), TufError> {
        let new: Parsed<Root> = Parsed::parse(&Role::Root, bytes)?;
        let old = &self.root;
        check_signed(&Role::Root, &new, &old.ring, old.body.role(&Role::Root), &authority(&Role::Root, old))?;
        check_signed(
            &Role::Root,
            &new,
            &new.ring,
            new.body.role(&Role::Root),
            &authority(&Role::Root, &new),
        )?;
        let (trusted, offered) = (old.header.version, new.header.version);
        if offered <= trusted {
            return Err(TufError::RolledBack { role: Role::Root, trusted, offered });
        }
        if offered != trusted + 1 {
            let mismatch = Mismatch::Version { expected: trusted + 1, found: offered };
            return Err(TufError::MixAndMatch {
                role: Role::Root,
                authority: authority(&Role::Root, old),
                mismatch,
            });
        }
        self.root = new;
        Ok(())
    }

    /// 5.3.10. `updated`: whether this update brought the root.
    pub(super) fn check_root_expiry(&self, updated: bool) -> Result<(), TufError> {
        self.check_expiry(&Role::Root, &self.root, updated)
    }

    /// 5.4.2 to 5.4.4. `Ok(false)`: it is the version that is trusted already, and was thrown away.
    pub(super) fn update_timestamp(&mut self, bytes: &[u8]) -> Result<bool, TufError> {
        let new = self.parse_top::<Timestamp>(&Role::Timestamp, bytes)?;
        if let Some(old) = &self.timestamp {
            let (trusted, offered) = (old.header.version, new.header.version);
            if offered < trusted {
                return Err(TufError::RolledBack { role: Role::Timestamp, trusted, offered });
            }
            if offered == trusted {
                self.check_expiry(&Role::Timestamp, old, false)?;
                return Ok(false);
            }
            let (trusted, offered) = (old.body.snapshot().version, new.body.snapshot().version);
            if offered < trusted {
                return Err(TufError::RolledBack { role: Role::Snapshot, trusted, offered });
            }
        }
        self.check_expiry(&Role::Timestamp, &new, true)?;
        self.timestamp = Some(new);
        Ok(true)
    }

    /// What was stored. Its expiry is judged when the repository was asked for a newer one.
    pub(super) fn restore_timestamp(&mut self, bytes: &[u8]) -> Result<(), TufError> {
        self.timestamp = Some(self.parse_top(&Role::Timestamp, bytes)?);
        Ok(())
    }

    /// 5.5.2 to 5.5.6.
    pub(super) fn update_snapshot(&mut self, bytes: &[u8]) -> Result<(), TufError> {
        let (meta, authority) = self.snapshot_meta()?;
        check_meta_bytes(&Role::Snapshot, &meta, bytes, &authority)?;
        let new = self.parse_top::<Snapshot>(&Role::Snapshot, bytes)?;
        check_meta_version(&Role::Snapshot, &meta, new.header.version, &authority)?;
        if let Some(old) = &self.snapshot {
            check_snapshot_rollback(old, &new)?;
        }
        self.check_expiry(&Role::Snapshot, &new, true)?;
        self.snapshot = Some(new);
        Ok(())
    }

    /// What was stored: kept to compare with, as far as it is signed. Whether it is the one that the timestamp names.
    pub(super) fn restore_snapshot(&mut self, bytes: &[u8]) -> Result<(), TufError> {
        let stored = self.parse_top::<Snapshot>(&Role::Snapshot, bytes)?;
        let (meta, authority) = self.snapshot_meta()?;
        let version = stored.header.version;
        let stored = self.snapshot.insert(stored);
        check_meta_version(&Role::Snapshot, &meta, version, &authority)?;
        check_meta_bytes(&Role::Snapshot, &meta, bytes, &authority)?;
        check_expiry(self.now, &Role::Snapshot, stored, false)
    }

    /// 5.6.2 to 5.6.5, for the top-level role and for a delegated one; the same for what was stored.
    pub(super) fn update_targets(
        &mut self,
        role: &Role,
        delegator: Option<&Role>,
        bytes: &[u8],
        fresh: bool,
    ) -> Result<(), TufError> {
        let (meta, authority) = self.targets_meta(role)?;
        check_meta_bytes(role, &meta, bytes, &authority)?;
        let new: Parsed<Targets> = Parsed::parse(role, bytes)?;
        self.check_targets_signed(role, delegator, &new)?;
        check_meta_version(role, &meta, new.header.version, &authority)?;
        self.check_expiry(role, &new, fresh)?;
        self.targets.insert(role.clone(), new);
        Ok(())
    }

    /// Whether a targets role that is there is also what `delegator` asks for: one name may be delegated to twice, with
    /// other keys.
    pub(super) fn recheck_targets(&self, role: &Role, delegator: Option<&Role>) -> Result<bool, TufError> {
        let Some(known) = self.targets.get(role) else { return Ok(false) };
        self.check_targets_signed(role, delegator, known)?;
        Ok(true)
    }

    /// What the timestamp says of the snapshot, and which timestamp.
    pub(super) fn snapshot_meta(&self) -> Result<(MetaFile, String), TufError> {
        let timestamp = self.timestamp.as_ref().ok_or(TufError::OutOfOrder)?;
        Ok((timestamp.body.snapshot().clone(), authority(&Role::Timestamp, timestamp)))
    }

    /// What the snapshot says of a targets role, and which snapshot.
    pub(super) fn targets_meta(&self, role: &Role) -> Result<(MetaFile, String), TufError> {
        let snapshot = self.snapshot.as_ref().ok_or(TufError::OutOfOrder)?;
        let authority = authority(&Role::Snapshot, snapshot);
        match snapshot.body.meta.get(&role.meta_key()) {
            Some(meta) => Ok((meta.clone(), authority)),
            None => {
                Err(TufError::MixAndMatch { role: role.clone(), authority, mismatch: Mismatch::NotListed })
            }
        }
    }

    fn check_targets_signed(
        &self,
        role: &Role,
        delegator: Option<&Role>,
        new: &Parsed<Targets>,
    ) -> Result<(), TufError> {
        let Some(delegator) = delegator else {
            let root = &self.root;
            return check_signed(role, new, &root.ring, root.body.role(role), &authority(&Role::Root, root));
        };
        let by = self.targets.get(delegator).ok_or(TufError::OutOfOrder)?;
        let delegations = by.body.delegations.as_ref();
        let keys = delegations.and_then(|d| d.roles.iter().find(|d| d.name == role.name())).map(|d| &d.keys);
        check_signed(role, new, &by.ring, keys, &authority(delegator, by))
    }

    fn parse_top<T: Body>(&self, role: &Role, bytes: &[u8]) -> Result<Parsed<T>, TufError> {
        let new: Parsed<T> = Parsed::parse(role, bytes)?;
        let root = &self.root;
        check_signed(role, &new, &root.ring, root.body.role(role), &authority(&Role::Root, root))?;
        Ok(new)
    }

    fn check_expiry<T>(&self, role: &Role, parsed: &Parsed<T>, fresh: bool) -> Result<(), TufError> {
        check_expiry(self.now, role, parsed, fresh)
    }
}

fn check_expiry<T>(now: Date, role: &Role, parsed: &Parsed<T>, fresh: bool) -> Result<(), TufError> {
    let (role, version, expires) = (role.clone(), parsed.header.version, parsed.header.expires);
    match (expires > now, fresh) {
        (true, _) => Ok(()),
        (false, true) => Err(TufError::Expired { role, version, expires, now }),
        (false, false) => Err(TufError::Frozen { role, version, expires, now }),
    }
}

fn authority<T>(role: &Role, parsed: &Parsed<T>) -> String {
    format!("{role} {}", parsed.header.version)
}

fn check_signed<T: Body>(
    role: &Role,
    new: &Parsed<T>,
    ring: &KeyRing,
    keys: Option<&RoleKeys>,
    authority: &str,
) -> Result<(), TufError> {
    let keys = keys.ok_or(TufError::OutOfOrder)?;
    let valid = new.signed_by(ring, keys);
    if valid >= keys.threshold {
        return Ok(());
    }
    let (version, threshold, authority) = (new.header.version, keys.threshold, authority.to_owned());
    Err(TufError::Forged { role: role.clone(), version, valid, threshold, authority })
}

fn check_meta_version(role: &Role, meta: &MetaFile, found: u64, authority: &str) -> Result<(), TufError> {
    if found == meta.version {
        return Ok(());
    }
    let mismatch = Mismatch::Version { expected: meta.version, found };
    Err(TufError::MixAndMatch { role: role.clone(), authority: authority.to_owned(), mismatch })
}

fn check_meta_bytes(role: &Role, meta: &MetaFile, bytes: &[u8], authority: &str) -> Result<(), TufError> {
    let mix =
        |mismatch| TufError::MixAndMatch { role: role.clone(), authority: authority.to_owned(), mismatch };
    if let Some(expected) = meta.length.filter(|length| *length != bytes.len() as u64) {
        return Err(mix(Mismatch::Length { expected, found: bytes.len() as u64 }));
    }
    meta.hashes.as_ref().map_or(Ok(()), |hashes| verify_hashes(hashes, bytes)).map_err(mix)
}

/// 5.5.5.
fn check_snapshot_rollback(old: &Parsed<Snapshot>, new: &Parsed<Snapshot>) -> Result<(), TufError> {
    for (file, trusted) in &old.body.meta {
        let role = Role::named(file.strip_suffix(".json").unwrap_or(file));
        let Some(offered) = new.body.meta.get(file) else {
            return Err(TufError::Vanished { role, snapshot: new.header.version });
        };
        if offered.version < trusted.version {
            return Err(TufError::RolledBack { role, trusted: trusted.version, offered: offered.version });
        }
    }
    Ok(())
}
