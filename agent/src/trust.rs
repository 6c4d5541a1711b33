//! What the image trusts: `/etc/cairn/{image.json,ca.pin,root.json}`.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_protocol::ids::{BadDigest, Sha256Digest};
use cairn_protocol::settings::{self, ImageSettings, SettingsError};

/// The most bytes of a TUF root that are read; H1's client has its own, smaller limit.
const ROOT_BYTES: u64 = 512 << 10;

/// The trust of an image.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Whom it calls, and how old it is.
    pub settings: ImageSettings,
    /// SHA-256 of the controller CA's public key.
    pub pin: Sha256Digest,
    /// The TUF root's bytes; empty where the image has none yet.
    pub root: Vec<u8>,
}

/// Why the trust could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file is missing or cannot be read.
    #[error("{} cannot be read: {source}; build the image with a trust directory (cairnctl trust export)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// image.json.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// ca.pin.
    #[error("ca.pin: {0}")]
    Pin(#[from] BadDigest),
}

/// Reads the trust in `dir`.
///
/// # Errors
/// [`TrustError`].
pub fn read(dir: &Path) -> Result<Trust, TrustError> {
    let read = |name: &str, limit: u64| {
        let path = dir.join(name);
        let bytes = fs::metadata(&path).and_then(|data| {
            if data.len() > limit {
                return Err(std::io::Error::other(format!("it is longer than {limit} bytes")));
            }
            fs::read(&path)
        });
        bytes.map_err(|source| TrustError::Read { path, source })
    };
    let settings = settings::parse(&read("image.json", cairn_protocol::limits::SETTINGS_BYTES as u64)?)?;
    let pin = String::from_utf8_lossy(&read("ca.pin", 128)?).trim().parse()?;
    let root = read("root.json", ROOT_BYTES).unwrap_or_default();
    Ok(Trust { settings, pin, root })
}
