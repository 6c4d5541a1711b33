//! Signed assignments: the current one of each node and those before it.

use cairn_protocol::assignment::Assignment;
use cairn_protocol::generation;
use cairn_protocol::ids::Name;
use cairn_protocol::signed::Envelope;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Result, json, signed, to_json, unsigned};

/// Assignments kept for each node, so that a generation it reports can be told from its id.
const KEPT: u64 = 100;

/// A node's current assignment.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    /// Its sequence.
    pub sequence: u64,
    /// [`generation::id_of`] it.
    pub etag: String,
    /// The signed assignment.
    pub envelope: Envelope,
}

/// The current assignment of a node; `None` when its site's plan has no such node now.
///
/// # Errors
/// [`super::StoreError`].
pub fn current(tx: &Connection, site: &Name, node: &Name) -> Result<Option<Current>> {
    let row = tx
        .prepare_cached(
            "SELECT sequence, etag, envelope FROM assignments WHERE site = ?1 AND node = ?2 AND current = 1",
        )?
        .query_row([site.as_str(), node.as_str()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })
        .optional()?;
    row.map(|(sequence, etag, envelope)| {
        Ok(Current { sequence: unsigned(sequence), etag, envelope: json("assignment", &envelope)? })
    })
    .transpose()
}

/// The etag of a node's current assignment; empty for none.
///
/// # Errors
/// [`super::StoreError`].
pub fn etag(tx: &Connection, site: &Name, node: &Name) -> Result<String> {
    Ok(tx
        .prepare_cached("SELECT etag FROM assignments WHERE site = ?1 AND node = ?2 AND current = 1")?
        .query_row([site.as_str(), node.as_str()], |row| row.get(0))
        .optional()?
        .unwrap_or_default())
}

/// The latest assignment that a node was ever given, current or not.
///
/// # Errors
/// [`super::StoreError`].
pub fn latest(tx: &Connection, site: &Name, node: &Name) -> Result<Option<Assignment>> {
    let row: Option<String> = tx
        .prepare_cached(
            "SELECT content FROM assignments WHERE site = ?1 AND node = ?2 ORDER BY sequence DESC LIMIT 1",
        )?
        .query_row([site.as_str(), node.as_str()], |row| row.get(0))
        .optional()?;
    row.map(|text| json("assignment", &text)).transpose()
}

/// Makes `assignment`, signed as `envelope`, the node's current one.
///
/// # Errors
/// [`super::StoreError`].
pub fn put(tx: &Connection, assignment: &Assignment, envelope: &Envelope) -> Result<String> {
    let (site, node) = (assignment.site.as_str(), assignment.node.as_str());
    withdraw(tx, &assignment.site, &assignment.node)?;
    let etag = generation::id_of(envelope);
    tx.prepare_cached(
        "INSERT INTO assignments (site, node, sequence, content, etag, envelope, current)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)",
    )?
    .execute(params![
        site,
        node,
        signed(assignment.sequence),
        envelope.payload,
        etag,
        to_json("assignment", envelope)?
    ])?;
    tx.prepare_cached("DELETE FROM assignments WHERE site = ?1 AND node = ?2 AND sequence <= ?3")?
        .execute(params![site, node, signed(assignment.sequence) - signed(KEPT)])?;
    Ok(etag)
}

/// Leaves a node without a current assignment; its sequence is remembered.
///
/// # Errors
/// [`super::StoreError`].
pub fn withdraw(tx: &Connection, site: &Name, node: &Name) -> Result<()> {
    tx.prepare_cached("UPDATE assignments SET current = 0 WHERE site = ?1 AND node = ?2 AND current = 1")?
        .execute([site.as_str(), node.as_str()])?;
    Ok(())
}

/// The sequence of the assignment that made the generation `id`.
///
/// # Errors
/// [`super::StoreError`].
pub fn sequence_of(tx: &Connection, site: &Name, node: &Name, id: &str) -> Result<Option<u64>> {
    Ok(tx
        .prepare_cached("SELECT sequence FROM assignments WHERE site = ?1 AND node = ?2 AND etag = ?3")?
        .query_row([site.as_str(), node.as_str(), id], |row| row.get::<_, i64>(0))
        .optional()?
        .map(unsigned))
}
