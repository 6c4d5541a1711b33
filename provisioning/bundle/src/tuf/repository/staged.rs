//! What waits for signatures: `staged/`, and who has to sign it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::Repository;
use super::build::document;
use super::state::MAX_FILE;
use super::types::{Need, RepositoryError, Staged};
use crate::durable::{self, FileError};
use crate::manifest::Kind;
use crate::tuf::keys::KeyRing;
use crate::tuf::metadata::{Body, Parsed, Role, RoleKeys, Root, TargetFile, TargetInfo, Targets};
use crate::tuf::signing::{Document, SigningKey};
use crate::tuf::time::Date;

impl Repository {
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
        let mut document = Document::read(&bytes).map_err(|e| RepositoryError::damaged(&path, &e))?;
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

    pub(super) fn restage_targets(
        &self,
        role: &Role,
        now: Date,
        change: impl FnOnce(&mut Targets) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let published = self.published()?.and_then(|mut state| state.targets.remove(role));
        let staged = match durable::read(&self.staged_path(role), MAX_FILE)? {
            Some(bytes) => Some(self.parse_staged::<Targets>(role, &bytes)?),
            None => None,
        };
        let version = published.as_ref().map_or(0, |parsed| parsed.header.version) + 1;
        let parsed = staged.or(published).ok_or_else(|| RepositoryError::NoRole(role.name().to_owned()))?;
        let mut targets = parsed.body;
        change(&mut targets)?;
        self.stage(role, version, self.lifetimes.targets, now, &targets)
    }

    pub(super) fn stage<T: Body>(
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

    fn parse_staged<T: Body>(&self, role: &Role, bytes: &[u8]) -> Result<Parsed<T>, RepositoryError> {
        Parsed::parse(role, bytes).map_err(|e| RepositoryError::damaged(&self.staged_path(role), &e))
    }

    pub(super) fn staged_path(&self, role: &Role) -> PathBuf {
        self.dir.join("staged").join(role.file())
    }

    pub(super) fn staged_documents(&self) -> Result<Vec<(Role, Document)>, RepositoryError> {
        let roles =
            [Role::Root, Role::Targets].into_iter().chain(Kind::ALL.map(|kind| Role::named(kind.as_str())));
        let mut documents = Vec::new();
        for role in roles {
            if let Some(bytes) = durable::read(&self.staged_path(&role), MAX_FILE)? {
                let path = self.staged_path(&role);
                let document = Document::read(&bytes).map_err(|e| RepositoryError::damaged(&path, &e))?;
                documents.push((role, document));
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
        let published = self.published()?;
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
                    Some(bytes) => Some(self.parse_staged::<Targets>(&Role::Targets, &bytes)?),
                    None => published.and_then(|mut state| state.targets.remove(&Role::Targets)),
                }
                .ok_or_else(no_role)?;
                let found = targets.body.delegations.iter().flat_map(|d| &d.roles).find(|d| d.name == *name);
                let keys = found.ok_or_else(no_role)?.keys.clone();
                Ok(vec![(format!("targets {}", targets.header.version), targets.ring, keys)])
            }
            _ => match staged(&Role::Root)? {
                Some(bytes) => Ok(vec![root_of(&self.parse_staged(&Role::Root, &bytes)?)?]),
                None => Ok(vec![root_of(&published.ok_or_else(no_role)?.root)?]),
            },
        }
    }
}
