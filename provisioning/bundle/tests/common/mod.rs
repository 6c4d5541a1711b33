//! A repository whose every part a test can bend: metadata is built from parts and signed with whatever keys.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use cairn_bundle::tuf::metadata::{
    DelegatedRole, Delegations, Header, MetaFile, Role, RoleKeys, Root, SPEC_VERSION, Snapshot, TargetFile,
    Targets, Timestamp,
};
use cairn_bundle::tuf::signing::{Document, SigningKey};
use cairn_bundle::tuf::{Answer, Date, Limits, MemoryStore, Request, Step, TargetInfo, TufError, Updater};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The day of the tests: 2026-11-23T00:00:00Z.
pub const TODAY: Date = Date(1_795_392_000);

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

/// A role's content, whose keys sign it, and its version and end.
#[derive(Clone)]
pub struct Part<T> {
    pub body: T,
    pub version: u64,
    pub expires: Date,
    /// Seeds of the keys that sign.
    pub signers: Vec<u8>,
}

impl<T: Serialize> Part<T> {
    pub fn bytes(&self, kind: &str) -> Vec<u8> {
        let header = Header {
            kind: kind.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: self.version,
            expires: self.expires,
        };
        let mut signed = serde_json::to_value(header).unwrap();
        let Value::Object(body) = serde_json::to_value(&self.body).unwrap() else { unreachable!() };
        signed.as_object_mut().unwrap().extend(body);
        let mut document = Document { signatures: Vec::new(), signed };
        self.signers.iter().for_each(|n| document.sign(&key(*n)).unwrap());
        document.to_bytes()
    }
}

/// Keys 1 to 5 are root's (3-of-5), 6 to 8 targets' (2-of-3), 9 snapshot's, 10 timestamp's, 11 of the role `os`.
#[derive(Clone)]
pub struct Sim {
    pub root: Part<Root>,
    pub targets: Part<Targets>,
    pub os: Part<Targets>,
    pub snapshot: Part<Snapshot>,
    pub timestamp: Part<Timestamp>,
    /// Everything ever published, by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What was asked for.
    pub requests: Vec<String>,
}

pub const MANIFEST: &str = "os/base/1.0.0/manifest.json";

pub fn roles(seeds: &[u8], threshold: u32) -> RoleKeys {
    RoleKeys { keyids: seeds.iter().map(|n| key(*n).id()).collect(), threshold }
}

pub fn keys(seeds: &[u8]) -> BTreeMap<String, Value> {
    seeds.iter().map(|n| (key(*n).id(), serde_json::to_value(key(*n).public().object()).unwrap())).collect()
}

pub fn target(bytes: &[u8]) -> TargetFile {
    let hashes = BTreeMap::from([("sha256".to_owned(), hex::encode(Sha256::digest(bytes)))]);
    TargetFile { length: bytes.len() as u64, hashes, custom: None }
}

pub fn delegation(name: &str, seeds: &[u8], paths: &[&str], terminating: bool) -> DelegatedRole {
    DelegatedRole {
        name: name.to_owned(),
        keys: roles(seeds, 1),
        terminating,
        paths: Some(paths.iter().map(|path| (*path).to_owned()).collect()),
        path_hash_prefixes: None,
    }
}

fn part<T>(body: T, signers: &[u8]) -> Part<T> {
    Part { body, version: 1, expires: TODAY.plus_days(30), signers: signers.to_vec() }
}

