//! Who holds what, how long it lives, what is missing, what went wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::durable::FileError;
use crate::manifest::Kind;
use crate::tuf::error::TufError;
use crate::tuf::keys::{KeyId, PublicKey};
use crate::tuf::metadata::Role;
use crate::tuf::signing::KeyError;

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
    /// A file of it is missing, or is not what it should be.
    #[error("{path}: {why}; the repository is damaged, restore the file from a copy of it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
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

impl RepositoryError {
    /// The file at `path` cannot be used.
    pub(super) fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.to_string() }
    }
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
