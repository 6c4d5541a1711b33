//! What a bundle consists of: `manifest.json`, a TUF target named `<kind>/<name>/<bundle_version>/manifest.json`.
//!
//! Strict: an unknown key is an error, every name and number has a limit, and what cannot be meant is refused here, so
//! that whoever holds a [`Manifest`] need not ask again.

mod check;
pub mod v1;

pub use v1::{
    Component, ComponentKind, IndexRef, Kind, Layer, Manifest, Persist, StacksOn, Uki, VerityParams,
};

/// The most bytes of a manifest that are read: 256 components with long lists.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Over the limit.
    #[error("the manifest has {0} bytes, more than the {MAX_MANIFEST_BYTES} allowed: it was not read")]
    TooLong(u64),
    /// Not JSON, or not of the shape.
    #[error("the manifest cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A format this program does not know.
    #[error("the manifest has version {0}, this program reads version 1: update it first")]
    Version(u64),
    /// A value that cannot be meant.
    #[error("the manifest is wrong: {field} {problem}")]
    Value {
        /// Which, as a path of keys.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads a manifest of any version known.
///
/// # Errors
/// [`ManifestError`].
pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u64,
    }
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLong(bytes.len() as u64));
    }
    match serde_json::from_slice::<Version>(bytes)?.version {
        1 => v1::parse(bytes),
        other => Err(ManifestError::Version(other)),
    }
}

/// Fuzz entry: what is read is written and read again the same.
pub fn fuzz(data: &[u8]) {
    if let Ok(manifest) = parse(data) {
        assert!(parse(&manifest.to_bytes()).is_ok_and(|again| again == manifest));
    }
}
