//! A repository with one release, of today, for clients that look at the clock.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::path::Path;

use cairn_bundle::manifest::Kind;
use cairn_bundle::tuf::Date;
use cairn_bundle::tuf::metadata::Role;
use cairn_bundle::tuf::repository::{Holders, Lifetimes, Policy, Repository};

use crate::common::key;

fn holders(seeds: &[u8], threshold: u32) -> Holders {
    Holders { keys: seeds.iter().map(|n| key(*n).public()).collect(), threshold }
}

/// Root 3-of-5, targets 2-of-3, one manifest in `os`.
pub fn make(dir: &Path) -> (Repository, String, Vec<u8>) {
    let now = Date::now();
    let repository = Repository::at(dir, Lifetimes::default());
    let policy = Policy {
        root: holders(&[1, 2, 3, 4, 5], 3),
        targets: holders(&[6, 7, 8], 2),
        snapshot: holders(&[9], 1),
        timestamp: holders(&[10], 1),
        delegations: Kind::ALL.into_iter().zip(11..).map(|(kind, n)| (kind, holders(&[n], 1))).collect(),
        lifetimes: Lifetimes::default(),
    };
    repository.init(&policy, now).unwrap();
    let path = "os/base/1.0.0+deb13u1/manifest.json".to_owned();
    let manifest = include_bytes!("../golden/manifest-v1.json").to_vec();
    repository.stage_target(Kind::Os, &path, &manifest, now).unwrap();
    for n in [1, 3, 5, 6, 7, 11, 12, 13, 14] {
        repository.sign(&key(n)).unwrap();
    }
    repository.publish(&key(9), &key(10), now).unwrap();
    (repository, path, manifest)
}

/// Other root keys, another timestamp key.
pub fn rotate(repository: &Repository) {
    let now = Date::now();
    let change = [(Role::Root, holders(&[3, 4, 5, 21, 22], 3)), (Role::Timestamp, holders(&[23], 1))];
    repository.stage_root(&change, now).unwrap();
    for n in [3, 4, 5] {
        repository.sign(&key(n)).unwrap();
    }
    repository.publish(&key(9), &key(23), now).unwrap();
}
