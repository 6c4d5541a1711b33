//! A byte flipped in what the controller serves, and a controller that is cut off while it serves.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use cairn_bundle::caibx::Index;
use cairn_bundle::store::Store;
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::stage::Stage;

use crate::bench::{PLAN, Site, flip};
use crate::common::{Node, wait_until};

/// One file damaged, refused, put back, fetched.
fn one_byte(folder: &str, end: &str, code: &str) {
    let site = Site::new(PLAN);
    let path = site.file(folder, end);
    let good = fs::read(&path).unwrap();
    flip(&path);
    let node = site.started("S1");
    site.refused(&node, "n1", code);
    assert!(!node.run("data/layers").exists() || fs::read_dir(node.run("data/layers")).unwrap().count() == 0);
    fs::write(&path, good).unwrap();
    site.goes_on(&node);
}

#[test]
fn a_flipped_byte_in_a_chunk() {
    one_byte("chunks.castr", ".cacnk", "chunk-corrupt");
}

#[test]
fn a_flipped_byte_in_an_index() {
    one_byte("indexes", ".caibx", "index-corrupt");
}

#[test]
fn a_flipped_byte_in_a_manifest() {
    one_byte("targets", ".manifest.json", "manifest-corrupt");
}

#[test]
fn a_flipped_byte_in_metadata() {
    for (end, codes) in [
        (".os.json", &["metadata-mix"][..]),
        (".snapshot.json", &["metadata-mix"]),
        // In the middle of the timestamp are a key's id, a signature or what is signed, by the luck of its lengths.
        ("timestamp.json", &["metadata-forged", "metadata-malformed"]),
    ] {
        let site = Site::new(PLAN);
        let path = site.file("metadata", end);
        let good = fs::read(&path).unwrap();
        flip(&path);
        let node = site.started("S1");
        let code = wait_until("a refusal", || codes.iter().find(|code| said(&node, code)));
        site.refused(&node, "n1", code);
        fs::write(&path, good).unwrap();
        site.goes_on(&node);
    }
}

fn said(node: &Node, wanted: &str) -> bool {
    use cairn_protocol::console::Said;
    node.has_said(|line| matches!(&line.said, Said::Refused { code, .. } if code == wanted))
}

/// The chunks that a node has of the one component that it fetches.
fn present(node: &Node) -> Option<(BTreeSet<Sha256Digest>, usize)> {
    let first = |folder: &str, end: &str| -> Option<PathBuf> {
        let entries = fs::read_dir(node.run(folder)).ok()?.flatten();
        entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|own| own == end))
    };
    let index = Index::parse(fs::read(first("data/indexes", "caibx")?).ok()?).ok()?;
    let part = File::open(first("data/partial", "part")?).ok()?;
    let there = index.entries().filter_map(|entry| {
        let mut bytes = vec![0; entry.length as usize];
        part.read_exact_at(&mut bytes, entry.offset).ok()?;
        (Sha256Digest::of(&bytes) == entry.id).then_some(entry.id)
    });
    Some((there.collect(), index.len()))
}

/// What came before the cut is not asked for again: it is not even there to be had.
#[test]
fn a_controller_cut_off_while_chunks_flow() {
    let mut site = Site::new(PLAN);
    let mut node = site.node("S1");
    node.start(&["--until", "verify", "--rate", "400000"]);
    wait_until("some chunks", || present(&node).filter(|(there, _)| there.len() >= 3));
    site.controller.kill();
    let reason = node.wait_waiting(Stage::Fetch);
    let (there, all) = present(&node).unwrap();
    assert!(there.len() < all, "{} of {all} chunks: the cut came too late; {reason}", there.len());
    let store = Store::open(&site.repo().join("chunks.castr")).unwrap();
    for id in &there {
        fs::remove_file(store.path(id)).unwrap();
    }
    site.controller.start();
    node.wait_done(Stage::Verify);
    site.installed(&node, "good.erofs");
}

/// The same for a worker that is killed in the middle: the next one goes on where it was.
#[test]
fn a_worker_killed_while_chunks_flow() {
    let site = Site::new(PLAN);
    let mut node = site.node("S1");
    node.start(&["--until", "verify", "--rate", "400000"]);
    wait_until("some chunks", || present(&node).filter(|(there, _)| there.len() >= 3));
    node.kill();
    let (there, all) = present(&node).unwrap();
    assert!(there.len() < all, "{} of {all} chunks: the cut came too late", there.len());
    let store = Store::open(&site.repo().join("chunks.castr")).unwrap();
    for id in &there {
        fs::remove_file(store.path(id)).unwrap();
    }
    node.start(&["--until", "verify"]);
    node.wait_done(Stage::Verify);
    site.installed(&node, "good.erofs");
}
