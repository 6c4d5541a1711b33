//! What an attacker who holds the network, a mirror or some keys can try (specification, 1.5.2), and what is said of it.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use cairn_bundle::tuf::metadata::{Delegations, Role, Targets};
use cairn_bundle::tuf::offline::Installed;
use cairn_bundle::tuf::signing::Document;
use cairn_bundle::tuf::{Answer, Limits, MemoryStore, MetadataStore as _, Mismatch, Step, TufError, Updater};
use common::{MANIFEST, Part, Sim, TODAY, delegation, keys, roles, stored, target};

fn updated(sim: &mut Sim) -> MemoryStore {
    let mut store = MemoryStore::default();
    sim.update(&mut store, TODAY, MANIFEST).unwrap();
    store
}

/// The update fails with `code`, says `needle`, and a later honest update works.
fn refused(attack: &mut Sim, store: &MemoryStore, code: &str, needle: &str) -> TufError {
    let mut after = store.clone();
    let error = attack.update(&mut after, TODAY, MANIFEST).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.code(), code, "{message}");
    assert!(message.contains(needle), "{message}");
    assert!(!message.contains('\n') && message.len() < 400, "one clear line: {message}");
    error
}

#[test]
fn an_honest_repository() {
    let mut sim = Sim::new();
    let mut store = updated(&mut sim);
    let first = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.os.json"];
    assert_eq!(sim.requests, first);
    sim.requests.clear();
    sim.update(&mut store, TODAY, MANIFEST).unwrap();
    assert_eq!(sim.requests, ["2.root.json", "timestamp.json"], "nothing is fetched twice");
    sim.release(b"manifest 2");
    let found = sim.update(&mut store, TODAY, MANIFEST).unwrap();
    assert_eq!((found.role.name(), found.role_version), ("os", 2));
    assert!(found.request.starts_with("os/base/1.0.0/") && found.request.ends_with(".manifest.json"));
    found.verify(b"manifest 2").unwrap();
}

#[test]
fn arbitrary_installation() {
    let mut sim = Sim::new();
    let found = sim.update(&mut MemoryStore::default(), TODAY, MANIFEST).unwrap();
    let error = found.verify(b"manifest X").unwrap_err();
    assert!(matches!(&error, TufError::Target { mismatch: Mismatch::Hash { .. }, .. }), "{error}");
    let error = found.verify(b"manifest 1, and more").unwrap_err();
    assert!(matches!(&error, TufError::Target { mismatch: Mismatch::Length { .. }, .. }), "{error}");
    let error = sim.update(&mut MemoryStore::default(), TODAY, "os/other/1/manifest.json").unwrap_err();
    assert!(matches!(error, TufError::UnknownTarget { .. }));
}

#[test]
fn forged_signatures_of_each_role() {
    let mut honest = Sim::new();
    let store = updated(&mut honest);
    // Each role signed by a key that is not its own, in a repository that is otherwise whole.
    type Forge = fn(&mut Sim);
    let forge: [(&str, Forge); 5] = [
        ("root 2 is signed by 2 of the 3 keys that root 1", |s| {
            s.root.version = 2;
            s.root.signers = vec![1, 2, 20, 21];
            s.put_root();
        }),
        ("timestamp 2 is signed by 0 of the 1", |s| {
            s.timestamp.signers = vec![20];
            s.bump();
        }),
        ("snapshot 2 is signed by 0 of the 1", |s| {
            s.snapshot.signers = vec![10];
            s.bump();
        }),
        ("targets 2 is signed by 1 of the 2", |s| {
            s.targets.version = 2;
            s.targets.signers = vec![6, 9];
            s.put_targets();
            s.bump();
        }),
        ("os 2 is signed by 0 of the 1 keys that targets 1", |s| {
            s.os.signers = vec![6, 7, 8];
            s.release(b"evil");
        }),
    ];
    for (needle, forge) in forge {
        let mut sim = honest.clone();
        forge(&mut sim);
        refused(&mut sim, &store, "metadata-forged", needle);
    }
}

#[test]
fn a_flipped_byte_anywhere_in_any_role() {
    let honest = Sim::new();
    for file in honest.files.keys().filter(|file| *file != "1.root.json") {
        let length = honest.files[file].len();
        for at in (0..length).step_by(17) {
            let mut sim = honest.clone();
            sim.files.get_mut(file).unwrap()[at] ^= 1;
            // White space and an unneeded signature may change; what is trusted may not.
            if let Ok(found) = sim.update(&mut MemoryStore::default(), TODAY, MANIFEST) {
                found.verify(b"manifest 1").unwrap();
            }
        }
    }
}

