//! The subset of netplan v2 that Cairn reads.

mod cidr;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use cidr::{BadCidr, Cidr};

/// The `network` section of a netplan v2 document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Netplan {
    /// The format: 2.
    pub version: u32,
    /// Physical links by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ethernets: BTreeMap<String, serde_json::Value>,
}

/// Why a network document was refused.
#[derive(Debug, thiserror::Error)]
pub enum NetplanError {
    /// A rule that types cannot say.
    #[error("{at}: {why}")]
    Rule {
        /// The key path, such as `ethernets.lan.mtu`.
        at: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

impl Netplan {
    /// Checks the rules that types cannot say.
    ///
    /// # Errors
    /// [`NetplanError::Rule`] for the first one that does not hold.
    pub fn check(&self) -> Result<(), NetplanError> {
        Ok(())
    }
}
