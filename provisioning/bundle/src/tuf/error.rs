//! What can be wrong, each with what an operator needs: the role, versions, dates.

use super::metadata::Role;
use super::time::Date;
use crate::durable::FileError;

/// Two statements that do not agree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Of a version.
    #[error("it has version {found}, {expected} is expected")]
    Version {
        /// As stated.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// Of a digest.
    #[error("its {algorithm} is {found}, {expected} is expected")]
    Hash {
        /// Which.
        algorithm: String,
        /// As stated.
        expected: String,
        /// As found.
        found: String,
    },
    /// Of a length.
    #[error("it has {found} bytes, {expected} are expected")]
    Length {
        /// As stated.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// No digest of an algorithm we know.
    #[error("it comes with no digest that this program knows")]
    NoKnownHash,
    /// The snapshot does not list it.
    #[error("the snapshot does not list it")]
    NotListed,
}

/// Why metadata or a target was refused.
#[derive(Debug, thiserror::Error)]
pub enum TufError {
    /// Too few of the role's keys signed.
    #[error(
        "forged: {role} {version} is signed by {valid} of the {threshold} keys that {authority} asks for; \
         what was trusted before stays"
    )]
    Forged {
        /// Whose.
        role: Role,
        /// Its version, as it says.
        version: u64,
        /// Keys whose signature is right.
        valid: u32,
        /// Keys needed.
        threshold: u32,
        /// Who says so: `root 3`.
        authority: String,
    },
    /// New metadata has expired already.
    /// The time of the try is not in the line: who tries again says the same, once.
    #[error("expired: {role} {version} ended at {expires}; the repository must sign a newer one")]
    Expired {
        /// Whose.
        role: Role,
        /// Its version.
        version: u64,
        /// Its end.
        expires: Date,
        /// The fixed start of the update.
        now: Date,
    },
    /// The repository still serves what is known, and that has expired.
    #[error(
        "frozen: {role} {version} ended at {expires} and the repository has no newer one; \
         somebody holds updates back, or it is no longer refreshed"
    )]
    Frozen {
        /// Whose.
        role: Role,
        /// Its version.
        version: u64,
        /// Its end.
        expires: Date,
        /// The fixed start of the update.
        now: Date,
    },
    /// Older than what is trusted.
    #[error(
        "rolled back: {role} {offered} was offered, {trusted} is trusted already; an old repository is replayed"
    )]
    RolledBack {
        /// Whose.
        role: Role,
        /// The trusted version.
        trusted: u64,
        /// The offered one.
        offered: u64,
    },
    /// The new snapshot does not list a role that the trusted one does.
    #[error("rolled back: snapshot {snapshot} no longer lists {role}, which is trusted already")]
    Vanished {
        /// Whose.
        role: Role,
        /// The new snapshot's version.
        snapshot: u64,
    },
    /// Two files of different states of the repository.
    #[error("mix-and-match: {role} is not the one that {authority} names: {mismatch}")]
    MixAndMatch {
        /// Whose.
        role: Role,
        /// Who names it: `timestamp 7`.
        authority: String,
        /// How it differs.
        mismatch: Mismatch,
    },
    /// Longer than it may be.
    #[error("too long: {role} has more than the {limit} bytes allowed: it was not read")]
    TooLong {
        /// Whose.
        role: Role,
        /// The limit.
        limit: u64,
    },
    /// Not metadata.
    #[error("malformed: {role} cannot be read: {problem}")]
    Malformed {
        /// Whose.
        role: Role,
        /// What is wrong.
        problem: String,
    },
    /// The repository has it not.
    #[error("missing: the repository has no {role} {}", version.map_or(String::new(), |v| v.to_string()))]
    Missing {
        /// Whose.
        role: Role,
        /// Which version, where one was asked for.
        version: Option<u64>,
    },
    /// Trusted metadata does not list the target.
    #[error("unknown: no trusted role lists the target {path:?}")]
    UnknownTarget {
        /// Its path.
        path: String,
    },
    /// The target is not what its metadata says.
    #[error("wrong target: {path:?} is not what its metadata says: {mismatch}")]
    Target {
        /// Its path.
        path: String,
        /// How it differs.
        mismatch: Mismatch,
    },
    /// Asked for something out of order: a mistake in the program.
    #[error("the update is not at that step")]
    OutOfOrder,
    /// A file of the trusted metadata.
    #[error(transparent)]
    File(#[from] FileError),
}

impl TufError {
    /// A word for consoles and counters that does not change.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forged { .. } => "metadata-forged",
            Self::Expired { .. } => "metadata-expired",
            Self::Frozen { .. } => "metadata-frozen",
            Self::RolledBack { .. } | Self::Vanished { .. } => "metadata-rollback",
            Self::MixAndMatch { .. } => "metadata-mix",
            Self::TooLong { .. } => "answer-too-long",
            Self::Malformed { .. } => "metadata-malformed",
            Self::Missing { .. } => "metadata-missing",
            Self::UnknownTarget { .. } => "release-disagrees",
            Self::Target { .. } => "manifest-corrupt",
            Self::OutOfOrder => "internal",
            Self::File(_) => "storage",
        }
    }

    /// Whether the repository is accused, rather than this machine.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::OutOfOrder | Self::File(_) | Self::Missing { .. })
    }
}