#[test]
fn a_threshold_is_of_different_keys() {
    let mut sim = Sim::new();
    let store = updated(&mut sim);
    // The same key under the same id, many times.
    let mut twice = sim.clone();
    twice.targets.version = 2;
    twice.targets.signers = vec![6];
    twice.put_targets();
    let mut document = Document::read(&twice.files["2.targets.json"]).unwrap();
    let signature = document.signatures[0].clone();
    document.signatures.push(signature);
    twice.files.insert("2.targets.json".to_owned(), document.to_bytes());
    twice.snapshot.body.meta.get_mut("targets.json").unwrap().hashes = None;
    twice.snapshot.body.meta.get_mut("targets.json").unwrap().length = None;
    twice.bump();
    refused(&mut twice, &store, "metadata-malformed", "signs it twice");

    // The same key id listed many times for the role.
    let mut listed = sim.clone();
    listed.root.version = 2;
    listed.root.body.roles.insert("timestamp".to_owned(), roles(&[10, 10, 10], 2));
    listed.put_root();
    refused(&mut listed, &store, "metadata-forged", "timestamp 1 is signed by 1 of the 2 keys that root 2");

    // The same key under two ids: an extra field makes another id of it.
    let mut alias = sim.clone();
    let mut object = serde_json::to_value(common::key(10).public().object()).unwrap();
    object["x"] = 1.into();
    let canonical = cairn_bundle::tuf::canonical::encode(&object).unwrap();
    let id = cairn_bundle::Sha256Digest::of(&canonical).to_string();
    alias.root.version = 2;
    alias.root.body.keys.insert(id.clone(), object);
    alias.root.body.roles.get_mut("timestamp").unwrap().keyids.push(id.clone());
    alias.root.body.roles.get_mut("timestamp").unwrap().threshold = 2;
    alias.put_root();
    alias.bump();
    let mut document = Document::read(&alias.files["timestamp.json"]).unwrap();
    let mut again = document.signatures[0].clone();
    again.keyid = id;
    document.signatures.push(again);
    alias.files.insert("timestamp.json".to_owned(), document.to_bytes());
    refused(&mut alias, &store, "metadata-forged", "signed by 1 of the 2");
}

#[test]
fn a_key_must_have_the_id_it_goes_by() {
    let mut sim = Sim::new();
    let store = updated(&mut sim);
    sim.root.version = 2;
    let wrong = serde_json::to_value(common::key(20).public().object()).unwrap();
    *sim.root.body.keys.get_mut(&common::key(10).id()).unwrap() = wrong;
    sim.put_root();
    refused(&mut sim, &store, "metadata-malformed", "not the key that its id says");
}

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

#[test]
fn a_file_of_another_role_is_refused() {
    let mut sim = Sim::new();
    // One key for two roles: only the type tells them apart.
    sim.root.version = 2;
    sim.root.body.roles.insert("timestamp".to_owned(), roles(&[9], 1));
    sim.put_root();
    sim.files.insert("timestamp.json".to_owned(), sim.files["1.snapshot.json"].clone());
    refused(&mut sim, &MemoryStore::default(), "metadata-malformed", "of type");
}

#[test]
fn endless_data() {
    let mut sim = Sim::new();
    for (file, role) in [
        ("2.root.json", "root"),
        ("timestamp.json", "timestamp"),
        ("1.snapshot.json", "snapshot"),
        ("1.targets.json", "targets"),
        ("1.os.json", "os"),
    ] {
        let mut endless = sim.clone();
        endless.files.insert(file.to_owned(), vec![b' '; 2 << 20]);
        refused(&mut endless, &MemoryStore::default(), "answer-too-long", role);
    }
    // The caller stops at the limit and says so.
    let anchor = sim.anchor();
    let mut updater = Updater::open(MemoryStore::default(), Some(&anchor), TODAY, Limits::default()).unwrap();
    updater.refresh().unwrap();
    assert!(matches!(updater.feed(Answer::TooLong).unwrap_err(), TufError::TooLong { role: Role::Root, .. }));
    // Stated lengths are the limits that are asked for.
    updated(&mut sim);
}

