//! Somebody else's bytes, signatures and keys.

use cairn_bundle::tuf::signing::Document;
use cairn_bundle::tuf::{MemoryStore, Mismatch, TufError};

use crate::common::{MANIFEST, Sim, TODAY, roles};
use crate::{refused, updated};

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
    let mut object = serde_json::to_value(crate::common::key(10).public().object()).unwrap();
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
    let wrong = serde_json::to_value(crate::common::key(20).public().object()).unwrap();
    *sim.root.body.keys.get_mut(&crate::common::key(10).id()).unwrap() = wrong;
    sim.put_root();
    refused(&mut sim, &store, "metadata-malformed", "not the key that its id says");
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
