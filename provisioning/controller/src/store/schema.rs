//! The tables, and how an older database becomes a newer one.

use std::path::Path;

use rusqlite::Connection;

use super::{Result, StoreError};

/// Each entry brings the schema from its index to the next; entries are never changed, only added.
const MIGRATIONS: [&str; 3] = [V1, V2, V3];

/// Times are seconds since 1970. Digests and serial numbers are lower-case hexadecimal digits.
const V1: &str = "
CREATE TABLE sites (
    site TEXT PRIMARY KEY,
    yaml TEXT NOT NULL,
    plan TEXT NOT NULL,
    updated INTEGER NOT NULL
) STRICT;

-- Which serial enrols as whom; follows the plans.
CREATE TABLE serials (
    serial TEXT PRIMARY KEY,
    site TEXT NOT NULL,
    node TEXT NOT NULL
) STRICT;
CREATE INDEX serials_by_node ON serials (site, node);

-- A node stays when its plan drops it: its sequence must never go back.
CREATE TABLE nodes (
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    planned INTEGER NOT NULL,
    key TEXT UNIQUE,
    serial TEXT,
    enrolled INTEGER,
    installed INTEGER NOT NULL DEFAULT 0,
    reinstall INTEGER NOT NULL DEFAULT 0,
    reinstall_sequence INTEGER,
    first_seen INTEGER,
    last_seen INTEGER,
    heartbeats INTEGER NOT NULL DEFAULT 0,
    boot_id TEXT,
    boot_sequence INTEGER NOT NULL DEFAULT 0,
    heartbeat TEXT,
    status_digest TEXT,
    status TEXT,
    inventory TEXT,
    lost_since INTEGER,
    PRIMARY KEY (site, node)
) STRICT;

CREATE TABLE certificates (
    serial TEXT PRIMARY KEY,
    site TEXT,
    node TEXT,
    operator TEXT,
    key TEXT NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    revoked INTEGER
) STRICT;
CREATE INDEX certificates_by_node ON certificates (site, node);

CREATE TABLE assignments (
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    content TEXT NOT NULL,
    etag TEXT NOT NULL,
    envelope TEXT NOT NULL,
    current INTEGER NOT NULL,
    PRIMARY KEY (site, node, sequence)
) STRICT;

CREATE TABLE tokens (
    hash TEXT PRIMARY KEY,
    site TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used_by TEXT,
    used INTEGER
) STRICT;

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    site TEXT NOT NULL,
    words TEXT NOT NULL,
    serial TEXT NOT NULL,
    inventory TEXT NOT NULL,
    peer TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    state TEXT NOT NULL,
    node TEXT
) STRICT;

-- One row for each code, serial and address, so that a peer that tries for ever fills one row.
CREATE TABLE refusals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    code TEXT NOT NULL,
    serial TEXT NOT NULL,
    address TEXT NOT NULL,
    detail TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    count INTEGER NOT NULL,
    UNIQUE (code, serial, address)
) STRICT;

CREATE TABLE events (
    site TEXT NOT NULL,
    node TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    received INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (site, node, boot_id, id)
) STRICT;
CREATE INDEX events_by_time ON events (site, node, received);
";

/// What every heartbeat and every look for lost nodes asks of a plan, beside it.
const V2: &str = "
ALTER TABLE sites ADD COLUMN interval_seconds INTEGER NOT NULL DEFAULT 30;
ALTER TABLE sites ADD COLUMN jitter_percent INTEGER NOT NULL DEFAULT 10;
UPDATE sites SET interval_seconds = coalesce(json_extract(plan, '$.heartbeat.interval-seconds'), 30),
                 jitter_percent = coalesce(json_extract(plan, '$.heartbeat.jitter-percent'), 10);
";

/// Whether a node said last that it is a control plane of its site's cluster. Kept beside the heartbeat, for a node says
/// nothing of it while it boots.
const V3: &str = "
ALTER TABLE nodes ADD COLUMN cluster_member INTEGER NOT NULL DEFAULT 0;
";

/// The schema of a database; 0 when none was put in.
///
/// # Errors
/// SQLite's.
pub(super) fn version(connection: &Connection) -> Result<u32> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Brings the database up to date.
///
/// # Errors
/// [`StoreError::Newer`] when a newer program wrote it.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<()> {
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found = version(&tx)?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    for step in MIGRATIONS.iter().skip(found as usize) {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "user_version", known)?;
    tx.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_database_keeps_what_it_holds() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(V1).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let plan = r#"{"heartbeat": {"interval-seconds": 7, "jitter-percent": 3}}"#;
        connection.execute("INSERT INTO sites VALUES ('s1', '', ?1, 0)", [plan]).unwrap();
        migrate(&mut connection, Path::new("c.db")).unwrap();
        migrate(&mut connection, Path::new("c.db")).unwrap();
        let row = connection.query_row("SELECT interval_seconds, jitter_percent FROM sites", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(row.unwrap(), (7, 3));
    }
}
