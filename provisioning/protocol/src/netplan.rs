//! The network of a node: a subset of netplan v2 (<https://netplan.readthedocs.io/en/stable/netplan-yaml/>).
//!
//! What is read means what netplan means by it; what is not in the subset is an error that names its line. The
//! document is the `network` section of a plan or seed, or stands alone below a key `network`.

mod check;
mod cidr;
mod links;
mod values;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use cidr::{BadCidr, Cidr};
pub use links::{
    AdSelect, Bond, BondMode, BondParameters, Bridge, BridgeParameters, Common, Ethernet, LacpRate, Match,
    Nameservers, RouteSpec, TransmitHash, Vlan,
};
pub use values::{BadDestination, BadMac, Destination, MacAddr};

use crate::limits;

/// The `network` section of a netplan v2 document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Netplan {
    /// The format: 2.
    pub version: u32,
    /// Physical links. The id is the kernel's name, or free where there is a `match`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ethernets: BTreeMap<String, Ethernet>,
    /// Bonds by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bonds: BTreeMap<String, Bond>,
    /// Bridges by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bridges: BTreeMap<String, Bridge>,
    /// VLANs by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vlans: BTreeMap<String, Vlan>,
}

/// A document that stands alone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    network: Netplan,
}

/// Why a network document was refused. The text names the line wherever the document has one.
#[derive(Debug, thiserror::Error)]
pub enum NetplanError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] limits::TooLong),
    /// Not a document: bad YAML, an unknown key, a missing one, a wrong type.
    #[error("{0}")]
    Malformed(String),
    /// A rule that spans several keys.
    #[error("{at}: {why}")]
    Rule {
        /// The key path, such as `ethernets.lan.mtu`.
        at: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

impl Netplan {
    /// Reads and checks a document that stands alone (`network:` at its top). Fuzz entry point.
    ///
    /// # Errors
    /// [`NetplanError`], with line and column for unknown keys and wrong types.
    pub fn parse_yaml(yaml: &str) -> Result<Self, NetplanError> {
        limits::check("the network document", yaml.as_bytes(), limits::SEED_BYTES)?;
        let document: Document = crate::yaml::read(yaml).map_err(NetplanError::Malformed)?;
        document.network.check()?;
        Ok(document.network)
    }

    /// Checks the rules that types cannot say. A document that came over the wire as JSON is checked by this before
    /// it is used.
    ///
    /// # Errors
    /// [`NetplanError::Rule`] for the first one that does not hold.
    pub fn check(&self) -> Result<(), NetplanError> {
        check::check(self)
    }

    /// What all links have in common, by key path and id: ethernets, bonds, bridges, VLANs.
    pub fn links(&self) -> impl Iterator<Item = (&'static str, &str, &Common)> {
        let ethernets = self.ethernets.iter().map(|(id, link)| ("ethernets", id.as_str(), &link.common));
        let bonds = self.bonds.iter().map(|(id, link)| ("bonds", id.as_str(), &link.common));
        let bridges = self.bridges.iter().map(|(id, link)| ("bridges", id.as_str(), &link.common));
        let vlans = self.vlans.iter().map(|(id, link)| ("vlans", id.as_str(), &link.common));
        ethernets.chain(bonds).chain(bridges).chain(vlans)
    }

    /// The bond or bridge that the link `id` belongs to.
    pub fn master_of(&self, id: &str) -> Option<&str> {
        let bonds = self.bonds.iter().map(|(name, bond)| (name, &bond.interfaces));
        let bridges = self.bridges.iter().map(|(name, bridge)| (name, &bridge.interfaces));
        bonds
            .chain(bridges)
            .find(|(_, members)| members.iter().any(|member| member == id))
            .map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests;
