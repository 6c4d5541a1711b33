//! The release: what the TUF repository says about the assigned bundles, and whether it agrees with the assignment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_bundle::manifest::{self, Manifest, ManifestError};
use cairn_bundle::tuf::{Answer, Date, DirStore, Limits, MetadataStore, Step, TargetInfo, TufError, Updater};
use cairn_protocol::api;
use cairn_protocol::assignment::AssignedBundle;
use cairn_protocol::ids::Sha256Digest;

use crate::uplink::{Uplink, UplinkError};

/// The most bytes of a manifest that are read; cairn-bundle has its own limit.
pub const MANIFEST_BYTES: u64 = 1 << 20;

/// A bundle that release metadata and assignment agree on.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// As assigned.
    pub assigned: AssignedBundle,
    /// The manifest's bytes, kept with the generation.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
}

/// The bundles of an assignment.
#[derive(Debug, Clone)]
pub struct Release {
    /// The etag of the assignment that they are of.
    pub etag: String,
    /// The bundles.
    pub bundles: Vec<Bundle>,
    /// The directory with the metadata that authorises them.
    pub tuf: PathBuf,
}

/// Why a release was refused, or could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The line.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// Metadata.
    #[error(transparent)]
    Tuf(#[from] TufError),
    /// A manifest.
    #[error("{target}: {source}")]
    Manifest {
        /// Its target path.
        target: String,
        /// Why.
        source: ManifestError,
    },
    /// Release metadata and assignment name different bytes.
    #[error("{target}: the assignment says sha256 {assigned}, the release says {released}")]
    Disagrees {
        /// The target path.
        target: String,
        /// As assigned.
        assigned: String,
        /// As released.
        released: String,
    },
    /// The manifest is of another bundle than its path says.
    #[error("{target}: the manifest calls itself {found}")]
    Misplaced {
        /// The target path.
        target: String,
        /// As the manifest says.
        found: String,
    },
    /// The controller has no file that its metadata names.
    #[error("the controller does not have {0}; publish it again: cairnctl publish")]
    Absent(String),
    /// The image has no TUF root.
    #[error("the image has no root.json, so no release can be believed; build it with a trust directory")]
    NoRoot,
    /// The metadata cannot be kept.
    #[error(transparent)]
    File(#[from] cairn_bundle::durable::FileError),
}

impl ReleaseError {
    /// The stable word, where this is a refusal.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Uplink(error) => error.code(),
            Self::Tuf(error) => error.is_refusal().then(|| error.code()),
            Self::Manifest { .. } | Self::Misplaced { .. } => Some("manifest-corrupt"),
            Self::Disagrees { .. } => Some("release-disagrees"),
            Self::Absent(_) | Self::NoRoot | Self::File(_) => None,
        }
    }
}

/// Brings the metadata in `store` up to date and fetches the assigned manifests. What authorises them is copied to
/// `export`.
///
/// # Errors
/// [`ReleaseError`].
pub async fn fetch(
    uplink: &Arc<Uplink>,
    root: &[u8],
    now: u64,
    store: &Path,
    export: &Path,
    etag: &str,
    assigned: &[AssignedBundle],
) -> Result<Release, ReleaseError> {
    if root.is_empty() {
        return Err(ReleaseError::NoRoot);
    }
    let mut updater = Updater::open(DirStore::open(store)?, Some(root), Date(now), Limits::default())?;
    let first = updater.refresh();
    drive(uplink, &mut updater, first).await?;
    let mut bundles = Vec::new();
    for wanted in assigned {
        let first = updater.lookup(&wanted.target);
        let Step::Found(info) = drive(uplink, &mut updater, first).await? else {
            return Err(TufError::OutOfOrder.into());
        };
        agrees(wanted, &info)?;
        let path = format!("{}/{}", api::TARGETS, info.request);
        let limit = usize::try_from(wanted.length.min(MANIFEST_BYTES)).unwrap_or(usize::MAX);
        let bytes = uplink.file(&path, "the manifest", limit).await?;
        let bytes = bytes.ok_or_else(|| ReleaseError::Absent(wanted.target.clone()))?;
        info.verify(&bytes)?;
        bundles.push(read(wanted, bytes)?);
    }
    let _ = std::fs::remove_dir_all(export);
    updater.export(&mut DirStore::open(export)?)?;
    Ok(Release { etag: etag.to_owned(), bundles, tuf: export.to_owned() })
}

/// Whether the release names the bytes that were assigned.
///
/// # Errors
/// [`ReleaseError::Disagrees`].
pub fn agrees(wanted: &AssignedBundle, info: &TargetInfo) -> Result<(), ReleaseError> {
    let released = info.file.hashes.get("sha256").map_or("", String::as_str);
    if released == wanted.sha256.to_string() && info.file.length == wanted.length {
        return Ok(());
    }
    Err(ReleaseError::Disagrees {
        target: wanted.target.clone(),
        assigned: format!("{} and {} bytes", wanted.sha256, wanted.length),
        released: format!("{released} and {} bytes", info.file.length),
    })
}

/// Reads a manifest whose bytes were checked.
///
/// # Errors
/// [`ReleaseError::Manifest`], [`ReleaseError::Misplaced`].
pub fn read(wanted: &AssignedBundle, bytes: Vec<u8>) -> Result<Bundle, ReleaseError> {
    let target = || wanted.target.clone();
    let manifest =
        manifest::parse(&bytes).map_err(|source| ReleaseError::Manifest { target: target(), source })?;
    if manifest.target_path() != wanted.target {
        return Err(ReleaseError::Misplaced { target: target(), found: manifest.target_path() });
    }
    Ok(Bundle { assigned: wanted.clone(), bytes, manifest })
}

async fn drive<S: MetadataStore>(
    uplink: &Arc<Uplink>,
    updater: &mut Updater<S>,
    first: Result<Step, TufError>,
) -> Result<Step, ReleaseError> {
    let mut step = first;
    loop {
        let request = match step? {
            Step::Need(request) => request,
            done => return Ok(done),
        };
        let path = format!("{}/{}", api::METADATA, request.path);
        let limit = usize::try_from(request.max_length).unwrap_or(usize::MAX);
        step = match uplink.file(&path, "release metadata", limit).await {
            Ok(Some(bytes)) => updater.feed(Answer::Bytes(&bytes)),
            Ok(None) => updater.feed(Answer::NotFound),
            Err(UplinkError::TooLong(_)) => updater.feed(Answer::TooLong),
            Err(error) => return Err(error.into()),
        };
    }
}

/// Checks installed content again, offline: the metadata kept with a generation, and its manifests.
///
/// # Errors
/// [`ReleaseError`], never for expiry.
pub fn verify_installed(
    root: &[u8],
    tuf: &Path,
    etag: &str,
    assigned: &[AssignedBundle],
    manifest: impl Fn(&Sha256Digest) -> Option<Vec<u8>>,
) -> Result<Release, ReleaseError> {
    let mut installed =
        cairn_bundle::tuf::offline::Installed::open(DirStore::open(tuf)?, root, Limits::default())?;
    let mut bundles = Vec::new();
    for wanted in assigned {
        let bytes = manifest(&wanted.sha256).ok_or_else(|| ReleaseError::Absent(wanted.target.clone()))?;
        let info = installed.verify(&wanted.target, &bytes)?;
        agrees(wanted, &info)?;
        bundles.push(read(wanted, bytes)?);
    }
    Ok(Release { etag: etag.to_owned(), bundles, tuf: tuf.to_owned() })
}
