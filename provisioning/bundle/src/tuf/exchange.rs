//! What the client asks for and is answered, and its limits.

use super::error::TufError;
use super::metadata::{Role, TargetInfo};

/// How much is read and followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a root. Default 256 KiB: five keys take 2.
    pub root: u64,
    /// Bytes of a timestamp. Default 16 KiB.
    pub timestamp: u64,
    /// Bytes of a snapshot whose timestamp states no length. Default 1 MiB.
    pub snapshot: u64,
    /// Bytes of a targets file whose snapshot states no length. Default 1 MiB: 4,000 targets.
    pub targets: u64,
    /// New roots in one update. Default 1024.
    pub root_rotations: u32,
    /// Roles asked for one target. Default 32.
    pub delegations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root: 256 << 10,
            timestamp: 16 << 10,
            snapshot: 1 << 20,
            targets: 1 << 20,
            root_rotations: 1024,
            delegations: 32,
        }
    }
}

/// A metadata file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its path below the repository's metadata, percent-encoded.
    pub path: String,
    /// The most bytes to read; one more is enough to know that it is too long.
    pub max_length: u64,
    /// Whose it is.
    pub role: Role,
    /// Its version, where it is known.
    pub version: Option<u64>,
}

/// What became of a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The file.
    Bytes(&'a [u8]),
    /// The repository says that it has no such file.
    NotFound,
    /// It is longer than `max_length`.
    TooLong,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch this and feed it.
    Need(Request),
    /// The top-level roles are up to date.
    Refreshed,
    /// The target that was looked for.
    Found(TargetInfo),
}

/// Why [`Updater::run`] failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E> {
    /// What was fetched was refused, or cannot be kept.
    #[error(transparent)]
    Tuf(#[from] TufError),
    /// It could not be fetched; the update may be begun again.
    #[error("cannot fetch: {0}")]
    Fetch(E),
}
