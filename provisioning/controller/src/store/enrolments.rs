//! Who may become which node: plans by serial, tokens, quarantine.

use cairn_protocol::ids::{Name, Sha256Digest};
use cairn_protocol::inventory::Inventory;
use cairn_protocol::words;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::certs::{self, Holder};
use super::{Result, json, name, signed, to_json, unsigned};

/// Keys in quarantine for one site; more tokens than this are not waited for at once.
const QUARANTINE_KEPT: i64 = 1_000;

/// What asks to enrol.
#[derive(Debug)]
pub struct Asker<'a> {
    /// Its key, DER SubjectPublicKeyInfo.
    pub spki: &'a [u8],
    /// Its serial, trimmed; may be empty.
    pub serial: &'a str,
    /// The token it brought.
    pub token: Option<&'a str>,
    /// What it has.
    pub inventory: &'a Inventory,
    /// The address it asks from.
    pub address: &'a str,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is this node; its other keys are revoked.
    Node(Name, Name),
    /// An operator has to confirm these words first.
    Quarantined(String),
    /// No: a code and a line.
    Refused(&'static str, String),
}

/// A key in quarantine, as operators see it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct QuarantineView {
    /// Its number.
    pub id: u64,
    /// The site whose token it brought.
    pub site: String,
    /// The words to compare with those on the node's console.
    pub words: String,
    /// Its serial.
    pub serial: String,
    /// The address it asked from.
    pub address: String,
    /// `pending`, `approved`, `refused`.
    pub state: String,
    /// The node it was approved as.
    pub node: Option<String>,
    /// When it first asked.
    pub first_seen: u64,
    /// When it last asked.
    pub last_seen: u64,
    /// What the machine has.
    #[schema(value_type = Object)]
    pub inventory: Inventory,
}

/// Decides about `asker` and remembers the decision.
///
/// # Errors
/// [`super::StoreError`].
pub fn decide(tx: &Connection, asker: &Asker<'_>, now: u64) -> Result<Verdict> {
    let key = Sha256Digest::of(asker.spki);
    if let Some((site, node)) = by_serial(tx, asker.serial)? {
        return bind(tx, &site, &node, key, asker, now);
    }
    if let Some((site, node)) = approved(tx, key)? {
        return bind(tx, &site, &node, key, asker, now);
    }
    match asker.token {
        Some(token) => by_token(tx, token, key, asker, now),
        None => Ok(Verdict::Refused(
            "unknown-serial",
            format!(
                "no site's plan has serial {:?} and no token was given; add it to a plan, or bring a seed with a token",
                cairn_protocol::limits::clean_text(asker.serial)
            ),
        )),
    }
}

fn by_serial(tx: &Connection, serial: &str) -> Result<Option<(Name, Name)>> {
    let row: Option<(String, String)> = tx
        .prepare_cached("SELECT site, node FROM serials WHERE serial = ?1")?
        .query_row([serial], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(site, node)| Ok((name(&site)?, name(&node)?))).transpose()
}

