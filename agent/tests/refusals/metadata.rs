//! Release metadata that is forged, old, withheld or mixed, put into the controller's repository on its disk: what
//! whoever holds the controller, but no release key, can do.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use cairn_bundle::tuf::canonical;
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::stage::Stage;
use serde_json::{Value, json};

use crate::bench::{PLAN, Site, copy, now, offline, refusals};
use crate::common::wait_until;

/// Longest wait for a short-lived timestamp to end, seconds.
const LONGEST_LIFE: u64 = 64;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Changes a metadata file and signs it again with the one key of its role.
fn resign(path: &Path, key: &Path, change: impl Fn(&mut Value)) {
    let mut document = read(path);
    change(&mut document["signed"]);
    let pem = fs::read_to_string(key).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
    let pair = ring::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).unwrap();
    let signature = pair.sign(&canonical::encode(&document["signed"]).unwrap());
    document["signatures"][0]["sig"] = json!(hex::encode(signature));
    fs::write(path, document.to_string()).unwrap();
}

/// What `snapshot` or `timestamp` say of a file.
fn describe(entry: &mut Value, file: &Path) {
    let bytes = fs::read(file).unwrap();
    entry["length"] = json!(bytes.len());
    entry["hashes"]["sha256"] = json!(Sha256Digest::of(&bytes).to_string());
}

/// The metadata with a `role` that others signed, listed by snapshot and timestamp with the real online keys.
fn forge(site: &Site, role: &str) {
    let (metadata, keys) = (site.repo().join("metadata"), site.made.join("K"));
    let forged = site.file("metadata", &format!(".{role}.json"));
    let name = forged.file_name().unwrap().to_str().unwrap();
    fs::copy(site.made.join("evil-R/metadata").join(name), &forged).unwrap();
    let snapshot = site.file("metadata", ".snapshot.json");
    let listed = |signed: &mut Value| describe(&mut signed["meta"][format!("{role}.json")], &forged);
    resign(&snapshot, &keys.join("snapshot.pem"), listed);
    let stamped = |signed: &mut Value| describe(&mut signed["meta"]["snapshot.json"], &snapshot);
    resign(&metadata.join("timestamp.json"), &keys.join("timestamp.pem"), stamped);
}

#[test]
fn forged_metadata() {
    // A timestamp of somebody else's; and what a thief of the controller's two keys can sign for.
    for role in ["timestamp", "targets", "os"] {
        let site = Site::new(PLAN);
        if role == "timestamp" {
            copy(&site.made.join("evil-R/metadata"), &site.repo().join("metadata"));
        } else {
            forge(&site, role);
        }
        let node = site.started("S1");
        let line = site.refused(&node, "n1", "metadata-forged");
        assert!(line.contains(role), "{line}");
        // The thief is gone; a newer release of the real keys follows.
        copy(&site.made.join("R/metadata"), &site.repo().join("metadata"));
        site.refresh_and_publish();
        site.goes_on(&node);
    }
}

#[test]
fn expired_metadata() {
    let site = Site::new(PLAN);
    site.sign_timestamp(now() - 5 * 86_400);
    fs::copy(site.made.join("R/metadata/timestamp.json"), site.repo().join("metadata/timestamp.json"))
        .unwrap();
    let node = site.started("S1");
    let line = site.refused(&node, "n1", "metadata-expired");
    assert!(line.contains("timestamp"), "{line}");
    site.refresh_and_publish();
    site.goes_on(&node);
}

/// A node that knows the newest metadata is shown the same until it expires.
#[test]
fn frozen_metadata() {
    let site = Site::new(PLAN);
    let mut node = site.node("S1");
    // A busy machine may need longer than a timestamp lives: the next one lives longer.
    let mut life = 8;
    let expires = loop {
        let expires = now() + life;
        site.sign_timestamp(expires - 2 * 86_400);
        site.publish();
        node.start(&["--until", "verify"]);
        let done = || node.has_said(|line| line.stage == Stage::Verify).then_some(true);
        if wait_until("an end of the first walk", || done().or((refusals(&node) > 0).then_some(false))) {
            break expires;
        }
        life *= 2;
        assert!(life <= LONGEST_LIFE, "the walk takes longer than half a minute");
    };
    node.wait_done(Stage::Verify);
    wait_until("the timestamp's end", || (now() > expires).then_some(()));
    node.start(&["--until", "verify"]);
    let line = site.refused(&node, "n1", "metadata-frozen");
    assert!(line.contains("timestamp"), "{line}");
    site.refresh_and_publish();
    site.goes_on(&node);
}

/// A copy of the controller's metadata from before is put back.
#[test]
fn rolled_back_metadata() {
    let site = Site::new(PLAN);
    let (metadata, before) = (site.repo().join("metadata"), site.made.join("before"));
    copy(&metadata, &before);
    site.refresh_and_publish();
    let mut node = site.started("S1");
    node.wait_done(Stage::Verify);
    copy(&before, &metadata);
    node.start(&["--until", "verify"]);
    site.refused(&node, "n1", "metadata-rollback");
    copy(&site.made.join("R/metadata"), &metadata);
    site.goes_on(&node);
}

/// Every file is signed by the real keys, but they were never published together.
#[test]
fn mixed_metadata() {
    let site = Site::new(PLAN);
    let newest = site.file("metadata", ".os.json");
    let good = fs::read(&newest).unwrap();
    fs::copy(site.made.join("R0/metadata/1.os.json"), &newest).unwrap();
    let node = site.started("S1");
    site.refused(&node, "n1", "metadata-mix");
    fs::write(&newest, good).unwrap();
    site.goes_on(&node);
}

/// The release is another one than that which was assigned: same name, same version, same keys, other contents.
#[test]
fn a_release_that_disagrees_with_the_assignment() {
    let mut site = Site::new(PLAN);
    offline(&site.made, &["bundle", "add", "other", "--keys", "K", "--repo", "R0"]);
    copy(&site.made.join("R0"), &site.repo());
    let node = site.started("S1");
    let line = site.refused(&node, "n1", "release-disagrees");
    assert!(line.contains("os/base/1.0.0/manifest.json"), "{line}");
    // The controller reads the release when it starts, and assigns it.
    site.controller.kill();
    site.controller.start();
    node.wait_done(Stage::Verify);
    assert_eq!(refusals(&node), 1);
    site.installed(&node, "other.erofs");
}