#[test]
fn endless_roots() {
    let mut sim = Sim::new();
    for version in 2..=12 {
        sim.root.version = version;
        sim.put_root();
    }
    let limits = Limits { root_rotations: 5, ..Limits::default() };
    let anchor = sim.anchor();
    let mut updater = Updater::open(MemoryStore::default(), Some(&anchor), TODAY, limits).unwrap();
    let mut step = updater.refresh().unwrap();
    while let Step::Need(request) = step {
        if request.role != Role::Root {
            break;
        }
        step = updater.feed(Answer::Bytes(&sim.files[&request.path])).unwrap();
    }
    assert_eq!(updater.version(&Role::Root), Some(6));
}

#[test]
fn revoked_keys_sign_nothing_more() {
    let mut sim = Sim::new();
    let mut store = updated(&mut sim);
    // The release key was stolen: targets, 2-of-3, names another.
    sim.targets.version = 2;
    sim.targets.body.delegations = Some(Delegations {
        keys: keys(&[12]),
        roles: vec![delegation("os", &[12], &["os/*/*/manifest.json"], true)],
    });
    sim.put_targets();
    sim.bump();
    refused(&mut sim, &store, "metadata-forged", "os 1 is signed by 0 of the 1 keys that targets 2");
    sim.os.signers = vec![12];
    sim.release(b"manifest 2");
    sim.update(&mut store, TODAY, MANIFEST).unwrap();

    // The timestamp key was stolen: root, 3-of-5, names another.
    let thief = sim.clone();
    sim.root.version = 2;
    sim.root.body.keys.extend(keys(&[13]));
    sim.root.body.roles.insert("timestamp".to_owned(), roles(&[13], 1));
    sim.put_root();
    let mut attack = sim.clone();
    attack.timestamp = Part { version: 99, ..thief.timestamp };
    attack.put_timestamp();
    refused(&mut attack, &store, "metadata-forged", "timestamp 99");
    sim.timestamp.signers = vec![13];
    sim.bump();
    sim.update(&mut store, TODAY, MANIFEST).unwrap();
}

#[test]
fn fast_forward_is_recovered_from_by_rotation() {
    let mut sim = Sim::new();
    // The online keys were stolen, and everything is at the end of its numbers.
    let mut attack = sim.clone();
    attack.snapshot.version = i64::MAX as u64;
    attack.snapshot.body.meta.get_mut("os.json").unwrap().version = i64::MAX as u64;
    attack.put_snapshot();
    attack.timestamp.version = i64::MAX as u64;
    attack.put_timestamp();
    let mut store = updated(&mut sim);
    attack.update(&mut store, TODAY, MANIFEST).unwrap_err();
    assert_eq!(stored(&store, &Role::Timestamp), Some(i64::MAX as u64));

    // Honest metadata looks like a rollback now.
    sim.bump();
    refused(&mut sim, &store, "metadata-rollback", "timestamp 2 was offered");
    // New keys for both: what the old ones signed is forgotten.
    sim.root.version = 2;
    sim.root.body.keys.extend(keys(&[14, 15]));
    sim.root.body.roles.insert("snapshot".to_owned(), roles(&[14], 1));
    sim.root.body.roles.insert("timestamp".to_owned(), roles(&[15], 1));
    sim.put_root();
    (sim.snapshot.signers, sim.timestamp.signers) = (vec![14], vec![15]);
    sim.bump();
    sim.update(&mut store, TODAY, MANIFEST).unwrap();
    assert_eq!((stored(&store, &Role::Timestamp), stored(&store, &Role::Snapshot)), (Some(3), Some(3)));
}

#[test]
fn fast_forward_is_recovered_from_when_one_of_two_keys_goes() {
    // The key that stays signed the old file too, so only 5.3.11 forgets it.
    let mut sim = Sim::new();
    sim.root.body.roles.insert("timestamp".to_owned(), roles(&[10, 9], 1));
    sim.root.version = 1;
    sim.put_root();
    sim.timestamp.signers = vec![9, 10];
    sim.timestamp.version = 1000;
    sim.put_timestamp();
    let mut store = updated(&mut sim);
    sim.root.version = 2;
    sim.root.body.roles.insert("timestamp".to_owned(), roles(&[9], 1));
    sim.put_root();
    sim.timestamp.signers = vec![9];
    sim.timestamp.version = 2;
    sim.put_timestamp();
    sim.update(&mut store, TODAY, MANIFEST).unwrap();
    assert_eq!(stored(&store, &Role::Timestamp), Some(2));
    // A key that is added forgets nothing.
    sim.root.version = 3;
    sim.root.body.roles.insert("timestamp".to_owned(), roles(&[9, 10], 1));
    sim.put_root();
    sim.timestamp.version = 1;
    sim.put_timestamp();
    refused(&mut sim, &store, "metadata-rollback", "timestamp 1 was offered, 2 is trusted");
}

