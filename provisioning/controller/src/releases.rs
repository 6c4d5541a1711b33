//! The published releases: what the visible release metadata names, and whether an upload may become visible.
//!
//! The controller reads metadata as a node does, through the same TUF client: delegations, thresholds and versions count
//! here too. It holds no release key, so all it can do with a bad upload is refuse it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cairn_bundle::durable::FileError;
use cairn_bundle::manifest::{self, Kind};
use cairn_bundle::tuf::{Date, Limits, MemoryStore, Request, Role, RunError, Step, TufError, Updater};
use cairn_bundle::{caibx, chunk, durable};
use cairn_protocol::ids::Sha256Digest;

use crate::chunks::Chunks;

/// The most bytes of a metadata file, as in cairn-bundle.
pub const METADATA_BYTES: usize = 1 << 20;

/// Why published or uploaded release metadata was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// As a node would refuse it.
    #[error(transparent)]
    Refused(#[from] TufError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// No root to begin with.
    #[error("there is no 1.root.json: upload it first")]
    NoRoot,
    /// The timestamp is not newer than the visible one.
    #[error(
        "the repository here has timestamp {visible} already, another one than the uploaded {offered}; \
         fetch the repository's metadata, sign a newer timestamp and publish again"
    )]
    NotNewer {
        /// The visible version.
        visible: u64,
        /// The uploaded version.
        offered: u64,
    },
    /// What the metadata names is not all there.
    #[error("{what} of {target} is missing or damaged here; upload it before timestamp.json")]
    Incomplete {
        /// The target that needs it.
        target: String,
        /// What is missing.
        what: String,
    },
}

impl ReleaseError {
    /// A stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(error) => error.code(),
            Self::File(_) => "controller-failed",
            Self::NoRoot => "metadata-missing",
            Self::NotNewer { .. } => "metadata-rollback",
            Self::Incomplete { .. } => "incomplete",
        }
    }
}

type Result<T> = std::result::Result<T, ReleaseError>;

/// A TUF target as the metadata names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// SHA-256 of the target.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub length: u64,
}

/// The targets of release metadata.
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

    /// Reads the visible metadata of the repository in `repo`; without a `timestamp.json` nothing is published.
    /// Expiry is the nodes' to judge: an old release may still be assigned.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn load(repo: &Path) -> Result<Self> {
        let visible = Folders(vec![repo.join("metadata")]);
        if visible.read("timestamp.json")?.is_none() {
            return Ok(Self::default());
        }
        Self::read(&visible)
    }

    fn read(folders: &Folders) -> Result<Self> {
        let mut paths = Vec::new();
        let mut updater = folders.client(MemoryStore::default(), Date(0))?;
        walk(&mut updater, &mut |request: &Request| {
            let bytes = folders.read(&request.path)?;
            if matches!(request.role, Role::Targets | Role::Delegated(_)) {
                paths.extend(bytes.iter().flat_map(|bytes| target_paths(bytes)));
            }
            Ok(bytes)
        })?;
        let mut targets = BTreeMap::new();
        for path in paths {
            // A role may list what it was not given; a node would not find it there, nor does this.
            let Step::Found(info) = (match updater.lookup(&path) {
                Err(TufError::UnknownTarget { .. }) => continue,
                step => step?,
            }) else {
                continue;
            };
            let sha256 = info.file.hashes.get("sha256").and_then(|text| text.parse().ok());
            if let Some(sha256) = sha256 {
                targets.insert(path, Release { sha256, length: info.file.length });
            }
        }
        Ok(Self { targets })
    }
}

fn target_paths(bytes: &[u8]) -> Vec<String> {
    let parsed: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    parsed["signed"]["targets"].as_object().into_iter().flat_map(|all| all.keys().cloned()).collect()
}

/// Folders of metadata, the first that has a file counts.
struct Folders(Vec<PathBuf>);

