//! What has no end, and who speaks for what.

use std::collections::BTreeMap;

use cairn_bundle::tuf::metadata::{Delegations, Role, Targets};
use cairn_bundle::tuf::{Answer, Limits, MemoryStore, Step, TufError, Updater};

use crate::common::{MANIFEST, Part, Sim, TODAY, delegation, keys, target};
use crate::{refused, updated};

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
