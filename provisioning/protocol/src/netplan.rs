//! The subset of netplan v2 that Cairn reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
