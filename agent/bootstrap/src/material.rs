//! What a control plane hands to the other nodes of its site: the wire's types, read within limits.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use cairn_protocol::ids::{Name, Sha256Digest};
use cairn_protocol::limits::{self, TooLong};
use cairn_protocol::netplan::Cidr;
use serde::{Deserialize, Serialize};

/// `GET`: a worker's way in.
pub const WORKER: &str = "/v1/worker";
/// `GET`: the cluster's keys, for control planes that the plan names. For a machine that has nothing of the cluster yet:
/// what an earlier one of that name left in it goes.
pub const CONTROL_PLANE: &str = "/v1/control-plane";
/// As [`CONTROL_PLANE`], for a machine that was cut off while it joined: nothing of it goes.
pub const CONTROL_PLANE_AGAIN: &str = "/v1/control-plane/again";
/// `GET`: the members and their part of the pod network.
pub const PEERS: &str = "/v1/peers";

/// The longest answer, bytes: keys of a cluster, or peers of a thousand nodes.
pub const MATERIAL_BYTES: usize = 256 << 10;
/// Members of one answer.
const MOST_PEERS: usize = 1024;

/// The files of the cluster's keys that every control plane shares, below `/etc/kubernetes/pki`.
pub const SHARED_KEYS: [&str; 8] = [
    "ca.crt",
    "ca.key",
    "etcd/ca.crt",
    "etcd/ca.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "sa.key",
    "sa.pub",
];

/// A bootstrap token, `abcdef.0123456789abcdef`. Its `Debug` shows the public half alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

impl Token {
    /// A token from 11 random bytes.
    pub fn from_random(random: [u8; 11]) -> Self {
        // Hexadecimal digits are among the letters that a token may have: 24 bits of name, 64 of secret.
        let text = hex::encode(random);
        Self { id: text[..6].to_owned(), secret: text[6..22].to_owned() }
    }

    /// The public half, its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret half.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole of it, for the file that kubeadm reads.
    pub fn secret_text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.…)", self.id)
    }
}

/// The text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no bootstrap token: it takes 6 and 16 of a-z and 0-9 with a dot between")]
pub struct BadToken;

