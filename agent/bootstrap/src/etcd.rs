//! What `etcdctl` says of the cluster's members (pure).

use cairn_protocol::limits::{self, TooLong};
use serde::Deserialize;

/// The longest list that is read, bytes.
pub const LIST_BYTES: usize = 64 << 10;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, as the tool takes it: hexadecimal digits.
    pub id: String,
    /// Its name, which is its node's; empty before its first start.
    pub name: String,
}

#[derive(Deserialize)]
struct List {
    members: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(rename = "ID")]
    id: u64,
    #[serde(default)]
    name: String,
}

/// Why a list was refused.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Not the JSON it should be.
    #[error("etcd's list of members cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads the answer to `etcdctl member list -w json`. Fuzz entry point.
///
/// # Errors
/// [`EtcdError`].
pub fn parse_members(bytes: &[u8]) -> Result<Vec<Member>, EtcdError> {
    limits::check("etcd's list of members", bytes, LIST_BYTES)?;
    let list: List = serde_json::from_slice(bytes)?;
    let member = |raw: Raw| Member { id: format!("{:x}", raw.id), name: raw.name };
    Ok(list.members.into_iter().map(member).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &str = r#"{"header":{"cluster_id":1},"members":[
        {"ID":10276657743932975437,"name":"cp1","peerURLs":["https://10.77.0.11:2380"],"clientURLs":["x"]},
        {"ID":255,"peerURLs":["https://10.77.0.12:2380"],"isLearner":true}]}"#;

    #[test]
    fn members_are_read() {
        let members = parse_members(LIST.as_bytes()).unwrap();
        assert_eq!((members[0].id.as_str(), members[1].id.as_str()), ("8e9e05c52164694d", "ff"));
        assert_eq!((members[0].name.as_str(), members[1].name.as_str()), ("cp1", ""));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_members(&bytes);
        }
    }
}
