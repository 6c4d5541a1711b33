//! A component's way: cut into a store, put together again, from nothing, from an older one, after a cut.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;

use cairn_bundle::Sha256Digest;
use cairn_bundle::assemble::{AssembleError, Assembly, Verity, Whole};
use cairn_bundle::publish::{self, Options, Published};
use cairn_bundle::store::Store;
use cairn_bundle::verity;

/// Half noise, half text, as images are; a whole number of blocks.
fn image(blocks: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    (0..blocks * 512)
        .flat_map(|n| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            if (n / 8192) % 2 == 0 { x.to_le_bytes() } else { ((n / 3) as u64).to_le_bytes() }
        })
        .collect()
}

fn options() -> Options {
    Options { level: 1, ..Options::default() }
}

fn publish(dir: &Path, name: &str, bytes: &[u8]) -> (Store, Published) {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    let store = Store::open(&dir.join("chunks.castr")).unwrap();
    let mut last = 0;
    let published = publish::component(&path, &store, &options(), &mut |progress| {
        assert!(progress.bytes > last);
        last = progress.bytes;
    })
    .unwrap();
    assert_eq!((last, published.length), (bytes.len() as u64, bytes.len() as u64));
    (store, published)
}

fn feed_all(assembly: &mut Assembly, store: &Store) -> u64 {
    // Backwards, so that the follower has to wait.
    let mut missing: Vec<_> = assembly.plan().missing().collect();
    missing.reverse();
    missing.iter().map(|m| assembly.feed(&m.id, &store.read_frame(&m.id).unwrap().unwrap()).unwrap()).sum()
}

#[test]
fn from_nothing_with_digest_and_verity() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(1000, 5);
    let (store, published) = publish(dir.path(), "image", &bytes);
    let reference = File::create(dir.path().join("reference")).unwrap();
    let root = verity::format(&mut &bytes[..], bytes.len() as u64, &[9; 32], &reference).unwrap();

    let tree = dir.path().join("tree");
    let whole = Whole {
        sha256: true,
        verity: Some(Verity { salt: vec![9; 32], tree: File::create(&tree).unwrap() }),
    };
    let out = dir.path().join("out");
    let mut assembly = Assembly::open(&out, published.index, whole).unwrap();
    assert_eq!(feed_all(&mut assembly, &store), bytes.len() as u64);
    let result = assembly.finish_as(Some(&published.sha256), Some(&root)).unwrap();
    assert_eq!((result.sha256, result.verity_root), (Some(Sha256Digest::of(&bytes)), Some(root)));
    assert!(std::fs::read(&out).unwrap() == bytes);
    assert!(std::fs::read(&tree).unwrap() == std::fs::read(dir.path().join("reference")).unwrap());
}

#[test]
fn the_same_index_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, image(800, 3)).unwrap();
    let indexes: Vec<_> = [1, 2, 5]
        .iter()
        .map(|threads| {
            let store = Store::open(&dir.path().join(format!("store-{threads}"))).unwrap();
            let options = Options { threads: std::num::NonZeroUsize::new(*threads).unwrap(), ..options() };
            let published = publish::component(&path, &store, &options, &mut |_| {}).unwrap();
            assert_eq!(published.progress.new_chunks, store.ids().unwrap().len() as u64);
            published.index
        })
        .collect();
    assert!(indexes.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn an_update_takes_most_from_the_older_component() {
    let dir = tempfile::tempdir().unwrap();
    let old_bytes = image(2000, 7);
    let mut new_bytes = old_bytes.clone();
    new_bytes.splice(1_000_000..1_000_000, image(10, 99));
    let (_, old) = publish(dir.path(), "old", &old_bytes);
    let (store, new) = publish(dir.path(), "new", &new_bytes);
    assert!(new.progress.new_chunks <= 4, "{:?}", new.progress);

    let out = dir.path().join("out");
    let mut assembly = Assembly::open(&out, new.index, Whole { sha256: true, verity: None }).unwrap();
    let taken = assembly.reuse_file(&File::open(dir.path().join("old")).unwrap(), &old.index).unwrap();
    assert!(taken > 6_000_000, "{taken}");
    let fed = feed_all(&mut assembly, &store);
    assert_eq!(taken + fed, new_bytes.len() as u64);
    assembly.finish_as(Some(&new.sha256), None).unwrap();
    assert!(std::fs::read(&out).unwrap() == new_bytes);
}

#[test]
fn a_damaged_older_component_gives_only_what_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(1000, 11);
    let (store, published) = publish(dir.path(), "old", &bytes);
    let mut damaged = bytes.clone();
    for at in [0, 1_500_000, bytes.len() - 1] {
        damaged[at] ^= 1;
    }
    damaged.truncate(bytes.len() - 300_000);
    std::fs::write(dir.path().join("old"), &damaged).unwrap();
    let out = dir.path().join("out");
    let index = published.index.clone();
    let mut assembly = Assembly::open(&out, index, Whole { sha256: true, verity: None }).unwrap();
    assembly.reuse_file(&File::open(dir.path().join("old")).unwrap(), &published.index).unwrap();
    assert!(assembly.plan().missing_chunks() >= 3);
    assembly.reuse_store(&store).unwrap();
    assembly.finish_as(Some(&published.sha256), None).unwrap();
    assert!(std::fs::read(&out).unwrap() == bytes);
}

