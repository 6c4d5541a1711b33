//! A repository's life: made, signed by holders who never meet, published, changed, refreshed.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use cairn_bundle::manifest::Kind;
use cairn_bundle::tuf::metadata::Role;
use cairn_bundle::tuf::repository::{Holders, Lifetimes, Policy, Repository, RepositoryError};
use cairn_bundle::tuf::signing::{Document, SigningKey};
use cairn_bundle::tuf::{Limits, MemoryStore, Request, Step, Updater};
use common::{TODAY, key};

fn holders(seeds: &[u8], threshold: u32) -> Holders {
    Holders { keys: seeds.iter().map(|n| key(*n).public()).collect(), threshold }
}

fn policy() -> Policy {
    Policy {
        root: holders(&[1, 2, 3, 4, 5], 3),
        targets: holders(&[6, 7, 8], 2),
        snapshot: holders(&[9], 1),
        timestamp: holders(&[10], 1),
        delegations: Kind::ALL.into_iter().zip(11..).map(|(kind, n)| (kind, holders(&[n], 1))).collect(),
        lifetimes: Lifetimes::default(),
    }
}

fn published(dir: &Path) -> Repository {
    let repository = Repository::at(dir, Lifetimes::default());
    repository.init(&policy(), TODAY).unwrap();
    for n in [1, 3, 5, 6, 7, 11, 12, 13, 14] {
        repository.sign(&key(n)).unwrap();
    }
    repository.publish(&key(9), &key(10), TODAY).unwrap();
    repository
}

fn find(repository: &Repository, store: MemoryStore, anchor: &[u8], path: &str) -> (MemoryStore, Step) {
    let mut updater = Updater::open(store, Some(anchor), TODAY, Limits::default()).unwrap();
    let dir = repository.metadata_dir();
    let fetch = |request: &Request| match std::fs::read(dir.join(&request.path)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let step = updater.refresh();
    updater.run(step, fetch).unwrap();
    let step = updater.lookup(path);
    let step = updater.run(step, fetch).unwrap();
    (updater.into_store(), step)
}

#[test]
fn holders_sign_one_by_one_and_in_copies() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::at(dir.path(), Lifetimes::default());
    repository.init(&policy(), TODAY).unwrap();
    assert!(matches!(repository.init(&policy(), TODAY).unwrap_err(), RepositoryError::Exists(_)));
    let staged = repository.staged().unwrap();
    let names: Vec<_> = staged.iter().map(|staged| staged.role.name().to_owned()).collect();
    assert_eq!(names, ["root", "targets", "os", "kubernetes", "openstack", "images"]);
    assert!(staged.iter().all(|staged| !staged.needs[0].is_met() && staged.needs[0].signed.is_empty()));

    assert_eq!(repository.sign(&key(1)).unwrap(), [Role::Root]);
    repository.sign(&key(1)).unwrap();
    assert!(matches!(repository.sign(&key(99)).unwrap_err(), RepositoryError::WrongKey(_)));
    let error = repository.publish(&key(9), &key(10), TODAY).unwrap_err().to_string();
    assert!(error.contains("root 1 has 1 of the 3 that root 1 asks"), "{error}");

    // A holder with a copy on a stick.
    let path = repository.staged().unwrap()[0].path.clone();
    let mut copy = Document::read(&std::fs::read(&path).unwrap()).unwrap();
    copy.sign(&key(2)).unwrap();
    copy.sign(&key(4)).unwrap();
    repository.merge(&Role::Root, &copy.to_bytes()).unwrap();
    assert_eq!(repository.staged().unwrap()[0].needs[0].signed.len(), 3);

    for n in [6, 8, 11, 12, 13, 14] {
        repository.sign(&key(n)).unwrap();
    }
    let written = repository.publish(&key(9), &key(10), TODAY).unwrap();
    assert_eq!(written.last().unwrap(), "timestamp.json");
    assert!(repository.staged().unwrap().is_empty());
    repository.check(TODAY).unwrap();
}

#[test]
fn a_release_reaches_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let repository = published(dir.path());
    let anchor = repository.root().unwrap();
    for (kind, signer) in [(Kind::Os, 11), (Kind::Images, 14)] {
        let path = format!("{kind}/base/1.0.0/manifest.json");
        let other = format!("{kind}/base/1.0.1/manifest.json");
        repository.stage_target(kind, &path, b"manifest", TODAY).unwrap();
        repository.sign(&key(signer)).unwrap();
        repository.stage_target(kind, &other, b"manifest too", TODAY).unwrap();
        let error = repository.publish(&key(9), &key(10), TODAY).unwrap_err();
        assert!(
            matches!(error, RepositoryError::Unsigned(_)),
            "the second target takes back the signature: {error}"
        );
        repository.sign(&key(signer)).unwrap();
        repository.publish(&key(9), &key(10), TODAY).unwrap();
        let (_, step) = find(&repository, MemoryStore::default(), &anchor, &path);
        let Step::Found(target) = step else { panic!("{step:?}") };
        let bytes = std::fs::read(dir.path().join("targets").join(&target.place)).unwrap();
        target.verify(&bytes).unwrap();
        assert_eq!((target.role.name(), target.role_version), (kind.as_str(), 2));
    }
    assert_eq!(repository.targets().unwrap().len(), 4);
    repository.stage_removal(Kind::Os, "os/base/1.0.0/manifest.json", TODAY).unwrap();
    repository.sign(&key(11)).unwrap();
    repository.publish(&key(9), &key(10), TODAY).unwrap();
    assert_eq!(repository.targets().unwrap().len(), 3);
}

