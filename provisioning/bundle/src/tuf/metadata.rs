//! The roles' metadata (specification, 4): types, and a parser that refuses what cannot be meant.
//!
//! Unknown keys are allowed, as the specification asks: they are part of what is signed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::error::TufError;
use super::keys::{KeyId, KeyRing};
pub use super::target::TargetInfo;
use super::time::Date;
use super::{canonical, glob, json, quote};

/// The version of the specification that we write.
pub const SPEC_VERSION: &str = "1.0.34";
/// The longest name of a delegated role, in bytes: percent-encoded it is a file name still.
pub const MAX_ROLE_NAME: usize = 80;

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Says which keys the others have.
    Root,
    /// Says which snapshot is current.
    Timestamp,
    /// Says which version each targets role is at.
    Snapshot,
    /// Lists targets, or says who does.
    Targets,
    /// A targets role that another one delegates to.
    Delegated(String),
}

impl Role {
    /// The role of that name.
    pub fn named(name: &str) -> Self {
        match name {
            "root" => Self::Root,
            "timestamp" => Self::Timestamp,
            "snapshot" => Self::Snapshot,
            "targets" => Self::Targets,
            other => Self::Delegated(other.to_owned()),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Root => "root",
            Self::Timestamp => "timestamp",
            Self::Snapshot => "snapshot",
            Self::Targets => "targets",
            Self::Delegated(name) => name,
        }
    }

    /// Its file's name, without a version: `root.json`. Delegated names are percent-encoded.
    pub fn file(&self) -> String {
        format!("{}.json", quote(self.name()))
    }

    /// Its key in the snapshot: as the file's name, but plain.
    pub fn meta_key(&self) -> String {
        format!("{}.json", self.name())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().escape_default().fmt(f)
    }
}

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Whose.
    pub keyid: KeyId,
    /// Hexadecimal; empty where a holder has not signed yet.
    pub sig: String,
}

/// Which keys a role has, and how many must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Their ids.
    pub keyids: Vec<KeyId>,
    /// How many: at least 1.
    pub threshold: u32,
}

/// `root.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Whether files have versions and digests in their names. Ours do.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// All keys.
    pub keys: BTreeMap<KeyId, Value>,
    /// Who has them.
    pub roles: BTreeMap<String, RoleKeys>,
}

/// What is said of another metadata file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaFile {
    /// Its version.
    pub version: u64,
    /// Its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its digests, by algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<BTreeMap<String, String>>,
}

/// `timestamp.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// `snapshot.json`, and nothing else.
    pub meta: BTreeMap<String, MetaFile>,
}

/// `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Every targets role's file.
    pub meta: BTreeMap<String, MetaFile>,
}

/// `targets.json`, or a delegated role's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Targets by path.
    pub targets: BTreeMap<String, TargetFile>,
    /// Whom to ask for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
}

/// A target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFile {
    /// Bytes.
    pub length: u64,
    /// Digests, by algorithm.
    pub hashes: BTreeMap<String, String>,
    /// Whatever the publisher adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
}

/// Whom a targets role delegates to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegations {
    /// Their keys.
    pub keys: BTreeMap<KeyId, Value>,
    /// In order: the first that has a target decides.
    pub roles: Vec<DelegatedRole>,
}

/// A delegation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// The role's name.
    pub name: String,
    /// Its keys and threshold.
    #[serde(flatten)]
    pub keys: RoleKeys,
    /// Whether a path that matches is looked for nowhere else.
    pub terminating: bool,
    /// Patterns of paths; or
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// prefixes of the paths' SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hash_prefixes: Option<Vec<String>>,
}

impl DelegatedRole {
    /// Whether it is asked for `path`.
    pub fn matches(&self, path: &str) -> bool {
        if let Some(prefixes) = &self.path_hash_prefixes {
            let digest = hex::encode(Sha256::digest(path));
            return prefixes.iter().any(|prefix| digest.starts_with(prefix.as_str()));
        }
        self.paths.iter().flatten().any(|pattern| glob::matches(pattern, path))
    }
}

impl Root {
    /// A top-level role's keys.
    pub fn role(&self, role: &Role) -> Option<&RoleKeys> {
        self.roles.get(role.name())
    }
}

impl Timestamp {
    /// The snapshot that is current; the parser saw to it that it is there.
    pub fn snapshot(&self) -> &MetaFile {
        &self.meta["snapshot.json"]
    }
}

/// A role's part of the metadata: what differs from role to role.
pub trait Body: Sized + DeserializeOwned + Serialize {
    /// `_type`.
    const TYPE: &'static str;
    /// Checks what types cannot say; reads keys.
    ///
    /// # Errors
    /// A word on what is wrong.
    fn check(&self) -> Result<KeyRing, String>;
}

/// What every role's signed part has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its role's type.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Of the specification.
    pub spec_version: String,
    /// Grows by one with each change.
    pub version: u64,
    /// From when on it is not believed.
    pub expires: Date,
}

impl<T> fmt::Debug for Parsed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.header.kind, self.header.version)
    }
}

