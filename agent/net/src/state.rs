//! What the next agent process of this boot takes over: leases in use, as JSON below /run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dhcp::Lease;

/// A state file longer than this is not ours.
const STATE_BYTES: u64 = 256 << 10;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The format: 1.
    pub version: u32,
    /// Links that were managed, by name.
    pub links: BTreeMap<String, LinkState>,
    /// Names of bonds, bridges and VLANs that were made for the plan.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub made: BTreeSet<String>,
}

/// One link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkState {
    /// Hardware address; a link of that name with another is another.
    pub mac: [u8; 6],
    /// Its lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

/// Reads the file; one that is missing, too long or not understood counts as empty, because leases can be had again.
pub fn load(path: &Path) -> State {
    let read = || -> io::Result<State> {
        if std::fs::metadata(path)?.len() > STATE_BYTES {
            return Err(io::Error::other("it is too long"));
        }
        let state: State = serde_json::from_slice(&std::fs::read(path)?)?;
        if state.version == 1 { Ok(state) } else { Err(io::Error::other("its version is not known")) }
    };
    match read() {
        Ok(state) => state,
        Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "network state not taken over");
            State::default()
        }
    }
}

/// Writes the file in one step, mode 0600.
///
/// # Errors
/// As open(2), write(2) and rename(2).
pub fn save(path: &Path, state: &State) -> io::Result<()> {
    crate::resolv::replace(path, &serde_json::to_vec(state)?, 0o600)
}