#[test]
fn stored_metadata_is_not_trusted_for_being_stored() {
    // An attacker with the disk plants a repository of his own, root and all.
    let mut evil = Sim::new();
    evil.root.body.keys = keys(&[21, 22, 23, 24]);
    for (n, role) in [(21, "root"), (22, "targets"), (23, "snapshot"), (24, "timestamp")] {
        evil.root.body.roles.insert(role.to_owned(), roles(&[n], 1));
    }
    evil.root.version = 2;
    (evil.root.signers, evil.targets.signers) = (vec![21], vec![22]);
    (evil.snapshot.signers, evil.timestamp.signers) = (vec![23], vec![24]);
    let mut store = MemoryStore::default();
    store.save("root.json", &evil.root.bytes("root")).unwrap();
    store.save("root_history/2.root.json", &evil.root.bytes("root")).unwrap();
    store.save("timestamp.json", &evil.timestamp.bytes("timestamp")).unwrap();

    let mut sim = Sim::new();
    sim.update(&mut store, TODAY, MANIFEST).unwrap();
    assert_eq!(stored(&store, &Role::Root), Some(1));
    assert_eq!(store.0["root.json"], sim.anchor());
}

#[test]
fn an_anchor_must_sign_itself() {
    let mut sim = Sim::new();
    sim.root.signers = vec![1, 2];
    sim.put_root();
    let anchor = sim.anchor();
    let error = Updater::open(MemoryStore::default(), Some(&anchor), TODAY, Limits::default()).unwrap_err();
    assert_eq!(error.code(), "metadata-forged");
    assert!(matches!(
        Updater::open(MemoryStore::default(), None, TODAY, Limits::default()).unwrap_err(),
        TufError::Missing { role: Role::Root, .. }
    ));
}

#[test]
fn cycles_and_crowds_of_delegations_end() {
    let mut sim = Sim::new();
    let link = |next: &str| Targets {
        targets: BTreeMap::new(),
        delegations: Some(Delegations {
            keys: keys(&[11]),
            roles: vec![delegation(next, &[11], &["*"], false)],
        }),
    };
    let part = |body| Part { body, version: 1, expires: TODAY.plus_days(1), signers: vec![11] };
    sim.targets.body = link("a");
    sim.put_targets();
    sim.put_delegated("a", &part(link("b")));
    sim.put_delegated("b", &part(link("a")));
    sim.bump();
    let error = sim.update(&mut MemoryStore::default(), TODAY, "x").unwrap_err();
    assert!(matches!(error, TufError::UnknownTarget { .. }), "{error}");

    let mut crowd = Sim::new();
    crowd.targets.body = link("r0");
    crowd.put_targets();
    for n in 0..100 {
        crowd.put_delegated(&format!("r{n}"), &part(link(&format!("r{}", n + 1))));
    }
    crowd.bump();
    let error = crowd.update(&mut MemoryStore::default(), TODAY, "x").unwrap_err();
    assert!(matches!(error, TufError::UnknownTarget { .. }), "{error}");
    let asked = crowd.requests.iter().filter(|path| path.starts_with("1.r")).count();
    assert_eq!(asked, Limits::default().delegations);
}

#[test]
fn a_delegate_speaks_only_for_its_paths() {
    let mut sim = Sim::new();
    sim.os.body.targets.insert("kubernetes/k/1/manifest.json".to_owned(), target(b"k"));
    sim.release(b"manifest 2");
    let error = sim.update(&mut MemoryStore::default(), TODAY, "kubernetes/k/1/manifest.json").unwrap_err();
    assert!(matches!(error, TufError::UnknownTarget { .. }), "{error}");
}