#[test]
fn after_a_power_cut_only_whole_chunks_count() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(1000, 13);
    let (store, published) = publish(dir.path(), "image", &bytes);
    let out = dir.path().join("out");
    for cut_after in 0..4 {
        let _ = std::fs::remove_file(&out);
        let mut assembly = Assembly::open(&out, published.index.clone(), Whole::default()).unwrap();
        let missing: Vec<_> = assembly.plan().missing().collect();
        for m in missing.iter().take(cut_after * 10) {
            assembly.feed(&m.id, &store.read_frame(&m.id).unwrap().unwrap()).unwrap();
        }
        let done = assembly.plan().done_bytes();
        drop(assembly);
        // A block that the disk never got, and a file that ends early.
        use std::os::unix::fs::FileExt as _;
        let file = File::options().write(true).open(&out).unwrap();
        file.write_all_at(&[0; 4096], 8192).unwrap();
        file.set_len(bytes.len() as u64 - 10_000).unwrap();

        let whole = Whole { sha256: true, verity: None };
        let mut assembly = Assembly::open(&out, published.index.clone(), whole).unwrap();
        if cut_after > 0 {
            let resumed = assembly.plan().done_bytes();
            assert!(resumed < done && resumed + 300_000 > done, "{resumed} of {done}");
        }
        feed_all(&mut assembly, &store);
        assembly.finish_as(Some(&published.sha256), None).unwrap();
        assert!(std::fs::read(&out).unwrap() == bytes);
    }
}

#[test]
fn hostile_seeds_are_named_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(300, 17);
    let (store, published) = publish(dir.path(), "image", &bytes);
    let out = dir.path().join("out");
    let mut assembly = Assembly::open(&out, published.index, Whole { sha256: true, verity: None }).unwrap();
    let missing: Vec<_> = assembly.plan().missing().collect();
    let frame = |n: usize| store.read_frame(&missing[n].id).unwrap().unwrap();
    assert!(matches!(assembly.feed(&missing[0].id, &frame(1)).unwrap_err(), AssembleError::Chunk(_)));
    assert!(matches!(assembly.feed(&missing[0].id, &[]).unwrap_err(), AssembleError::Chunk(_)));
    assert!(matches!(assembly.feed(&missing[0].id, &vec![0; 1 << 20]).unwrap_err(), AssembleError::Chunk(_)));
    let foreign = Sha256Digest::of(b"foreign");
    assert!(matches!(assembly.feed(&foreign, &frame(0)).unwrap_err(), AssembleError::Foreign(_)));
    assert_eq!(assembly.plan().done_bytes(), 0);
    feed_all(&mut assembly, &store);
    assert_eq!(assembly.feed(&missing[0].id, &frame(0)).unwrap(), 0, "a second time");
    let error = assembly.finish_as(Some(&foreign), None).unwrap_err();
    assert!(error.to_string().contains("its manifest says"), "{error}");
}

#[test]
fn an_unfinished_assembly_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (_, published) = publish(dir.path(), "image", &image(300, 19));
    let chunks = published.index.len();
    let whole = Whole { sha256: true, verity: None };
    let assembly = Assembly::open(&dir.path().join("out"), published.index, whole).unwrap();
    assert!(matches!(assembly.finish().unwrap_err(), AssembleError::Incomplete(n) if n == chunks));
}
