//! `generation.json`: one complete, bootable assignment, as it lies on STATE.
//!
//! The file holds the signed assignment itself; beside it lie the TUF metadata and the manifests that authorised it, so
//! that it can be checked again at every boot with no network. Verity root hashes come from those alone.

use serde::{Deserialize, Serialize};

use crate::ids::Sha256Digest;
use crate::limits;
use crate::signed::{ControllerKeys, Envelope};

/// A generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The format: 1.
    pub version: u32,
    /// [`id_of`] its assignment.
    pub id: String,
    /// The controller's keys, followed back to the pin at every boot.
    pub keys: ControllerKeys,
    /// The signed assignment.
    pub assignment: Envelope,
    /// When it was installed, seconds since 1970.
    pub installed: u64,
    /// Target paths of its manifests, each kept as `manifests/<sha256>.json`.
    pub manifests: Vec<String>,
}

/// The id of the generation that an assignment makes: the first 16 hexadecimal digits of its payload's SHA-256.
pub fn id_of(assignment: &Envelope) -> String {
    let mut id = Sha256Digest::of(assignment.payload.as_bytes()).to_string();
    id.truncate(16);
    id
}

/// Where a generation is in its life: `status.json` beside it, written anew at each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationStatus {
    /// The phase.
    pub phase: Phase,
    /// Boots left before the node gives up on it; counted down by the agent before it hands over.
    pub tries_left: u8,
    /// Why it failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A generation's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Written whole, not booted yet.
    Staged,
    /// Booted, health checks not passed yet.
    Trying,
    /// Health checks passed.
    Committed,
    /// Gave up on it.
    Failed,
}

/// How often a new generation is booted before the node returns to the last good one. Default 2, as the boot loader's
/// own counter: one try may be lost to a power cut, two in a row are no accident.
pub const DEFAULT_TRIES: u8 = 2;

/// Why a generation file was refused.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] limits::TooLong),
    /// Not the JSON it should be.
    #[error("generation.json cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A format this program does not know.
    #[error("generation.json has version {0}, this agent reads version 1")]
    Version(u32),
    /// The id is not that of the assignment.
    #[error(
        "generation.json says it is {said}, its assignment makes it {computed}: the file was damaged or changed"
    )]
    Id {
        /// What the file says.
        said: String,
        /// What its assignment makes it.
        computed: String,
    },
}

/// Reads `generation.json`; signatures are the caller's to check.
///
/// # Errors
/// [`GenerationError`].
pub fn parse(bytes: &[u8]) -> Result<Generation, GenerationError> {
    limits::check("generation.json", bytes, limits::GENERATION_BYTES)?;
    let generation: Generation = serde_json::from_slice(bytes)?;
    if generation.version != 1 {
        return Err(GenerationError::Version(generation.version));
    }
    let computed = id_of(&generation.assignment);
    if generation.id != computed {
        return Err(GenerationError::Id { said: generation.id, computed });
    }
    Ok(generation)
}
