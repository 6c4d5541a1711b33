//! The list of a layer's images: what a node reads before it imports them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::recipe::Role;
use crate::error::Error;

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Entry<'a> {
    /// Full name with a tag.
    #[serde(rename = "ref")]
    pub(super) reference: &'a str,
    /// File name in `/usr/lib/cairn/images`.
    pub(super) archive: &'a str,
    /// Of its manifest.
    pub(super) digest: String,
    /// Who imports it.
    pub(super) role: Role,
}

/// The list as a file: the facts and `images`, keys sorted, the same bytes each time.
pub(super) fn write(facts: &BTreeMap<String, String>, entries: &[Entry<'_>]) -> Result<Vec<u8>, Error> {
    let failed = |e: serde_json::Error| Error::unexpected("the list of images", e.to_string());
    let mut object: BTreeMap<&str, Value> =
        facts.iter().map(|(name, value)| (name.as_str(), Value::from(value.as_str()))).collect();
    object.insert("images", serde_json::to_value(entries).map_err(failed)?);
    let mut bytes = serde_json::to_vec_pretty(&object).map_err(failed)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nodes_read_this() {
        let facts = BTreeMap::from([("version".to_owned(), "v1.36.3".to_owned())]);
        let entries = [
            Entry {
                reference: "example.org/a:1",
                archive: "a.tar",
                digest: "sha256:00".to_owned(),
                role: Role::ControlPlane,
            },
            Entry {
                reference: "example.org/b:1",
                archive: "b.tar",
                digest: "sha256:11".to_owned(),
                role: Role::Node,
            },
        ];
        let value: Value = serde_json::from_slice(&write(&facts, &entries).unwrap()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "version": "v1.36.3",
                "images": [
                    {"ref": "example.org/a:1", "archive": "a.tar", "digest": "sha256:00", "role": "control-plane"},
                    {"ref": "example.org/b:1", "archive": "b.tar", "digest": "sha256:11", "role": "node"}
                ]
            })
        );
    }
}
