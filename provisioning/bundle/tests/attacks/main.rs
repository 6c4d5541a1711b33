//! What an attacker who holds the network, a mirror or some keys can try (specification, 1.5.2), and what is said of it.
#![allow(clippy::unwrap_used)]

mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod forged;
mod old;
mod recovery;

use cairn_bundle::tuf::{MemoryStore, TufError};
use common::{MANIFEST, Sim, TODAY};

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
