//! `install.json` on STATE: written last, so that a disk that has it is a finished installation.

use std::path::Path;

use cairn_bundle::durable;
use cairn_protocol::ids::Name;
use cairn_protocol::plan::Disks;
use serde::{Deserialize, Serialize};

use crate::error::{DiskError, Result};

/// Its name on STATE.
pub const FILE_NAME: &str = "install.json";
/// The most bytes that are read of it: two names, a number and a few sizes.
const LIMIT: u64 = 64 << 10;

/// What a finished disk was made as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstallRecord {
    /// The format: 1.
    pub version: u32,
    /// The site.
    pub site: Name,
    /// The node.
    pub node: Name,
    /// The assignment's reinstall number at the time: a larger one in an assignment orders a new installation.
    pub reinstall: u64,
    /// The plan's disks at the time.
    pub plan: Disks,
}

/// Reads a record; pure.
///
/// # Errors
/// Why it is none.
pub fn parse(bytes: &[u8]) -> std::result::Result<InstallRecord, String> {
    let record: InstallRecord = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if record.version == 1 { Ok(record) } else { Err(format!("version {} is not 1", record.version)) }
}

/// The record of the STATE mounted at `state`; `None` when there is none.
///
/// # Errors
/// [`DiskError::Unexpected`] when it cannot be understood.
pub fn read(state: &Path) -> Result<Option<InstallRecord>> {
    let path = state.join(FILE_NAME);
    let Some(bytes) = durable::read(&path, LIMIT)? else { return Ok(None) };
    parse(&bytes).map(Some).map_err(|why| DiskError::Unexpected { path, why })
}

/// Writes it, durably. From then on the disk is finished.
///
/// # Errors
/// [`DiskError::File`].
pub fn write(state: &Path, record: &InstallRecord) -> Result<()> {
    let path = state.join(FILE_NAME);
    let bytes = serde_json::to_vec_pretty(record)
        .map_err(|e| DiskError::Unexpected { path: path.clone(), why: e.to_string() })?;
    durable::write(&path, &bytes)?;
    Ok(())
}
