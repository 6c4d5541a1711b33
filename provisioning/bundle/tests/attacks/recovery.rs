//! Keys that are lost, and what a client keeps.

use cairn_bundle::tuf::metadata::{Delegations, Role};
use cairn_bundle::tuf::offline::Installed;
use cairn_bundle::tuf::{Limits, MemoryStore, MetadataStore as _, TufError, Updater};

use crate::common::{MANIFEST, Part, Sim, TODAY, delegation, keys, roles, stored};
use crate::{refused, updated};

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
