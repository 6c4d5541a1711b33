//! `/etc/cairn/image.json`: what an image was built to trust and whom it calls.
//!
//! Beside it lie `/etc/cairn/ca.pin` (SHA-256 of the controller CA's SubjectPublicKeyInfo, 64 hexadecimal digits and
//! a newline) and `/etc/cairn/root.json` (the TUF root of the release repository).

use serde::{Deserialize, Serialize};

use crate::limits;

/// The settings of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSettings {
    /// The format: 1.
    pub version: u32,
    /// The image's version; systemd-boot and the agent order UKIs by it.
    pub image_version: String,
    /// When the image was built, seconds since 1970: the floor below which no clock is believed.
    pub build_time: u64,
    /// Base URLs of the controller, `https://host:port`, tried in order; a seed's come first.
    pub controllers: Vec<String>,
    /// The SPIFFE trust domain.
    pub trust_domain: String,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] limits::TooLong),
    /// Not the JSON it should be.
    #[error("image.json cannot be read: {0}; build the image again with cairn-image")]
    Malformed(#[from] serde_json::Error),
    /// A format this program does not know.
    #[error("image.json has version {0}, this agent reads version 1; use the agent that came with the image")]
    Version(u32),
}

/// Reads `image.json`.
///
/// # Errors
/// [`SettingsError`].
pub fn parse(bytes: &[u8]) -> Result<ImageSettings, SettingsError> {
    limits::check("image.json", bytes, limits::SETTINGS_BYTES)?;
    let settings: ImageSettings = serde_json::from_slice(bytes)?;
    if settings.version != 1 { Err(SettingsError::Version(settings.version)) } else { Ok(settings) }
}
