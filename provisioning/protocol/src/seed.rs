//! The signed seed: what a node may be told about its site before it can reach the controller.
//!
//! File `cairn-seed.json` in the root of a vfat file system (a stick, or the ESP), or an HTTP URL on the kernel command
//! line (`cairn.seed=`). It is an [`Envelope`] together with the keys that verify it, so that it can be checked against
//! the image's pin with no network and no clock.

use serde::{Deserialize, Serialize};

use crate::ids::{Name, Sha256Digest};
use crate::limits;
use crate::netplan::Netplan;
use crate::signed::{ControllerKeys, Domain, Envelope, SignedError, TrustedKeys};

/// The file's name on a stick or ESP.
pub const FILE_NAME: &str = "cairn-seed.json";

/// A seed as it lies on a stick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedSeed {
    /// The controller's keys.
    pub keys: ControllerKeys,
    /// A [`Seed`] under [`Domain::Seed`].
    pub seed: Envelope,
}

/// What a seed says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// The format: 1.
    pub version: u32,
    /// The site it was made for.
    pub site: Name,
    /// Base URLs of the controller to try before the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// The site's network document; `match` sections pick the links, so one seed serves all nodes of a site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Netplan>,
    /// A one-time token for enrolment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Reads a seed file and follows its signature back to `pin`.
///
/// # Errors
/// [`SignedError`].
pub fn open(bytes: &[u8], pin: Sha256Digest) -> Result<(Seed, TrustedKeys), SignedError> {
    const WHAT: &str = "the seed";
    limits::check(WHAT, bytes, limits::SEED_BYTES)?;
    let bad =
        |e: serde_json::Error| SignedError::Malformed { what: WHAT, why: limits::clean_text(&e.to_string()) };
    let signed: SignedSeed = serde_json::from_slice(bytes).map_err(bad)?;
    let keys = signed.keys.verify(pin)?;
    let seed: Seed = signed.seed.read(Domain::Seed, &keys, WHAT)?;
    if seed.version != 1 {
        return Err(SignedError::Malformed { what: WHAT, why: format!("version {} is not 1", seed.version) });
    }
    Ok((seed, keys))
}
