//! A release engineer's repository, and its way to a controller.
#![allow(unreachable_pub, reason = "a module of one test binary")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cairn_bundle::manifest::{Component, ComponentKind, Kind, Manifest};
use cairn_bundle::publish;
use cairn_bundle::store::Store;
use cairn_bundle::tuf::Date;
use cairn_bundle::tuf::repository::{Holders, Lifetimes, Policy, Repository};
use cairn_bundle::tuf::signing::SigningKey;
use cairn_protocol::ids::Sha256Digest;
use reqwest::Method;

use crate::harness::{Answer, Controller};

/// The publisher's own repository.
pub struct Publisher {
    tmp: tempfile::TempDir,
    pub repository: Repository,
    seed: u8,
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

impl Publisher {
    /// A repository whose keys come from `seed`, with nothing in it.
    pub fn new(seed: u8) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let holders = |n: u8| Holders { keys: vec![key(seed + n).public()], threshold: 1 };
        let repository = Repository::at(tmp.path(), Lifetimes::default());
        let delegations: BTreeMap<_, _> = Kind::ALL.map(|kind| (kind, holders(2))).into();
        let policy = Policy {
            root: holders(0),
            targets: holders(1),
            snapshot: holders(3),
            timestamp: holders(4),
            delegations,
            lifetimes: Lifetimes::default(),
        };
        repository.init(&policy, Date::now()).unwrap();
        let publisher = Self { tmp, repository, seed };
        publisher.sign(Date::now());
        publisher
    }

    pub fn dir(&self) -> &Path {
        self.tmp.path()
    }

    pub fn sign(&self, now: Date) {
        for n in 0..3 {
            let _ = self.repository.sign(&key(self.seed + n));
        }
        self.repository.publish(&key(self.seed + 3), &key(self.seed + 4), now).unwrap();
    }

    /// Adds the bundle images/test with some bytes that no compressor makes small.
    pub fn add(&self, version: &str) {
        let mut bytes = Vec::new();
        while bytes.len() < 400_000 {
            bytes.extend(Sha256Digest::of(&[version.as_bytes(), &bytes.len().to_le_bytes()].concat()).0);
        }
        let path = self.dir().join("component");
        std::fs::write(&path, &bytes).unwrap();
        let store = Store::open(&self.dir().join("chunks.castr")).unwrap();
        let options = publish::Options { level: 1, ..publish::Options::default() };
        let done = publish::component(&path, &store, &options, &mut |_| {}).unwrap();
        done.write_index(self.dir()).unwrap();
        let manifest = Manifest {
            version: 1,
            kind: Kind::Images,
            name: "test".to_owned(),
            bundle_version: version.to_owned(),
            components: vec![Component {
                name: "disk".to_owned(),
                kind: ComponentKind::Image,
                length: done.length,
                sha256: done.sha256,
                index: done.index_ref(),
                uki: None,
                layer: None,
            }],
        };
        manifest.check().unwrap();
        self.repository
            .stage_target(Kind::Images, &manifest.target_path(), &manifest.to_bytes(), Date::now())
            .unwrap();
        self.sign(Date::now());
    }

    /// All files below a folder, as paths relative to it.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let root = self.dir().join(folder);
        let (mut open, mut files) = (vec![PathBuf::new()], Vec::new());
        while let Some(at) = open.pop() {
            for entry in std::fs::read_dir(root.join(&at)).into_iter().flatten().map(Result::unwrap) {
                let path = at.join(entry.file_name());
                if entry.path().is_dir() {
                    open.push(path)
                } else {
                    files.push(path.to_str().unwrap().to_owned())
                }
            }
        }
        files.retain(|file| !file.contains("lock") && !file.ends_with(".tmp"));
        files.sort();
        files
    }

    pub async fn put(&self, controller: &Controller, folder: &str, route: &str, file: &str) -> Answer {
        let bytes = std::fs::read(self.dir().join(folder).join(file)).unwrap();
        Answer::of(controller.operator(Method::PUT, &format!("/v1/repo/{route}/{file}")).body(bytes)).await
    }

    pub async fn upload(&self, controller: &Controller, folder: &str, route: &str) {
        for file in self.files(folder) {
            let answer = self.put(controller, folder, route, &file).await;
            assert!([201, 202, 204].contains(&answer.status), "{file}: {}", answer.body);
        }
    }

    /// Everything but the metadata.
    pub async fn upload_content(&self, controller: &Controller) {
        self.upload(controller, "chunks.castr", "chunks").await;
        self.upload(controller, "indexes", "indexes").await;
        self.upload(controller, "targets", "targets").await;
    }

    /// The metadata; the answer is that to timestamp.json.
    pub async fn upload_metadata(&self, controller: &Controller) -> Answer {
        for file in self.files("metadata").iter().filter(|file| *file != "timestamp.json") {
            let answer = self.put(controller, "metadata", "metadata", file).await;
            assert!([202, 204].contains(&answer.status), "{file}: {}", answer.body);
        }
        self.put(controller, "metadata", "metadata", "timestamp.json").await
    }
}
