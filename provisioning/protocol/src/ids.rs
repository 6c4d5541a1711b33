//! Names and digests that were checked when they were made.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};

/// A site's or node's name: a DNS label (RFC 1123: 1 to 63 of `a-z`, `0-9` and inner `-`), because it becomes a
/// host name, a path segment and a part of a SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// The text is not a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a name: use 1 to 63 of a-z, 0-9 and -, with no - at either end")]
pub struct BadName {
    /// The text that was refused, cleaned.
    pub text: String,
}

impl Name {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`BadName`] unless it is a DNS label.
    pub fn new(text: &str) -> Result<Self, BadName> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadName { text: crate::limits::clean_text(text) }) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Name {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A SHA-256 digest (FIPS 180-4), written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

/// The text is not a SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a sha256 digest: it takes 64 lower-case hexadecimal digits")]
pub struct BadDigest {
    /// The text that was refused, cleaned.
    pub text: String,
}

impl Sha256Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl std::str::FromStr for Sha256Digest {
    type Err = BadDigest;
    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest { text: crate::limits::clean_text(text) };
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad());
        }
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| bad())?;
        Ok(Self(digest))
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The SPIFFE id of a node: `spiffe://<trust domain>/site/<site>/node/<node>`.
pub fn spiffe_node(trust_domain: &str, site: &Name, node: &Name) -> String {
    format!("spiffe://{trust_domain}/site/{site}/node/{node}")
}

/// The SPIFFE id of an operator: `spiffe://<trust domain>/operator/<name>`.
pub fn spiffe_operator(trust_domain: &str, name: &Name) -> String {
    format!("spiffe://{trust_domain}/operator/{name}")
}

/// Who a client certificate speaks for, read from its SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A node of a site.
    Node {
        /// The site.
        site: Name,
        /// The node.
        node: Name,
    },
    /// An operator or a tool of one.
    Operator {
        /// The operator's name.
        name: Name,
    },
}

/// Reads a SPIFFE id of `trust_domain`; `None` for any other text.
pub fn parse_spiffe(trust_domain: &str, uri: &str) -> Option<Peer> {
    let path = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?.strip_prefix('/')?;
    match path.split('/').collect::<Vec<_>>()[..] {
        ["site", site, "node", node] => {
            Some(Peer::Node { site: Name::new(site).ok()?, node: Name::new(node).ok()? })
        }
        ["operator", name] => Some(Peer::Operator { name: Name::new(name).ok()? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "n1", "edge-0042", &"x".repeat(63)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "ä", &"x".repeat(64)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digests_read_what_they_write() {
        let digest = Sha256Digest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Sha256Digest>().unwrap(), digest);
        for bad in ["", "00", &digest.to_string().to_uppercase(), &"g".repeat(64)] {
            assert!(bad.parse::<Sha256Digest>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spiffe_ids_read_back() {
        let (site, node) = (Name::new("s1").unwrap(), Name::new("n1").unwrap());
        let id = spiffe_node("cairn.lab", &site, &node);
        assert_eq!(parse_spiffe("cairn.lab", &id), Some(Peer::Node { site, node: node.clone() }));
        assert_eq!(
            parse_spiffe("cairn.lab", &spiffe_operator("cairn.lab", &node)),
            Some(Peer::Operator { name: node })
        );
        for bad in [
            "spiffe://other/site/s1/node/n1",
            "spiffe://cairn.lab/site/s1",
            "spiffe://cairn.lab.evil/site/s1/node/n1",
            "",
        ] {
            assert_eq!(parse_spiffe("cairn.lab", bad), None, "{bad}");
        }
    }
}
