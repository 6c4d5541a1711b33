use cairn_bundle::manifest::Kind;
use cairn_bundle::tuf::metadata::Role;
use cairn_bundle::tuf::offline::Installed;
use cairn_bundle::tuf::repository::{Holders, Lifetimes, Policy, Repository};
use cairn_bundle::tuf::signing::SigningKey;
use cairn_bundle::tuf::{Date, DirStore, Limits, Request, Updater};
use cairn_protocol::signed::{ControllerKeys, Envelope};

use super::*;

fn generation(payload: &str, installed: u64) -> Generation {
    let assignment = Envelope { payload: payload.to_owned(), signature: String::new() };
    let keys = ControllerKeys { ca_spki: String::new(), payload: String::new(), signature: String::new() };
    Generation {
        version: 1,
        id: generation::id_of(&assignment),
        keys,
        assignment,
        installed,
        manifests: vec!["os/base/1.0/manifest.json".to_owned()],
    }
}

struct State {
    dir: tempfile::TempDir,
    store: Store,
}

impl State {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tuf")).unwrap();
        fs::write(dir.path().join("tuf/1.root.json"), b"{}").unwrap();
        fs::write(dir.path().join("tuf/lock"), b"").unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self { dir, store }
    }

    fn stage(&self, payload: &str, installed: u64) -> String {
        let generation = generation(payload, installed);
        self.store.stage(&generation, &[b"manifest".to_vec()], &self.dir.path().join("tuf"), 2).unwrap();
        generation.id
    }

    fn ids(&self) -> Vec<String> {
        self.store.list().unwrap().stored.into_iter().map(|stored| stored.generation.id).collect()
    }
}

#[test]
fn a_generation_is_read_back_whole() {
    let state = State::new();
    let id = state.stage("a", 1);
    let stored = state.store.get(&id).unwrap();
    assert_eq!(stored.generation, generation("a", 1));
    assert_eq!(stored.status, GenerationStatus { phase: Phase::Staged, tries_left: 2, reason: None });
    let manifest = stored.dir.join(format!("manifests/{}.json", Sha256Digest::of(b"manifest")));
    assert_eq!(fs::read(manifest).unwrap(), b"manifest");
    assert_eq!(names(&stored.dir.join("tuf")).unwrap(), ["1.root.json"]);
}