impl std::str::FromStr for Token {
    type Err = BadToken;
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        match text.split_once('.') {
            Some((id, secret)) if id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => Err(BadToken),
        }
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.secret_text())
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The SHA-256 of the cluster's CA key, as `kubeadm` writes it: `sha256:<64 hex>`. It names the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaHash(pub Sha256Digest);

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl Serialize for CaHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CaHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        hex.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Answer to [`WORKER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerMaterial {
    /// Which cluster.
    pub ca: CaHash,
    /// A token of short life, for this node.
    pub token: Token,
}

/// Answer to [`CONTROL_PLANE`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlPlaneMaterial {
    /// Which cluster.
    pub ca: CaHash,
    /// A token of short life, for this node.
    pub token: Token,
    /// The files of [`SHARED_KEYS`] by name.
    pub files: BTreeMap<String, String>,
}

impl fmt::Debug for ControlPlaneMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlaneMaterial").field("ca", &self.ca).finish_non_exhaustive()
    }
}

/// Answer to [`PEERS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peers {
    /// Which cluster; none where the control plane cannot tell.
    pub ca: Option<CaHash>,
    /// Its members.
    pub nodes: Vec<Peer>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name.
    pub name: Name,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its part of the pod network, once it has one.
    pub pods: Option<Cidr>,
    /// Whether the cluster calls it Ready.
    pub ready: bool,
}

/// Why an answer was refused.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Not the JSON it should be. The reason names a place, never a value: there are keys in it.
    #[error("what the control plane handed out cannot be read at line {line}, column {column}")]
    Malformed {
        /// Its line.
        line: usize,
        /// Its column.
        column: usize,
    },
    /// Something in it cannot be meant.
    #[error("what the control plane handed out: {0}")]
    Wrong(&'static str),
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, MaterialError> {
    limits::check("what the control plane handed out", bytes, MATERIAL_BYTES)?;
    serde_json::from_slice(bytes).map_err(|e| MaterialError::Malformed { line: e.line(), column: e.column() })
}

/// Reads a worker's material. Fuzz entry point.
///
/// # Errors
/// [`MaterialError`].
pub fn parse_worker(bytes: &[u8]) -> Result<WorkerMaterial, MaterialError> {
    json(bytes)
}

/// Reads a control plane's material: exactly the shared keys, each a PEM text. Fuzz entry point.
///
/// # Errors
/// [`MaterialError`].
pub fn parse_control_plane(bytes: &[u8]) -> Result<ControlPlaneMaterial, MaterialError> {
    let material: ControlPlaneMaterial = json(bytes)?;
    if !material.files.keys().map(String::as_str).eq(SHARED_KEYS) {
        return Err(MaterialError::Wrong("its files are not the keys of a cluster"));
    }
    if material.files.values().any(|text| !text.starts_with("-----BEGIN ")) {
        return Err(MaterialError::Wrong("one of its files is no PEM text"));
    }
    Ok(material)
}

/// Reads the members: those whose pods lie in `pod_network`, each part once. Fuzz entry point.
///
/// # Errors
/// [`MaterialError`].
pub fn parse_peers(bytes: &[u8], pod_network: Cidr) -> Result<Peers, MaterialError> {
    let peers: Peers = json(bytes)?;
    if peers.nodes.len() > MOST_PEERS {
        return Err(MaterialError::Wrong("it has too many members"));
    }
    let inside = |pods: &Cidr| {
        pods.is_ipv4()
            && pods.network() == *pods
            && pods.prefix() > pod_network.prefix()
            && pod_network.contains(pods.address())
    };
    if peers.nodes.iter().filter_map(|peer| peer.pods.as_ref()).any(|pods| !inside(pods)) {
        return Err(MaterialError::Wrong("a member's pods lie outside of the pod network"));
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_read_back_and_do_not_show() {
        let token = Token::from_random(*b"0123456789a");
        assert_eq!(token.secret_text().parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(token.secret()));
        for bad in
            ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef0"]
        {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_come_whole_or_not_at_all() {
        let ca = CaHash(Sha256Digest::of(b"ca"));
        let token = Token::from_random([7; 11]);
        let pem = |name: &&str| ((*name).to_owned(), "-----BEGIN X-----\n".to_owned());
        let good = ControlPlaneMaterial { ca, token, files: SHARED_KEYS.iter().map(pem).collect() };
        let bytes = |material: &ControlPlaneMaterial| serde_json::to_vec(material).unwrap();
        assert_eq!(parse_control_plane(&bytes(&good)).unwrap(), good);
        assert!(!format!("{good:?}").contains("BEGIN"));
        let mut less = good.clone();
        less.files.remove("sa.key");
        assert!(parse_control_plane(&bytes(&less)).is_err());
        let mut elsewhere = good.clone();
        elsewhere.files.insert("../../shadow".to_owned(), "-----BEGIN X-----\n".to_owned());
        assert!(parse_control_plane(&bytes(&elsewhere)).is_err());
        let mut empty = good;
        empty.files.insert("sa.key".to_owned(), String::new());
        assert!(parse_control_plane(&bytes(&empty)).is_err());
    }

    #[test]
    fn members_pods_lie_in_the_pod_network() {
        let network: Cidr = "10.244.0.0/16".parse().unwrap();
        let peers = |pods: &str| {
            format!(
                r#"{{"ca":null,"nodes":[{{"name":"w1","address":"10.77.0.12","pods":"{pods}","ready":true}}]}}"#
            )
        };
        assert!(parse_peers(peers("10.244.1.0/24").as_bytes(), network).is_ok());
        for bad in ["10.245.1.0/24", "10.244.0.0/16", "0.0.0.0/0", "10.244.1.1/24", "fd00::/64"] {
            assert!(parse_peers(peers(bad).as_bytes(), network).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_worker(&bytes);
            let _ = parse_control_plane(&bytes);
            let _ = parse_peers(&bytes, Cidr::DEFAULT_V4);
        }
    }
}
