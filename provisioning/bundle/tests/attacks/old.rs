//! Metadata that was right once.

use cairn_bundle::tuf::metadata::Role;
use cairn_bundle::tuf::{MemoryStore, TufError};

use crate::common::{MANIFEST, Sim, TODAY};
use crate::{refused, updated};

#[test]
fn expired_metadata_of_each_role() {
    let mut honest = Sim::new();
    let store = updated(&mut honest);
    let yesterday = cairn_bundle::tuf::Date(TODAY.0 - 86_400);
    type Expire = fn(&mut Sim, cairn_bundle::tuf::Date);
    let expire: [(&str, Expire); 5] = [
        ("root 2 ended at 2026-11-22T00:00:00Z", |s, day| {
            (s.root.version, s.root.expires) = (2, day);
            s.put_root();
        }),
        ("timestamp 2", |s, day| {
            s.timestamp.expires = day;
            s.bump();
        }),
        ("snapshot 2", |s, day| {
            s.snapshot.expires = day;
            s.bump();
        }),
        ("targets 2", |s, day| {
            (s.targets.version, s.targets.expires) = (2, day);
            s.put_targets();
            s.bump();
        }),
        ("os 2", |s, day| {
            s.os.expires = day;
            s.release(b"old");
        }),
    ];
    for (needle, expire) in expire {
        let mut sim = honest.clone();
        expire(&mut sim, yesterday);
        refused(&mut sim, &store, "metadata-expired", needle);
    }
}

#[test]
fn a_frozen_repository_is_noticed_when_its_timestamp_ends() {
    let mut sim = Sim::new();
    let mut store = updated(&mut sim);
    let last_second = cairn_bundle::tuf::Date(TODAY.plus_days(30).0 - 1);
    sim.update(&mut store, last_second, MANIFEST).unwrap();
    let error = sim.update(&mut store, TODAY.plus_days(30), MANIFEST).unwrap_err();
    assert_eq!(error.code(), "metadata-frozen", "{error}");
    // The root outlives it here; alone, the root's end is noticed as well.
    sim.timestamp.expires = TODAY.plus_days(90);
    sim.bump();
    let error = sim.update(&mut store, TODAY.plus_days(31), MANIFEST).unwrap_err();
    assert!(matches!(&error, TufError::Frozen { role: Role::Root, .. }), "{error}");
}

#[test]
fn rollback_of_each_role() {
    let mut sim = Sim::new();
    let old = sim.clone();
    sim.release(b"manifest 2");
    sim.targets.version = 2;
    sim.put_targets();
    sim.bump();
    let store = updated(&mut sim);

    let mut replay = sim.clone();
    replay.files.insert("timestamp.json".to_owned(), old.files["timestamp.json"].clone());
    refused(&mut replay, &store, "metadata-rollback", "timestamp 1 was offered, 3 is trusted");

    let mut snapshot = sim.clone();
    snapshot.snapshot.version = 1;
    snapshot.put_snapshot();
    snapshot.timestamp.version = 9;
    snapshot.put_timestamp();
    refused(&mut snapshot, &store, "metadata-rollback", "snapshot 1 was offered, 3 is trusted");

    // Somebody with the online keys serves an older release under a newer snapshot.
    let mut release = sim.clone();
    release.put_delegated("os", &old.os);
    release.bump();
    refused(&mut release, &store, "metadata-rollback", "os 1 was offered, 2 is trusted");

    let mut vanished = sim.clone();
    vanished.snapshot.body.meta.remove("os.json");
    vanished.bump();
    refused(&mut vanished, &store, "metadata-rollback", "no longer lists os");

    let mut root = sim.clone();
    root.files.insert("2.root.json".to_owned(), sim.files["1.root.json"].clone());
    refused(&mut root, &store, "metadata-rollback", "root 1 was offered, 1 is trusted");
}

#[test]
fn mix_and_match() {
    let mut sim = Sim::new();
    let old = sim.clone();
    sim.release(b"manifest 2");
    let none = MemoryStore::default();

    let mut snapshot = sim.clone();
    snapshot.files.insert("2.snapshot.json".to_owned(), old.files["1.snapshot.json"].clone());
    refused(&mut snapshot, &none, "metadata-mix", "snapshot is not the one that timestamp 2 names");

    let mut os = sim.clone();
    os.files.insert("2.os.json".to_owned(), old.files["1.os.json"].clone());
    refused(&mut os, &none, "metadata-mix", "os is not the one that snapshot 2 names");

    // Without digests in the snapshot, the version still tells.
    let mut bare = sim.clone();
    let meta = bare.snapshot.body.meta.get_mut("os.json").unwrap();
    (meta.length, meta.hashes) = (None, None);
    bare.bump();
    bare.files.insert("2.os.json".to_owned(), old.files["1.os.json"].clone());
    refused(&mut bare, &none, "metadata-mix", "it has version 1, 2 is expected");

    // A root that skips one.
    let mut root = sim.clone();
    root.root.version = 3;
    root.files.insert("2.root.json".to_owned(), root.root.bytes("root"));
    refused(&mut root, &none, "metadata-mix", "it has version 3, 2 is expected");

    let mut unlisted = sim.clone();
    unlisted.snapshot.body.meta.remove("os.json");
    unlisted.bump();
    refused(&mut unlisted, &none, "metadata-mix", "the snapshot does not list it");
}