#[test]
fn a_terminating_delegation_ends_the_search() {
    let mut sim = Sim::new();
    let delegations = sim.targets.body.delegations.as_mut().unwrap();
    delegations.roles.push(delegation("later", &[11], &["os/*/*/manifest.json"], false));
    sim.targets.version = 2;
    sim.put_targets();
    let body = Targets {
        targets: BTreeMap::from([("os/x/1/manifest.json".to_owned(), target(b"x"))]),
        delegations: None,
    };
    sim.put_delegated("later", &Part { body, version: 1, expires: TODAY.plus_days(1), signers: vec![11] });
    sim.bump();
    let error = sim.update(&mut MemoryStore::default(), TODAY, "os/x/1/manifest.json").unwrap_err();
    assert!(matches!(error, TufError::UnknownTarget { .. }), "{error}");
    assert!(!sim.requests.contains(&"1.later.json".to_owned()));
}

#[test]
fn a_cut_at_any_request_leaves_a_client_that_goes_on() {
    let mut sim = Sim::new();
    let store = updated(&mut sim);
    sim.root.version = 2;
    sim.put_root();
    sim.targets.version = 2;
    sim.put_targets();
    sim.release(b"manifest 2");
    let wanted = ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "2.os.json"];
    for cut in 0..wanted.len() {
        let mut broken = sim.clone();
        wanted[cut..].iter().filter(|file| **file != "2.root.json").for_each(|file| {
            broken.files.remove(*file);
        });
        let mut after = store.clone();
        let error = broken.update(&mut after, TODAY, MANIFEST).unwrap_err();
        assert!(matches!(error, TufError::Missing { .. }), "{error}");
        sim.update(&mut after, TODAY, MANIFEST).unwrap().verify(b"manifest 2").unwrap();
    }
}

/// What a generation is kept with.
fn installed(sim: &mut Sim) -> (MemoryStore, Vec<u8>) {
    let anchor = sim.anchor();
    let mut updater = Updater::open(MemoryStore::default(), Some(&anchor), TODAY, Limits::default()).unwrap();
    let step = updater.refresh();
    let files = sim.files.clone();
    let fetch =
        |request: &cairn_bundle::tuf::Request| Ok::<_, std::io::Error>(files.get(&request.path).cloned());
    updater.run(step, fetch).unwrap();
    let step = updater.lookup(MANIFEST);
    updater.run(step, fetch).unwrap();
    let mut kept = MemoryStore::default();
    updater.export(&mut kept).unwrap();
    (kept, anchor)
}

#[test]
fn installed_content_is_checked_offline_and_does_not_expire() {
    let mut sim = Sim::new();
    sim.root.version = 2;
    sim.put_root();
    let (kept, anchor) = installed(&mut sim);
    let names: Vec<_> = kept.0.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "os.json",
            "root.json",
            "root_history/2.root.json",
            "snapshot.json",
            "targets.json",
            "timestamp.json"
        ]
    );
    let check = |kept: &MemoryStore, bytes: &[u8]| {
        Installed::open(kept.clone(), &anchor, Limits::default())?.verify(MANIFEST, bytes)
    };
    // Nothing here asks for a date.
    check(&kept, b"manifest 1").unwrap();
    assert_eq!(check(&kept, b"manifest X").unwrap_err().code(), "manifest-corrupt");

    for file in ["os.json", "snapshot.json", "targets.json", "timestamp.json"] {
        let mut without = kept.clone();
        without.0.remove(file);
        assert_eq!(check(&without, b"manifest 1").unwrap_err().code(), "metadata-missing", "{file}");
        let mut changed = kept.clone();
        let text = String::from_utf8(kept.0[file].clone()).unwrap();
        let text = text.replace("2026-12-23", "2027-12-23");
        changed.0.insert(file.to_owned(), text.into_bytes());
        let code = check(&changed, b"manifest 1").unwrap_err().code();
        assert!(["metadata-forged", "metadata-mix"].contains(&code), "{file}: {code}");
    }
    // Another repository's anchor.
    let mut other = Sim::new();
    other.root.body.keys.extend(keys(&[21, 22]));
    other.root.body.roles.insert("root".to_owned(), roles(&[21], 1));
    other.root.body.roles.insert("timestamp".to_owned(), roles(&[22], 1));
    other.root.signers = vec![21];
    other.put_root();
    let refused = Installed::open(kept, &other.anchor(), Limits::default()).err().unwrap();
    assert_eq!(refused.code(), "metadata-forged", "{refused}");
}
