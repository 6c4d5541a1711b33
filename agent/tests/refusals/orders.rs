//! Assignments of others, assignments of before, and tokens that are no good.

use cairn_protocol::stage::Stage;
use rusqlite::{Connection, params};

use crate::bench::{PLAN, Site, refusals};
use crate::common::Node;

/// The controller's database, to tamper with.
fn database(site: &Site) -> Connection {
    Connection::open(site.controller.ctl().join("controller.db")).unwrap()
}

type Order = (String, String);

/// The current assignment of node n1 of `of`.
fn order(site: &Site, of: &str) -> Order {
    let sql = "SELECT envelope, etag FROM assignments WHERE site = ?1 AND node = 'n1' AND current = 1";
    database(site).query_row(sql, [of], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

/// Gives node n1 of s1 an assignment, rightly signed by the controller, once.
fn give(site: &Site, (envelope, etag): &Order) {
    let sql =
        "UPDATE assignments SET envelope = ?1, etag = ?2 WHERE site = 's1' AND node = 'n1' AND current = 1";
    assert_eq!(database(site).execute(sql, params![envelope, etag]).unwrap(), 1);
}

#[test]
fn an_assignment_of_another_site() {
    let site = Site::new(PLAN);
    let elsewhere = PLAN.replace("site: s1", "site: s2").replace("S1", "T1").replace("S2", "T2");
    site.controller.apply(&elsewhere);
    let own = order(&site, "s1");
    give(&site, &order(&site, "s2"));
    let node = site.started("S1");
    let line = site.refused(&node, "n1", "assignment-other");
    assert!(line.contains("of site s2") && line.contains("of site s1"), "{line}");
    give(&site, &own);
    site.goes_on(&node);
}

#[test]
fn an_older_assignment_replayed() {
    let site = Site::new(PLAN);
    let older = order(&site, "s1");
    site.controller.apply(&PLAN.replace("state-size: 256MiB", "state-size: 300MiB"));
    let newer = order(&site, "s1");
    assert_ne!(older, newer);
    let mut node = site.started("S1");
    node.wait_done(Stage::Verify);
    give(&site, &older);
    node.start(&["--until", "verify"]);
    let line = site.refused(&node, "n1", "assignment-rollback");
    assert!(line.contains("replayed"), "{line}");
    give(&site, &newer);
    site.goes_on(&node);
}

/// A seed with a token of site s1.
fn seed(site: &Site) -> String {
    let file = site.made.join("seed.json").to_str().unwrap().to_owned();
    site.controller.cairnctl(&["site", "seed", "s1", "--with-token", "--out", &file]);
    file
}

/// The token of a node that no plan knows is refused; central shows it. Once a plan names its serial it goes on, and what
/// it was refused is among its events.
fn refused_token(site: &Site, seed: &str, code: &str) {
    let mut node = site.node("S4");
    node.start(&["--seed", seed, "--until", "verify"]);
    let line = node.wait_refused(code);
    assert!(line.contains(" | do: ") && line.contains("\"S4\""), "{line}");
    let refusals_at_central = site.controller.cairnctl(&["node", "refusals"]);
    let shown = |refusal: &serde_json::Value| refusal["code"] == code && refusal["serial"] == "S4";
    assert!(refusals_at_central.as_array().unwrap().iter().any(shown), "{refusals_at_central}");
    site.controller.apply(&PLAN.replace("n3: {}", "n3: {serial: S4}"));
    site.goes_on(&node);
    site.controller.wait_for_event("s1", "n3", code);
}

#[test]
fn a_token_that_was_used() {
    let site = Site::new(PLAN);
    let seed = seed(&site);
    let mut first: Node = site.node("S5");
    first.start(&["--seed", &seed]);
    assert!(first.wait_waiting(Stage::Enrol).contains("approve"));
    refused_token(&site, &seed, "token-used");
    assert_eq!(refusals(&first), 0);
}

#[test]
fn a_token_that_nobody_knows() {
    let site = Site::new(PLAN);
    let seed = seed(&site);
    assert_eq!(database(&site).execute("DELETE FROM tokens", []).unwrap(), 1);
    refused_token(&site, &seed, "token-unknown");
}
