//! Metadata from parts.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Holders, RepositoryError};
use crate::manifest::Kind;
use crate::tuf::keys::{KeyId, PublicKey};
use crate::tuf::metadata::{Body, DelegatedRole, Delegations, Header, MetaFile, RoleKeys, SPEC_VERSION};
use crate::tuf::signing::{Document, KeyError, SigningKey};
use crate::tuf::time::Date;

/// Enters the holders' keys into `keys`.
pub(super) fn role_keys(
    role: &str,
    holders: &Holders,
    keys: &mut BTreeMap<KeyId, Value>,
) -> Result<RoleKeys, RepositoryError> {
    let mut keyids: Vec<KeyId> = holders.keys.iter().map(PublicKey::id).collect();
    keyids.sort();
    keyids.dedup();
    if holders.threshold == 0 || keyids.len() < holders.threshold as usize {
        let (threshold, keys) = (holders.threshold, keyids.len());
        return Err(RepositoryError::Holders { role: role.to_owned(), threshold, keys });
    }
    for key in &holders.keys {
        keys.insert(key.id(), to_value(key.object())?);
    }
    Ok(RoleKeys { keyids, threshold: holders.threshold })
}

pub(super) fn delegations(holders: &BTreeMap<Kind, Holders>) -> Result<Delegations, RepositoryError> {
    let mut delegations = Delegations { keys: BTreeMap::new(), roles: Vec::new() };
    for (kind, holders) in holders {
        let keys = role_keys(kind.as_str(), holders, &mut delegations.keys)?;
        delegations.roles.push(DelegatedRole {
            name: kind.as_str().to_owned(),
            keys,
            terminating: true,
            // A `*` matches one part of a path: exactly what a manifest's path has.
            paths: Some(vec![format!("{kind}/*/*/manifest.json")]),
            path_hash_prefixes: None,
        });
    }
    Ok(delegations)
}

pub(super) fn to_value(value: &impl Serialize) -> Result<Value, RepositoryError> {
    serde_json::to_value(value).map_err(|error| KeyError::NotMetadata(error.to_string()).into())
}

pub(super) fn document<T: Body>(body: &T, version: u64, expires: Date) -> Result<Document, RepositoryError> {
    let (kind, spec_version) = (T::TYPE.to_owned(), SPEC_VERSION.to_owned());
    let mut signed = to_value(&Header { kind, spec_version, version, expires })?;
    if let (Value::Object(signed), Value::Object(body)) = (&mut signed, to_value(body)?) {
        signed.extend(body);
    }
    Ok(Document { signatures: Vec::new(), signed })
}

pub(super) fn signed<T: Body>(
    body: &T,
    version: u64,
    expires: Date,
    key: &SigningKey,
) -> Result<Vec<u8>, RepositoryError> {
    let mut document = document(body, version, expires)?;
    document.sign(key)?;
    Ok(document.to_bytes())
}

pub(super) fn meta_file(version: u64, bytes: &[u8]) -> MetaFile {
    let hashes = BTreeMap::from([("sha256".to_owned(), hex::encode(Sha256::digest(bytes)))]);
    MetaFile { version, length: Some(bytes.len() as u64), hashes: Some(hashes) }
}