#[test]
fn the_wrong_kind_cannot_be_signed_or_listed() {
    let dir = tempfile::tempdir().unwrap();
    let repository = published(dir.path());
    repository.stage_target(Kind::Os, "os/base/1/manifest.json", b"m", TODAY).unwrap();
    assert!(matches!(repository.sign(&key(12)).unwrap_err(), RepositoryError::WrongKey(_)));
}

#[test]
fn keys_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let repository = published(dir.path());
    let anchor = repository.root().unwrap();
    repository.stage_target(Kind::Os, "os/base/1/manifest.json", b"m", TODAY).unwrap();
    repository.sign(&key(11)).unwrap();
    repository.publish(&key(9), &key(10), TODAY).unwrap();
    let (store, _) = find(&repository, MemoryStore::default(), &anchor, "os/base/1/manifest.json");

    let change = [(Role::Root, holders(&[3, 4, 5, 21, 22], 3)), (Role::Timestamp, holders(&[23], 1))];
    repository.stage_root(&change, TODAY).unwrap();
    // Enough for the new root, not for the old one.
    for n in [5, 21, 22] {
        repository.sign(&key(n)).unwrap();
    }
    let error = repository.publish(&key(9), &key(23), TODAY).unwrap_err().to_string();
    assert!(error.contains("root 2 has 1 of the 3 that root 1 asks"), "{error}");
    for n in [1, 2] {
        repository.sign(&key(n)).unwrap();
    }
    // The old timestamp key does not do any more: our own client says so, and nothing is written.
    let error = repository.publish(&key(9), &key(10), TODAY).unwrap_err();
    assert!(matches!(error, RepositoryError::Refused(_)), "{error}");
    assert!(!repository.metadata_dir().join("2.root.json").exists());
    repository.publish(&key(9), &key(23), TODAY).unwrap();
    // A client of the first day and one that knows the first state.
    find(&repository, MemoryStore::default(), &anchor, "os/base/1/manifest.json");
    let (store, _) = find(&repository, store, &anchor, "os/base/1/manifest.json");
    assert!(store.0.contains_key("root_history/2.root.json"));

    // Other holders for the os bundles: the role is signed anew by them.
    let mut holders_of = policy().delegations;
    holders_of.insert(Kind::Os, holders(&[31, 32], 2));
    repository.stage_delegations(&holders_of, TODAY).unwrap();
    repository.renew(&Role::named("os"), TODAY).unwrap();
    for n in [6, 7, 31, 32] {
        repository.sign(&key(n)).unwrap();
    }
    repository.publish(&key(9), &key(23), TODAY).unwrap();
    find(&repository, store, &anchor, "os/base/1/manifest.json");
}

#[test]
fn the_online_machine_refreshes_without_offline_keys() {
    let dir = tempfile::tempdir().unwrap();
    let repository = published(dir.path());
    let before = repository.timestamp_expires().unwrap();
    assert_eq!(repository.refresh(Some(&key(9)), &key(10), TODAY.plus_days(1)).unwrap(), ["timestamp.json"]);
    assert!(repository.timestamp_expires().unwrap() > before);
    // Past half a snapshot's life there is a new one as well.
    let written = repository.refresh(Some(&key(9)), &key(10), TODAY.plus_days(20)).unwrap();
    assert_eq!(written, ["2.snapshot.json", "timestamp.json"]);
    assert_eq!(repository.refresh(None, &key(10), TODAY.plus_days(21)).unwrap(), ["timestamp.json"]);
    // A stolen or mistaken key does no harm.
    assert!(matches!(
        repository.refresh(None, &key(77), TODAY.plus_days(21)).unwrap_err(),
        RepositoryError::Refused(_)
    ));
}

#[test]
fn thresholds_that_cannot_be_reached_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::at(dir.path(), Lifetimes::default());
    for root in [holders(&[1, 2], 3), holders(&[1], 0), holders(&[1, 1, 1], 3), holders(&[], 1)] {
        let policy = Policy { root, ..policy() };
        assert!(matches!(repository.init(&policy, TODAY).unwrap_err(), RepositoryError::Holders { .. }));
    }
    let _ = SigningKey::generate().unwrap();
    assert!(matches!(repository.root().unwrap_err(), RepositoryError::NoRepository(_)));
    let _: BTreeMap<Kind, Holders> = policy().delegations;
}
