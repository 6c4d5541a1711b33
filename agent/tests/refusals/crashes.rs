//! A worker killed while it checks and while it writes a generation: the next one ends with the same generation, whole.

use std::fs;
use std::path::Path;

use cairn_disk::generation::Store;
use cairn_protocol::console::Said;
use cairn_protocol::generation::Phase;
use cairn_protocol::stage::Stage;

use crate::bench::{PLAN, Site};
use crate::common::{Node, PATIENCE};

/// Looks without a pause: what follows comes some milliseconds later.
fn at_once(what: &str, condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::yield_now();
    }
}

fn holds(dir: &Path, wanted: impl Fn(&str) -> bool) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| wanted(&entry.file_name().to_string_lossy()))
}

/// Runs it to its end: the generation is there whole, and nothing else is.
fn converges(site: &Site, node: &mut Node) {
    node.start(&[]);
    node.wait_for(
        "a staged generation",
        |line| matches!(&line.said, Said::Note(text) if text.contains("is staged, rebooting")),
    );
    let state = node.run("state");
    assert!(!holds(&state.join("generations"), |name| name.starts_with('.')), "a half-written one is left");
    let listing = Store::open(&state).unwrap().list().unwrap();
    assert_eq!((listing.stored.len(), &listing.damaged[..]), (1, &[][..]), "{listing:?}");
    let stored = &listing.stored[0];
    assert_eq!(stored.status.phase, Phase::Staged);
    assert!(holds(&stored.dir.join("manifests"), |name| name.ends_with(".json")));
    assert!(holds(&stored.dir.join("tuf"), |name| name.ends_with("targets.json")));
    site.installed(node, "good.erofs");
}

#[test]
fn a_worker_killed_while_it_verifies() {
    let site = Site::new(PLAN);
    let mut node = site.node("S1");
    node.start(&[]);
    node.wait_started(Stage::Verify);
    node.kill();
    converges(&site, &mut node);
}

#[test]
fn a_worker_killed_while_it_activates() {
    let site = Site::new(PLAN);
    let mut node = site.node("S1");
    node.start(&[]);
    node.wait_started(Stage::Activate);
    node.kill();
    converges(&site, &mut node);

    // As soon as there is something of a generation; whether that is half of it or all is the machine's luck.
    let mut node = site.node("S2");
    let generations = node.run("state/generations");
    node.start(&[]);
    at_once("a generation that is written", || holds(&generations, |_| true));
    node.kill();
    // So one that is half written is put there: its name is not its own yet, and files are missing.
    let half = generations.join(".new-0123456789abcdef");
    fs::create_dir_all(half.join("manifests")).unwrap();
    fs::write(half.join("status.json"), "{").unwrap();
    converges(&site, &mut node);
}
