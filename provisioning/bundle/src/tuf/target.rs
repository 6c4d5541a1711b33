//! A target: where it is, and whether bytes are it.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256, Sha512};

use super::error::{Mismatch, TufError};
use super::metadata::{Role, TargetFile};
use super::quote;

/// A target that trusted metadata lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetInfo {
    /// Its path.
    pub path: String,
    /// What is said of it.
    pub file: TargetFile,
    /// Who says it.
    pub role: Role,
    /// In which version.
    pub role_version: u64,
    /// Its path below the repository's targets, with its digest where the repository has it so: the file's name.
    pub place: String,
    /// The same, percent-encoded: the end of a URL.
    pub request: String,
}

impl TargetInfo {
    pub(super) fn new(path: &str, file: &TargetFile, role: &Role, version: u64, consistent: bool) -> Self {
        let hash = ["sha256", "sha512"].iter().find_map(|algorithm| file.hashes.get(*algorithm));
        let prefix = hash.filter(|_| consistent).map(|hash| format!("{hash}.")).unwrap_or_default();
        let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
        let slash = if dir.is_empty() { "" } else { "/" };
        let place = format!("{dir}{slash}{prefix}{name}");
        let request = place.split('/').map(quote).collect::<Vec<_>>().join("/");
        let (path, file, role) = (path.to_owned(), file.clone(), role.clone());
        Self { path, file, role, role_version: version, place, request }
    }

    /// Checks the target's bytes.
    ///
    /// # Errors
    /// [`TufError::Target`].
    pub fn verify(&self, bytes: &[u8]) -> Result<(), TufError> {
        let target = |mismatch| TufError::Target { path: self.path.clone(), mismatch };
        if bytes.len() as u64 != self.file.length {
            let (expected, found) = (self.file.length, bytes.len() as u64);
            return Err(target(Mismatch::Length { expected, found }));
        }
        verify_hashes(&self.file.hashes, bytes).map_err(target)
    }
}

/// Every digest of an algorithm that we know must be that of `bytes`, and one must be known.
pub(super) fn verify_hashes(hashes: &BTreeMap<String, String>, bytes: &[u8]) -> Result<(), Mismatch> {
    let mut known = false;
    for (algorithm, expected) in hashes {
        let found = match algorithm.as_str() {
            "sha256" => hex::encode(Sha256::digest(bytes)),
            "sha512" => hex::encode(Sha512::digest(bytes)),
            _ => continue,
        };
        known = true;
        if !found.eq_ignore_ascii_case(expected) {
            let expected = expected.chars().take(128).collect();
            return Err(Mismatch::Hash { algorithm: algorithm.clone(), expected, found });
        }
    }
    if known { Ok(()) } else { Err(Mismatch::NoKnownHash) }
}
