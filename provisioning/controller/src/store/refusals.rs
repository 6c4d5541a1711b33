//! What was refused before there was a node to blame it on.

use cairn_protocol::limits::clean_text;
use rusqlite::{Connection, params};
use serde::Serialize;

use super::{Result, signed, unsigned};

/// Rows kept; the oldest go first. A hostile peer with many addresses cannot fill the disk.
const KEPT: i64 = 10_000;

/// A refusal as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RefusalView {
    /// Number of the row.
    pub id: u64,
    /// A stable word, such as `unknown-serial` or `ca-pin`.
    pub code: String,
    /// The serial that the peer named; empty where it named none.
    pub serial: String,
    /// The peer's address, without its port.
    pub address: String,
    /// The last one's line for people.
    pub detail: String,
    /// First time, seconds since 1970.
    pub first_seen: u64,
    /// Last time.
    pub last_seen: u64,
    /// How often.
    pub count: u64,
}

/// Notes a refusal.
///
/// # Errors
/// [`super::StoreError`].
pub fn note(tx: &Connection, code: &str, serial: &str, address: &str, detail: &str, now: u64) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO refusals (code, serial, address, detail, first_seen, last_seen, count)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1)
         ON CONFLICT (code, serial, address)
         DO UPDATE SET detail = ?4, last_seen = ?5, count = count + 1",
    )?
    .execute(params![code, clean_text(serial), address, clean_text(detail), signed(now)])?;
    tx.prepare_cached(
        "DELETE FROM refusals WHERE id IN (SELECT id FROM refusals ORDER BY last_seen DESC, id DESC LIMIT -1 OFFSET ?1)",
    )?
    .execute([KEPT])?;
    Ok(())
}

/// All refusals, the latest first.
///
/// # Errors
/// [`super::StoreError`].
pub fn list(tx: &Connection) -> Result<Vec<RefusalView>> {
    let mut query = tx.prepare_cached(
        "SELECT id, code, serial, address, detail, first_seen, last_seen, count FROM refusals
         ORDER BY last_seen DESC, id DESC LIMIT 1000",
    )?;
    let rows = query.query_map([], |row| {
        Ok(RefusalView {
            id: unsigned(row.get(0)?),
            code: row.get(1)?,
            serial: row.get(2)?,
            address: row.get(3)?,
            detail: row.get(4)?,
            first_seen: unsigned(row.get(5)?),
            last_seen: unsigned(row.get(6)?),
            count: unsigned(row.get(7)?),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