impl Folders {
    fn read(&self, name: &str) -> std::result::Result<Option<Vec<u8>>, FileError> {
        for dir in &self.0 {
            if let Some(bytes) = durable::read(&dir.join(name), METADATA_BYTES as u64)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn client(&self, store: MemoryStore, now: Date) -> Result<Updater<MemoryStore>> {
        let anchor = self.read("1.root.json")?.ok_or(ReleaseError::NoRoot)?;
        Ok(Updater::open(store, Some(&anchor), now, Limits::default())?)
    }
}

/// Answers what a client asks for.
type Fetch<'a> = dyn FnMut(&Request) -> std::result::Result<Option<Vec<u8>>, FileError> + 'a;

/// Brings the client up to date and makes it read every role that our repositories delegate to.
fn walk(updater: &mut Updater<MemoryStore>, fetch: &mut Fetch<'_>) -> Result<()> {
    let done = |result: std::result::Result<Step, RunError<FileError>>| match result {
        Ok(_) | Err(RunError::Tuf(TufError::UnknownTarget { .. })) => Ok(()),
        Err(RunError::Tuf(error)) => Err(ReleaseError::from(error)),
        Err(RunError::Fetch(error)) => Err(error.into()),
    };
    let step = updater.refresh();
    done(updater.run(step, &mut *fetch))?;
    for kind in Kind::ALL {
        let step = updater.lookup(&format!("{kind}/-/-/manifest.json"));
        done(updater.run(step, &mut *fetch))?;
    }
    Ok(())
}

/// An upload that may become visible.
#[derive(Debug)]
pub struct Next {
    /// Staged files that belong to it, in the order in which they are to be moved; `timestamp.json` is last.
    pub files: Vec<String>,
    /// The releases then.
    pub releases: Releases,
}

/// Judges the metadata in `repo/staging` as the next state of the repository: as a node that knows the visible state
/// would, and that everything newly named is there to be fetched.
///
/// # Errors
/// [`ReleaseError`].
pub fn judge(repo: &Path, held: &Chunks, now: Date) -> Result<Next> {
    let (metadata, staging) = (repo.join("metadata"), repo.join("staging"));
    let visible = Folders(vec![metadata.clone()]);
    let both = Folders(vec![staging.clone(), metadata]);
    let before = Releases::load(repo)?;
    let old_timestamp = visible.read("timestamp.json")?;
    let (known, old_version) = if old_timestamp.is_some() {
        let mut updater = visible.client(MemoryStore::default(), Date(0))?;
        walk(&mut updater, &mut |request| visible.read(&request.path))?;
        let version = updater.version(&Role::Timestamp);
        (updater.into_store(), version)
    } else {
        (MemoryStore::default(), None)
    };
    let mut updater = both.client(known, now)?;
    let mut files = Vec::new();
    if staging.join("1.root.json").exists() {
        files.push("1.root.json".to_owned());
    }
    walk(&mut updater, &mut |request| {
        let bytes = both.read(&request.path)?;
        if staging.join(&request.path).exists() {
            files.push(request.path.clone());
        }
        Ok(bytes)
    })?;
    let offered = updater.version(&Role::Timestamp).unwrap_or(0);
    if let Some(visible) = old_version
        && visible == offered
        && old_timestamp != Folders(vec![staging]).read("timestamp.json")?
    {
        return Err(ReleaseError::NotNewer { visible, offered });
    }
    files.retain(|name| name != "timestamp.json");
    files.push("timestamp.json".to_owned());
    let releases = Releases::read(&both)?;
    for (target, release) in &releases.targets {
        if before.find(target) != Some(*release) {
            complete(repo, held, target, *release)?;
        }
    }
    Ok(Next { files, releases })
}

/// Whether the manifest at `target`, its indexes and all their chunks are there and whole.
fn complete(repo: &Path, held: &Chunks, target: &str, release: Release) -> Result<()> {
    let lacks = |what: String| ReleaseError::Incomplete { target: target.to_owned(), what };
    let (dir, name) = target.rsplit_once('/').unwrap_or(("", target));
    let path = repo.join("targets").join(dir).join(format!("{}.{name}", release.sha256));
    let bytes = durable::read(&path, manifest::MAX_MANIFEST_BYTES)?;
    let bytes = bytes.filter(|bytes| Sha256Digest::of(bytes) == release.sha256);
    let bytes = bytes.filter(|bytes| bytes.len() as u64 == release.length);
    let bytes = bytes.ok_or_else(|| lacks("the manifest".to_owned()))?;
    let manifest =
        manifest::parse(&bytes).map_err(|e| lacks(format!("a manifest that can be read ({e})")))?;
    for component in &manifest.components {
        let digest = component.index.sha256;
        let path = repo.join("indexes").join(format!("{digest}.caibx"));
        let index = durable::read(&path, caibx::MAX_INDEX_BYTES)?
            .filter(|bytes| Sha256Digest::of(bytes) == digest)
            .and_then(|bytes| caibx::Index::parse(bytes).ok())
            .ok_or_else(|| lacks(format!("index {digest}")))?;
        let mut missing = index.entries().filter(|entry| !held.holds(&entry.id));
        if let Some(first) = missing.next() {
            let more = missing.count();
            return Err(lacks(format!(
                "chunk {} (and {more} more) of component {}",
                first.id, component.name
            )));
        }
    }
    Ok(())
}

/// Why a file was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unacceptable(pub String);

/// Checks an uploaded chunk: one frame that unpacks to at most [`chunk::HARD_MAX_BYTES`] bytes with the digest `id`.
///
/// # Errors
/// [`Unacceptable`].
pub fn check_chunk(id: Sha256Digest, frame: &[u8]) -> std::result::Result<(), Unacceptable> {
    let plain = zstd::bulk::decompress(frame, chunk::HARD_MAX_BYTES as usize)
        .map_err(|e| Unacceptable(format!("chunk {id} does not unpack: {e}")))?;
    let found = Sha256Digest::of(&plain);
    if found == id { Ok(()) } else { Err(Unacceptable(format!("chunk {id} has the digest {found}"))) }
}

/// Checks an uploaded index: its digest, and that it can be read.
///
/// # Errors
/// [`Unacceptable`].
pub fn check_index(digest: Sha256Digest, bytes: &[u8]) -> std::result::Result<(), Unacceptable> {
    let found = Sha256Digest::of(bytes);
    if found != digest {
        return Err(Unacceptable(format!("index {digest} has the digest {found}")));
    }
    caibx::Index::parse(bytes.to_vec())
        .map(drop)
        .map_err(|e| Unacceptable(format!("index {digest} cannot be read: {e}")))
}

/// Checks an uploaded target, a manifest: its digest, that it can be read, and that it belongs at `path`.
///
/// # Errors
/// [`Unacceptable`].
pub fn check_target(path: &str, digest: Sha256Digest, bytes: &[u8]) -> std::result::Result<(), Unacceptable> {
    let found = Sha256Digest::of(bytes);
    if found != digest {
        return Err(Unacceptable(format!("target {path} has the digest {found}, its name says {digest}")));
    }
    let manifest = manifest::parse(bytes).map_err(|e| Unacceptable(format!("target {path}: {e}")))?;
    let own = manifest.target_path();
    if own == path { Ok(()) } else { Err(Unacceptable(format!("the manifest of {own} was put at {path}"))) }
}