/// A key that an operator approved, as long as the plan has the node.
fn approved(tx: &Connection, key: Sha256Digest) -> Result<Option<(Name, Name)>> {
    let row: Option<(String, String)> = tx
        .prepare_cached(
            "SELECT q.site, q.node FROM quarantine q JOIN nodes n ON n.site = q.site AND n.node = q.node
             WHERE q.key = ?1 AND q.state = 'approved' AND n.planned = 1",
        )?
        .query_row([key.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(site, node)| Ok((name(&site)?, name(&node)?))).transpose()
}

/// Makes `key` the key of the node, unless the node has another one and a disk that was installed with it. An ordered
/// reinstall wipes that disk, and the old key may go with it: until it is done another key is let in.
fn bind(
    tx: &Connection,
    site: &Name,
    node: &Name,
    key: Sha256Digest,
    asker: &Asker<'_>,
    now: u64,
) -> Result<Verdict> {
    let (old, installed): (Option<String>, bool) = tx
        .prepare_cached(
            "SELECT key, installed = 1 AND reinstall_sequence IS NULL FROM nodes WHERE site = ?1 AND node = ?2",
        )?
        .query_row([site.as_str(), node.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let key_text = key.to_string();
    let same = old.as_deref() == Some(key_text.as_str());
    if old.is_some() && !same && installed {
        return Ok(Verdict::Refused(
            "serial-already-enrolled",
            format!(
                "node {node} of site {site} is installed with another key; if this machine takes its place, \
                 run: cairnctl node release {site} {node}"
            ),
        ));
    }
    if !same {
        // One key is one node: a machine that the plan calls something else now leaves its old name.
        let other: Option<(String, String)> = tx
            .query_row("SELECT site, node FROM nodes WHERE key = ?1", [&key_text], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        if let Some((other_site, other_node)) = other {
            super::nodes::release(tx, &name(&other_site)?, &name(&other_node)?, now)?;
        }
        certs::revoke(tx, &Holder::Node(site.clone(), node.clone()), Some(key), now)?;
    }
    tx.prepare_cached(
        "UPDATE nodes SET key = ?3, serial = ?4, inventory = coalesce(inventory, ?5),
             enrolled = CASE WHEN key IS ?3 THEN enrolled ELSE ?6 END,
             boot_id = CASE WHEN key IS ?3 THEN boot_id END
         WHERE site = ?1 AND node = ?2",
    )?
    .execute(params![
        site.as_str(),
        node.as_str(),
        key_text,
        asker.serial,
        to_json("inventory", asker.inventory)?,
        signed(now)
    ])?;
    Ok(Verdict::Node(site.clone(), node.clone()))
}

/// What is kept of a token.
fn token_hash(token: &str) -> String {
    Sha256Digest::of(token.as_bytes()).to_string()
}

fn by_token(tx: &Connection, token: &str, key: Sha256Digest, asker: &Asker<'_>, now: u64) -> Result<Verdict> {
    let hash = token_hash(token);
    let row: Option<(String, i64, Option<String>)> = tx
        .prepare_cached("SELECT site, expires, used_by FROM tokens WHERE hash = ?1")?
        .query_row([&hash], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let refused = |code, line: &str| Ok(Verdict::Refused(code, line.to_owned()));
    let Some((site, expires, used_by)) = row else {
        return refused("token-unknown", "no site has this token; make a new seed: cairnctl site seed");
    };
    let key_text = key.to_string();
    match used_by {
        Some(user) if user == key_text => {}
        Some(_) => {
            return refused(
                "token-used",
                "another machine has used this one-time token; make a new seed: cairnctl site seed",
            );
        }
        None if unsigned(expires) < now => {
            return refused("token-expired", "this token has run out; make a new seed: cairnctl site seed");
        }
        None => {
            tx.execute(
                "UPDATE tokens SET used_by = ?2, used = ?3 WHERE hash = ?1",
                params![hash, key_text, signed(now)],
            )?;
        }
    }
    quarantine(tx, &site, &key_text, asker, now)
}

fn quarantine(tx: &Connection, site: &str, key: &str, asker: &Asker<'_>, now: u64) -> Result<Verdict> {
    let words = words::of_key(asker.spki);
    tx.execute(
        "INSERT INTO quarantine (key, site, words, serial, inventory, peer, first_seen, last_seen, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 'pending')
         ON CONFLICT (key) DO UPDATE SET site = CASE WHEN state = 'pending' THEN ?2 ELSE site END, serial = ?4,
             inventory = ?5, peer = ?6, last_seen = ?7",
        params![key, site, words, asker.serial, to_json("inventory", asker.inventory)?, asker.address, signed(now)],
    )?;
    tx.execute(
        "DELETE FROM quarantine WHERE id IN (SELECT id FROM quarantine WHERE site = ?1 AND state = 'pending'
             ORDER BY last_seen DESC LIMIT -1 OFFSET ?2)",
        params![site, QUARANTINE_KEPT],
    )?;
    let state: String =
        tx.query_row("SELECT state FROM quarantine WHERE key = ?1", [key], |row| row.get(0))?;
    if state == "refused" {
        return Ok(Verdict::Refused(
            "enrolment-refused",
            format!("an operator has refused the key with the words {words}"),
        ));
    }
    Ok(Verdict::Quarantined(words))
}

/// Remembers a one-time token of `site`, by its hash.
///
/// # Errors
/// [`super::StoreError`].
pub fn add_token(tx: &Connection, site: &Name, token: &str, now: u64, expires: u64) -> Result<()> {
    // Run-out tokens are of no use a month later; until then their refusal can say what happened.
    tx.execute("DELETE FROM tokens WHERE expires < ?1", [signed(now) - 30 * 86_400])?;
    tx.execute(
        "INSERT INTO tokens (hash, site, created, expires) VALUES (?1, ?2, ?3, ?4)",
        params![token_hash(token), site.as_str(), signed(now), signed(expires)],
    )?;
    Ok(())
}

/// Keys in quarantine, the latest first.
///
/// # Errors
/// [`super::StoreError`].
pub fn list(tx: &Connection) -> Result<Vec<QuarantineView>> {
    let mut query = tx.prepare_cached(
        "SELECT id, site, words, serial, peer, state, node, first_seen, last_seen, inventory FROM quarantine
         ORDER BY state = 'pending' DESC, last_seen DESC LIMIT 1000",
    )?;
    let rows = query.query_map([], |row| {
        let inventory: String = row.get(9)?;
        let view = QuarantineView {
            id: unsigned(row.get(0)?),
            site: row.get(1)?,
            words: row.get(2)?,
            serial: row.get(3)?,
            address: row.get(4)?,
            state: row.get(5)?,
            node: row.get(6)?,
            first_seen: unsigned(row.get(7)?),
            last_seen: unsigned(row.get(8)?),
            inventory: Inventory::default(),
        };
        Ok((view, inventory))
    })?;
    rows.map(|row| {
        let (view, inventory) = row?;
        Ok(QuarantineView { inventory: json("inventory", &inventory)?, ..view })
    })
    .collect()
}

/// What became of an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approval {
    /// The key is the node's; its next question gets a certificate.
    Done,
    /// There is no such key in quarantine.
    NoSuchKey,
    /// The site's plan has no such node.
    NoSuchNode,
    /// The node is installed with another key.
    Taken,
}

/// Approves the key `id` as `node` of `site`.
///
/// # Errors
/// [`super::StoreError`].
pub fn approve(tx: &Connection, id: u64, site: &Name, node: &Name) -> Result<Approval> {
    let key: Option<String> = tx
        .query_row("SELECT key FROM quarantine WHERE id = ?1", [signed(id)], |row| row.get(0))
        .optional()?;
    let Some(key) = key else { return Ok(Approval::NoSuchKey) };
    let row: Option<(Option<String>, bool)> = tx
        .query_row(
            "SELECT key, installed = 1 AND reinstall_sequence IS NULL FROM nodes
             WHERE site = ?1 AND node = ?2 AND planned = 1",
            [site.as_str(), node.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((old, installed)) = row else { return Ok(Approval::NoSuchNode) };
    if installed && old.is_some_and(|old| old != key) {
        return Ok(Approval::Taken);
    }
    tx.execute(
        "UPDATE quarantine SET state = 'approved', site = ?2, node = ?3 WHERE id = ?1",
        params![signed(id), site.as_str(), node.as_str()],
    )?;
    Ok(Approval::Done)
}

/// Refuses the key `id`; whether it is there and was not approved.
///
/// # Errors
/// [`super::StoreError`].
pub fn refuse(tx: &Connection, id: u64) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE quarantine SET state = 'refused' WHERE id = ?1 AND state <> 'approved'",
        [signed(id)],
    )?;
    Ok(changed == 1)
}

/// Makes `key` the node's key at a renewal; false when it is another node's.
///
/// # Errors
/// [`super::StoreError`].
pub fn change_key(tx: &Connection, site: &Name, node: &Name, key: Sha256Digest) -> Result<bool> {
    let key = key.to_string();
    let taken: i64 = tx
        .prepare_cached("SELECT count(*) FROM nodes WHERE key = ?1 AND (site <> ?2 OR node <> ?3)")?
        .query_row([&key, site.as_str(), node.as_str()], |row| row.get(0))?;
    if taken > 0 {
        return Ok(false);
    }
    let changed = tx
        .prepare_cached("UPDATE nodes SET key = ?3 WHERE site = ?1 AND node = ?2 AND key IS NOT NULL")?
        .execute([site.as_str(), node.as_str(), &key])?;
    Ok(changed == 1)
}