fn holders(seeds: &[u8], threshold: u32) -> Holders {
    Holders { keys: seeds.iter().map(|n| key(*n).public()).collect(), threshold }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

#[test]
fn a_generation_of_rotated_root_keys_verifies_offline() {
    // A repository whose root keys changed twice after the image was built.
    let (dir, now) = (tempfile::tempdir().unwrap(), Date::now());
    let repository = Repository::at(dir.path(), Lifetimes::default());
    let policy = Policy {
        root: holders(&[1, 2, 3], 2),
        targets: holders(&[6], 1),
        snapshot: holders(&[9], 1),
        timestamp: holders(&[10], 1),
        delegations: Kind::ALL.into_iter().zip(11..).map(|(kind, n)| (kind, holders(&[n], 1))).collect(),
        lifetimes: Lifetimes::default(),
    };
    repository.init(&policy, now).unwrap();
    let path = "os/base/1.0.0/manifest.json";
    repository.stage_target(Kind::Os, path, b"manifest", now).unwrap();
    for n in [1, 2, 6, 11, 12, 13, 14] {
        repository.sign(&key(n)).unwrap();
    }
    repository.publish(&key(9), &key(10), now).unwrap();
    let image_root = repository.root().unwrap();
    for (before, after, timestamp) in [([1_u8, 2], [2, 3, 21], 23), ([2, 3], [3, 21, 22], 24)] {
        let change = [(Role::Root, holders(&after, 2)), (Role::Timestamp, holders(&[timestamp], 1))];
        repository.stage_root(&change, now).unwrap();
        for n in before.into_iter().chain(after) {
            // A key of both signs once.
            let _ = repository.sign(&key(n));
        }
        repository.publish(&key(9), &key(timestamp), now).unwrap();
    }
    // A node with that image fetches and exports, as the agent does.
    let node = tempfile::tempdir().unwrap();
    let kept = DirStore::open(&node.path().join("kept")).unwrap();
    let mut updater = Updater::open(kept, Some(&image_root), now, Limits::default()).unwrap();
    let fetch = |request: &Request| match fs::read(repository.metadata_dir().join(&request.path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let step = updater.refresh();
    updater.run(step, fetch).unwrap();
    let step = updater.lookup(path);
    updater.run(step, fetch).unwrap();
    let tuf = node.path().join("export");
    updater.export(&mut DirStore::open(&tuf).unwrap()).unwrap();
    assert_eq!(names(&tuf.join(HISTORY)).unwrap(), ["2.root.json", "3.root.json"]);

    let store = Store::open(node.path()).unwrap();
    let generation = generation("a", 1);
    store.stage(&generation, &[b"manifest".to_vec()], &tuf, 2).unwrap();
    let stored = store.get(&generation.id).unwrap().dir.join("tuf");
    let verify = || {
        let mut installed =
            Installed::open(DirStore::open(&stored).unwrap(), &image_root, Limits::default())?;
        installed.verify(path, b"manifest")
    };
    verify().unwrap();
    // Without the chain of roots nothing hangs on the image's own.
    fs::remove_dir_all(stored.join(HISTORY)).unwrap();
    verify().unwrap_err();
}

#[test]
fn too_much_metadata_is_not_staged() {
    let state = State::new();
    let history = state.dir.path().join("tuf").join(HISTORY);
    fs::create_dir(&history).unwrap();
    for n in 0..METADATA_FILES {
        fs::write(history.join(format!("{n}.root.json")), b"{}").unwrap();
    }
    let tuf = state.dir.path().join("tuf");
    let error = state.store.stage(&generation("a", 1), &[], &tuf, 2).unwrap_err().to_string();
    assert!(error.contains("512 metadata files"), "{error}");
    assert!(state.ids().is_empty());
}

#[test]
fn a_life() {
    let state = State::new();
    let id = state.stage("a", 1);
    let phase = |phase, tries_left| GenerationStatus { phase, tries_left, reason: None };
    assert_eq!(state.store.count_try(&id).unwrap(), 1);
    assert_eq!(state.store.status(&id).unwrap(), phase(Phase::Trying, 1));
    assert_eq!(state.store.count_try(&id).unwrap(), 0);
    assert!(state.store.count_try(&id).is_err());
    state.store.fail(&id, "no network\nat all").unwrap();
    assert_eq!(state.store.status(&id).unwrap().reason.as_deref(), Some("no network at all"));
    assert!(state.store.count_try(&id).is_err());
    // Assigned again, it is tried again.
    state.stage("a", 1);
    assert_eq!(state.store.status(&id).unwrap(), phase(Phase::Staged, 2));
    state.store.commit(&id).unwrap();
    assert_eq!(state.store.status(&id).unwrap(), phase(Phase::Committed, 0));
    // A committed one is neither counted nor staged anew.
    assert_eq!(state.store.count_try(&id).unwrap(), 0);
    state.stage("a", 1);
    assert_eq!(state.store.status(&id).unwrap(), phase(Phase::Committed, 0));
}

#[test]
fn what_was_never_finished_is_gone_and_what_is_damaged_is_told() {
    let state = State::new();
    let id = state.stage("a", 1);
    let dir = state.dir.path().join(DIRECTORY);
    fs::create_dir(dir.join(".new-0000000000000000")).unwrap();
    let other = state.stage("b", 2);
    fs::write(dir.join(&other).join("generation.json"), b"{").unwrap();
    let moved = dir.join("00000000000000aa");
    fs::create_dir(&moved).unwrap();
    fs::copy(dir.join(&id).join("generation.json"), moved.join("generation.json")).unwrap();
    let store = Store::open(state.dir.path()).unwrap();
    assert!(!dir.join(".new-0000000000000000").exists());
    let Listing { stored: good, damaged } = store.list().unwrap();
    assert_eq!(good.len(), 1);
    assert_eq!(damaged.len(), 2);
    assert!(damaged.iter().any(|(id, why)| *id == other && why.contains("generation.json")), "{damaged:?}");
    assert!(
        damaged.iter().any(|(_, why)| why.contains("in the directory of 00000000000000aa")),
        "{damaged:?}"
    );
}

#[test]
fn an_id_cannot_leave_the_store() {
    let state = State::new();
    for id in ["", "..", "../../etc", "0123456789abcdeF", "0123456789abcdef0"] {
        assert!(state.store.get(id).is_err() && state.store.commit(id).is_err(), "{id:?}");
    }
}

#[test]
fn the_running_the_last_good_and_the_last_failed_stay() {
    let state = State::new();
    let ids: Vec<String> = (0..6).map(|n| state.stage(&n.to_string(), n)).collect();
    for id in &ids[..3] {
        state.store.commit(id).unwrap();
    }
    for id in &ids[3..5] {
        state.store.fail(id, "x").unwrap();
    }
    let mut removed = state.store.collect(&[&ids[5]]).unwrap();
    removed.sort();
    let mut expected = vec![ids[0].clone(), ids[1].clone(), ids[3].clone()];
    expected.sort();
    assert_eq!(removed, expected);
    assert_eq!(state.ids(), [ids[5].clone(), ids[4].clone(), ids[2].clone()]);
    // The newest good one is the running one: the one before it stays to fall back to.
    let state = State::new();
    let ids: Vec<String> = (0..3).map(|n| state.stage(&n.to_string(), n)).collect();
    for id in &ids {
        state.store.commit(id).unwrap();
    }
    assert_eq!(state.store.collect(&[&ids[2]]).unwrap(), [ids[0].clone()]);
}

#[test]
fn components_that_nobody_names_go() {
    let data = tempfile::tempdir().unwrap();
    let (kept, gone) = (Sha256Digest::of(b"1"), Sha256Digest::of(b"2"));
    let files = [
        ("layers", ".erofs"),
        ("layers", ".verity"),
        ("ukis", ".efi"),
        ("images", ""),
        ("indexes", ".caibx"),
        ("partial", ".part"),
    ];
    for (dir, suffix) in files {
        fs::create_dir_all(data.path().join(dir)).unwrap();
        for stem in [kept.to_string(), gone.to_string(), "other".to_owned()] {
            fs::write(data.path().join(dir).join(format!("{stem}{suffix}")), b"").unwrap();
        }
    }
    let removed = collect_components(data.path(), &[kept]).unwrap();
    assert_eq!(removed, files.iter().map(|(_, suffix)| format!("{gone}{suffix}")).collect::<Vec<_>>());
    for (dir, suffix) in &files {
        let mut left = [format!("{kept}{suffix}"), format!("other{suffix}")];
        left.sort();
        let mut found = names(&data.path().join(dir)).unwrap();
        found.retain(|name| name.ends_with(suffix));
        assert_eq!(found, left, "{dir}");
    }
    assert!(collect_components(&data.path().join("none"), &[]).unwrap().is_empty());
}