impl Sim {
    pub fn new() -> Self {
        let names = [("root", roles(&[1, 2, 3, 4, 5], 3)), ("targets", roles(&[6, 7, 8], 2))];
        let online = [("snapshot", roles(&[9], 1)), ("timestamp", roles(&[10], 1))];
        let roles = names.into_iter().chain(online).map(|(name, keys)| (name.to_owned(), keys)).collect();
        let root = Root { consistent_snapshot: true, keys: keys(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), roles };
        let delegations = Delegations {
            keys: keys(&[11]),
            roles: vec![delegation("os", &[11], &["os/*/*/manifest.json"], true)],
        };
        let os = BTreeMap::from([(MANIFEST.to_owned(), target(b"manifest 1"))]);
        let mut sim = Self {
            root: part(root, &[1, 2, 3]),
            targets: part(Targets { targets: BTreeMap::new(), delegations: Some(delegations) }, &[6, 7]),
            os: part(Targets { targets: os, delegations: None }, &[11]),
            snapshot: part(Snapshot { meta: BTreeMap::new() }, &[9]),
            timestamp: part(Timestamp { meta: BTreeMap::new() }, &[10]),
            files: BTreeMap::new(),
            requests: Vec::new(),
        };
        sim.put_root();
        sim.put_targets();
        sim.put_os();
        sim.put_snapshot();
        sim.put_timestamp();
        sim
    }

    fn meta(version: u64, bytes: &[u8]) -> MetaFile {
        let hashes = BTreeMap::from([("sha256".to_owned(), hex::encode(Sha256::digest(bytes)))]);
        MetaFile { version, length: Some(bytes.len() as u64), hashes: Some(hashes) }
    }

    pub fn put_root(&mut self) {
        self.files.insert(format!("{}.root.json", self.root.version), self.root.bytes("root"));
    }
    pub fn put_delegated(&mut self, name: &str, part: &Part<Targets>) {
        let bytes = part.bytes("targets");
        self.snapshot.body.meta.insert(format!("{name}.json"), Self::meta(part.version, &bytes));
        self.files.insert(format!("{}.{name}.json", part.version), bytes);
    }
    pub fn put_targets(&mut self) {
        self.put_delegated("targets", &self.targets.clone());
    }
    pub fn put_os(&mut self) {
        self.put_delegated("os", &self.os.clone());
    }
    pub fn put_snapshot(&mut self) {
        let bytes = self.snapshot.bytes("snapshot");
        let meta = Self::meta(self.snapshot.version, &bytes);
        self.timestamp.body.meta.insert("snapshot.json".to_owned(), meta);
        self.files.insert(format!("{}.snapshot.json", self.snapshot.version), bytes);
    }
    pub fn put_timestamp(&mut self) {
        self.files.insert("timestamp.json".to_owned(), self.timestamp.bytes("timestamp"));
    }

    /// A release: a new manifest, and everything above it.
    pub fn release(&mut self, bytes: &[u8]) {
        self.os.body.targets.insert(MANIFEST.to_owned(), target(bytes));
        self.os.version += 1;
        self.put_os();
        self.bump();
    }

    /// A new snapshot and timestamp.
    pub fn bump(&mut self) {
        self.snapshot.version += 1;
        self.put_snapshot();
        self.timestamp.version += 1;
        self.put_timestamp();
    }

    pub fn anchor(&self) -> Vec<u8> {
        self.files["1.root.json"].clone()
    }

    fn fetch(&mut self, request: &Request) -> Option<Vec<u8>> {
        self.requests.push(request.path.clone());
        self.files.get(&request.path).cloned()
    }

    /// A refresh, and a look for `path`, beginning with what `store` holds.
    pub fn update(&mut self, store: &mut MemoryStore, now: Date, path: &str) -> Result<TargetInfo, TufError> {
        let anchor = self.anchor();
        let mut updater = Updater::open(store.clone(), Some(&anchor), now, Limits::default())?;
        let mut step = updater.refresh();
        let mut looked = false;
        let result = loop {
            match step {
                Ok(Step::Need(request)) => {
                    step = match self.fetch(&request) {
                        Some(bytes) => updater.feed(Answer::Bytes(&bytes)),
                        None => updater.feed(Answer::NotFound),
                    };
                }
                Ok(Step::Refreshed) => {
                    assert!(!std::mem::replace(&mut looked, true));
                    step = updater.lookup(path);
                }
                Ok(Step::Found(target)) => break Ok(target),
                Err(error) => break Err(error),
            }
        };
        *store = updater.into_store();
        result
    }
}

/// The version that a store has of a role.
pub fn stored(store: &MemoryStore, role: &Role) -> Option<u64> {
    store.0.get(&role.file()).map(|bytes| Document::read(bytes).unwrap().header().unwrap().version)
}
