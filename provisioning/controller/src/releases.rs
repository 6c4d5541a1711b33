//! The published releases: which manifests the visible release metadata names.

use std::collections::BTreeMap;
use std::path::Path;

use cairn_protocol::ids::Sha256Digest;

/// A TUF target as the metadata names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// SHA-256 of the target.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub length: u64,
}

/// The targets of the visible release metadata.
#[derive(Debug, Clone, Default)]
pub struct Releases {
    targets: BTreeMap<String, Release>,
}

impl Releases {
    /// The release at the target path `target`.
    pub fn find(&self, target: &str) -> Option<Release> {
        self.targets.get(target).copied()
    }

    /// How many targets there are.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Reads the metadata folder of a repository; no `timestamp.json` means nothing is published.
    ///
    /// # Errors
    /// What could not be read.
    pub fn load(metadata: &Path) -> Result<Self, String> {
        if !metadata.join("timestamp.json").exists() {
            return Ok(Self::default());
        }
        let read = |name: &str| -> Result<serde_json::Value, String> {
            let path = metadata.join(name);
            let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
        };
        let version = |meta: &serde_json::Value, file: &str| meta["signed"]["meta"][file]["version"].as_u64();
        let timestamp = read("timestamp.json")?;
        let number = version(&timestamp, "snapshot.json").ok_or("timestamp.json names no snapshot")?;
        let snapshot = read(&format!("{number}.snapshot.json"))?;
        let mut targets = BTreeMap::new();
        let files = snapshot["signed"]["meta"].as_object().ok_or("the snapshot names no metadata")?;
        for (file, meta) in files {
            let number = meta["version"].as_u64().ok_or("the snapshot names a file without a version")?;
            let role = read(&format!("{number}.{file}"))?;
            for (path, target) in role["signed"]["targets"].as_object().into_iter().flatten() {
                let sha256 = target["hashes"]["sha256"].as_str().and_then(|text| text.parse().ok());
                if let (Some(sha256), Some(length)) = (sha256, target["length"].as_u64()) {
                    targets.insert(path.clone(), Release { sha256, length });
                }
            }
        }
        Ok(Self { targets })
    }
}