/// A metadata file that was read and is not yet trusted.
#[derive(Clone)]
pub struct Parsed<T> {
    /// What every role has.
    pub header: Header,
    /// What this role has.
    pub body: T,
    /// The keys it lists.
    pub ring: KeyRing,
    /// Who signed.
    pub signatures: Vec<Signature>,
    /// What they signed.
    pub canonical: Vec<u8>,
}

#[derive(Deserialize)]
struct Envelope {
    signed: Value,
    signatures: Vec<Signature>,
}

impl<T: Body> Parsed<T> {
    /// Reads a file of `role`. The caller checked its length.
    ///
    /// # Errors
    /// [`TufError::Malformed`].
    pub fn parse(role: &Role, bytes: &[u8]) -> Result<Self, TufError> {
        Self::read(bytes).map_err(|problem| TufError::Malformed { role: role.clone(), problem })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = |error: serde_json::Error| error.to_string();
        let Envelope { signed, signatures } =
            serde_json::from_value(json::parse(bytes).map_err(text)?).map_err(text)?;
        let mut ids = BTreeSet::new();
        if let Some(twice) = signatures.iter().find(|signature| !ids.insert(&signature.keyid)) {
            return Err(format!("key {:.16} signs it twice", twice.keyid));
        }
        let canonical = canonical::encode(&signed).map_err(|error| error.to_string())?;
        let header = Header::deserialize(&signed).map_err(text)?;
        if header.kind != T::TYPE {
            return Err(format!("it is of type {:.20?}", header.kind));
        }
        // The same major version is compatible (specification, 4.3).
        if header.spec_version.split('.').next() != Some("1") {
            return Err(format!(
                "it follows version {:.20?} of the specification, not 1",
                header.spec_version
            ));
        }
        if header.version == 0 || header.version > i64::MAX as u64 {
            return Err(format!("version {} is out of range", header.version));
        }
        let body: T = serde_json::from_value(signed).map_err(text)?;
        let ring = body.check()?;
        Ok(Self { header, body, ring, signatures, canonical })
    }

    /// How many keys of `role`, as `ring` has them, signed it.
    pub fn signed_by(&self, ring: &KeyRing, role: &RoleKeys) -> u32 {
        ring.count(role, &self.canonical, &self.signatures)
    }
}

fn check_role_keys(name: &str, role: &RoleKeys) -> Result<(), String> {
    if role.threshold == 0 {
        return Err(format!("role {name:.80} has the threshold 0"));
    }
    if role.keyids.len() > super::keys::MAX_KEYS {
        return Err(format!("role {name:.80} has too many keys"));
    }
    Ok(())
}

fn check_hashes(what: &str, hashes: &BTreeMap<String, String>) -> Result<(), String> {
    if hashes.is_empty() { Err(format!("{what:.80} has no hashes")) } else { Ok(()) }
}

fn check_meta(meta: &BTreeMap<String, MetaFile>) -> Result<KeyRing, String> {
    for (name, file) in meta {
        if file.version == 0 || file.version > i64::MAX as u64 {
            return Err(format!("{name:.80} has version {}", file.version));
        }
        file.hashes.as_ref().map_or(Ok(()), |hashes| check_hashes(name, hashes))?;
    }
    Ok(KeyRing::default())
}

impl Body for Root {
    const TYPE: &'static str = "root";
    fn check(&self) -> Result<KeyRing, String> {
        for role in ["root", "timestamp", "snapshot", "targets"] {
            if !self.roles.contains_key(role) {
                return Err(format!("it has no keys for the role {role}"));
            }
        }
        self.roles.iter().try_for_each(|(name, role)| check_role_keys(name, role))?;
        KeyRing::read(&self.keys)
    }
}

impl Body for Timestamp {
    const TYPE: &'static str = "timestamp";
    fn check(&self) -> Result<KeyRing, String> {
        if self.meta.len() != 1 || !self.meta.contains_key("snapshot.json") {
            return Err("it does not name snapshot.json alone".to_owned());
        }
        check_meta(&self.meta)
    }
}

impl Body for Snapshot {
    const TYPE: &'static str = "snapshot";
    fn check(&self) -> Result<KeyRing, String> {
        check_meta(&self.meta)
    }
}

impl Body for Targets {
    const TYPE: &'static str = "targets";
    fn check(&self) -> Result<KeyRing, String> {
        self.targets.iter().try_for_each(|(path, target)| check_hashes(path, &target.hashes))?;
        let Some(delegations) = &self.delegations else { return Ok(KeyRing::default()) };
        let mut names = BTreeSet::new();
        for role in &delegations.roles {
            let name = role.name.as_str();
            if name.is_empty()
                || name.len() > MAX_ROLE_NAME
                || !matches!(Role::named(name), Role::Delegated(_))
            {
                return Err(format!("{name:.80?} cannot be the name of a delegated role"));
            }
            if !names.insert(name) {
                return Err(format!("it delegates to {name} twice"));
            }
            if role.paths.is_some() == role.path_hash_prefixes.is_some() {
                return Err(format!("the delegation to {name} has not one of paths and path_hash_prefixes"));
            }
            check_role_keys(name, &role.keys)?;
        }
        KeyRing::read(&delegations.keys)
    }
}
