//! Nodes: what they said last, and what operators did to them.

use cairn_protocol::heartbeat::{ClusterBeat, Event, FailedGeneration, Heartbeat, Waiting};
use cairn_protocol::ids::{Name, Sha256Digest};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use super::certs::{self, Holder};
use super::{Result, StoreError, assignments, json, signed, to_json, unsigned};

/// Events kept for each node; the oldest go first.
const EVENTS_KEPT: u64 = 5_000;

/// A node as lists and the watch show it. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeView {
    /// Its site.
    pub site: String,
    /// Its name.
    pub node: String,
    /// Whether its site's plan has it now.
    pub planned: bool,
    /// The serial that it enrolled with.
    pub serial: Option<String>,
    /// When its present key enrolled; none when it has no key.
    pub enrolled: Option<u64>,
    /// Whether it ever reported a generation from its disk.
    pub installed: bool,
    /// The stage of its last heartbeat: `devices` to `service`.
    pub stage: Option<String>,
    /// Its state: `waiting`, `installing`, `trying`, `bootstrapping`, `ready`, `degraded`.
    pub state: Option<String>,
    /// What it waits for.
    #[schema(value_type = Option<Object>)]
    pub waiting: Option<Waiting>,
    /// The generation it runs.
    pub generation: Option<String>,
    /// The generation that failed last on it.
    #[schema(value_type = Option<Object>)]
    pub failed: Option<FailedGeneration>,
    /// Its place in the site's cluster.
    #[schema(value_type = Option<Object>)]
    pub cluster: Option<ClusterBeat>,
    /// The kernel's boot id.
    pub boot_id: Option<String>,
    /// Seconds since its kernel started.
    pub uptime_seconds: Option<u64>,
    /// Resident memory of its agent in bytes.
    pub agent_rss_bytes: Option<u64>,
    /// CPU time of its agent in milliseconds.
    pub agent_cpu_millis: Option<u64>,
    /// The sequence of the assignment that it acts on.
    pub assignment_sequence: Option<u64>,
    /// The sequence of its assignment here.
    pub assigned_sequence: Option<u64>,
    /// The id of the generation that its assignment makes.
    pub assigned_generation: Option<String>,
    /// First heartbeat.
    pub first_seen: Option<u64>,
    /// Last heartbeat.
    pub last_seen: Option<u64>,
    /// Heartbeats received, repeated ones not counted.
    pub heartbeats: u64,
    /// Whether it is lost: no heartbeat for three intervals.
    pub lost: bool,
    /// Since when it is lost.
    pub lost_since: Option<u64>,
    /// How often a reinstall was ordered.
    pub reinstall: u64,
    /// Whether a reinstall was ordered and is not done.
    pub reinstall_pending: bool,
}

const VIEW: &str =
    "SELECT n.site, n.node, n.planned, n.serial, n.enrolled, n.installed, n.heartbeat, n.first_seen,
       n.last_seen, n.heartbeats, n.lost_since, n.reinstall, n.reinstall_sequence, a.sequence, a.etag
    FROM nodes n LEFT JOIN assignments a ON a.site = n.site AND a.node = n.node AND a.current = 1";

fn view(row: &Row<'_>) -> rusqlite::Result<(NodeView, Option<String>)> {
    let time = |at: usize| row.get::<_, Option<i64>>(at).map(|time| time.map(unsigned));
    let view = NodeView {
        site: row.get(0)?,
        node: row.get(1)?,
        planned: row.get(2)?,
        serial: row.get(3)?,
        enrolled: time(4)?,
        installed: row.get(5)?,
        first_seen: time(7)?,
        last_seen: time(8)?,
        heartbeats: unsigned(row.get(9)?),
        lost: time(10)?.is_some(),
        lost_since: time(10)?,
        reinstall: unsigned(row.get(11)?),
        reinstall_pending: time(12)?.is_some(),
        assigned_sequence: time(13)?,
        assigned_generation: row.get(14)?,
        ..NodeView::default()
    };
    Ok((view, row.get(6)?))
}

fn with_heartbeat((view, heartbeat): (NodeView, Option<String>)) -> Result<NodeView> {
    let Some(text) = heartbeat else { return Ok(view) };
    let last: Heartbeat = json("heartbeat", &text)?;
    let word = |value: &str| value.trim_matches('"').to_owned();
    Ok(NodeView {
        stage: Some(last.stage.name().to_owned()),
        state: Some(word(&to_json("state", &last.state)?)),
        waiting: last.waiting,
        generation: last.generation,
        failed: last.failed,
        cluster: last.cluster,
        boot_id: Some(last.boot_id),
        uptime_seconds: Some(last.uptime_seconds),
        agent_rss_bytes: Some(last.agent_rss_bytes),
        agent_cpu_millis: Some(last.agent_cpu_millis),
        assignment_sequence: Some(last.assignment_sequence),
        ..view
    })
}

/// All nodes, of `site` alone when it is given.
///
/// # Errors
/// [`StoreError`].
pub fn list(tx: &Connection, site: Option<&Name>) -> Result<Vec<NodeView>> {
    let mut query =
        tx.prepare_cached(&format!("{VIEW} WHERE ?1 IS NULL OR n.site = ?1 ORDER BY n.site, n.node"))?;
    let rows = query.query_map([site.map(Name::as_str)], view)?.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.into_iter().map(with_heartbeat).collect()
}

/// One node.
///
/// # Errors
/// [`StoreError`].
pub fn get(tx: &Connection, site: &Name, node: &Name) -> Result<Option<NodeView>> {
    let row = tx
        .prepare_cached(&format!("{VIEW} WHERE n.site = ?1 AND n.node = ?2"))?
        .query_row([site.as_str(), node.as_str()], view)
        .optional()?;
    row.map(with_heartbeat).transpose()
}

/// The full status and the inventory that a node reported last, as JSON texts.
///
/// # Errors
/// [`StoreError`].
pub fn reports(tx: &Connection, site: &Name, node: &Name) -> Result<(Option<String>, Option<String>)> {
    Ok(tx
        .prepare_cached("SELECT status, inventory FROM nodes WHERE site = ?1 AND node = ?2")?
        .query_row([site.as_str(), node.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .unwrap_or_default())
}

/// What a heartbeat changed.
#[derive(Debug, Clone)]
pub struct Beat {
    /// The node now.
    pub view: NodeView,
    /// Whether the status that the heartbeat named is lacking.
    pub want_status: bool,
    /// Whether the node had been lost.
    pub returned: bool,
}

/// Stores a heartbeat and its events; `None` for a node that is not known.
///
/// # Errors
/// [`StoreError`].
pub fn heartbeat(
    tx: &Connection,
    site: &Name,
    node: &Name,
    beat: &Heartbeat,
    now: u64,
) -> Result<Option<Beat>> {
    let row = tx
        .prepare_cached(
            "SELECT boot_id, boot_sequence, status_digest, lost_since, reinstall_sequence
             FROM nodes WHERE site = ?1 AND node = ?2",
        )?
        .query_row([site.as_str(), node.as_str()], |row| {
            Ok((
                row.get::<_, Option<String>>(0)?,
                unsigned(row.get(1)?),
                row.get::<_, Option<String>>(2)?,
                row.get::<_, Option<i64>>(3)?,
                row.get::<_, Option<i64>>(4)?.map(unsigned),
            ))
        })
        .optional()?;
    let Some((boot_id, sequence, status_digest, lost, reinstall)) = row else { return Ok(None) };
    // The answer to a heartbeat may get lost and the node send it again: stored, but counted once.
    let fresh = boot_id.as_deref() != Some(beat.boot_id.as_str()) || beat.sequence > sequence;
    let done = match (reinstall, &beat.generation) {
        (Some(ordered), Some(id)) => {
            assignments::sequence_of(tx, site, node, id)?.is_some_and(|running| running >= ordered)
        }
        _ => false,
    };
    if fresh {
        let text = to_json("heartbeat", &Heartbeat { events: Vec::new(), ..beat.clone() })?;
        tx.prepare_cached(
            "UPDATE nodes SET heartbeat = ?3, boot_id = ?4, boot_sequence = ?5, heartbeats = heartbeats + 1,
                 cluster_member = coalesce(?6, cluster_member)
             WHERE site = ?1 AND node = ?2",
        )?
        .execute(params![
            site.as_str(),
            node.as_str(),
            text,
            beat.boot_id,
            signed(beat.sequence),
            beat.cluster.as_ref().map(|cluster| cluster.member && cluster.control_plane)
        ])?;
    }
    tx.prepare_cached(
        "UPDATE nodes SET first_seen = coalesce(first_seen, ?3), last_seen = ?3, lost_since = NULL,
             installed = installed OR ?5,
             reinstall_sequence = CASE WHEN ?4 THEN NULL ELSE reinstall_sequence END
         WHERE site = ?1 AND node = ?2",
    )?
    .execute(params![site.as_str(), node.as_str(), signed(now), done, beat.generation.is_some()])?;
    events(tx, site, node, &beat.events, now)?;
    let view = get(tx, site, node)?
        .ok_or_else(|| StoreError::Damaged { what: "node", why: "it vanished".to_owned() })?;
    let want_status = status_digest.as_deref() != Some(beat.status_digest.to_string().as_str());
    Ok(Some(Beat { view, want_status, returned: lost.is_some() }))
}

/// Whether a control plane of `site` other than `node` said last that it is a member of the site's cluster. One that was
/// released, or whose reinstall was ordered, does not count until it says so again: it is gone for good.
///
/// # Errors
/// [`StoreError`].
pub fn cluster_stands(tx: &Connection, site: &Name, node: &Name) -> Result<bool> {
    Ok(tx
        .prepare_cached(
            "SELECT count(*) FROM nodes WHERE site = ?1 AND node <> ?2 AND planned = 1 AND cluster_member = 1",
        )?
        .query_row([site.as_str(), node.as_str()], |row| row.get::<_, i64>(0))?
        > 0)
}

fn events(tx: &Connection, site: &Name, node: &Name, events: &[Event], now: u64) -> Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO events (site, node, boot_id, id, at, received, event) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT DO NOTHING",
    )?;
    for event in events {
        insert.execute(params![
            site.as_str(),
            node.as_str(),
            event.boot_id,
            signed(event.id),
            signed(event.unix_seconds),
            signed(now),
            to_json("event", event)?
        ])?;
    }
    if !events.is_empty() {
        tx.prepare_cached(
            "DELETE FROM events WHERE rowid IN (SELECT rowid FROM events WHERE site = ?1 AND node = ?2
                 ORDER BY received DESC, rowid DESC LIMIT -1 OFFSET ?3)",
        )?
        .execute(params![site.as_str(), node.as_str(), signed(EVENTS_KEPT)])?;
    }
    Ok(())
}

/// The latest `limit` events of a node, the oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn list_events(tx: &Connection, site: &Name, node: &Name, limit: u64) -> Result<Vec<Event>> {
    let mut query = tx.prepare_cached(
        "SELECT event FROM events WHERE site = ?1 AND node = ?2 ORDER BY received DESC, rowid DESC LIMIT ?3",
    )?;
    let rows = query
        .query_map(params![site.as_str(), node.as_str(), signed(limit)], |row| row.get::<_, String>(0))?;
    let mut events = rows.map(|text| json("event", &text?)).collect::<Result<Vec<Event>>>()?;
    events.reverse();
    Ok(events)
}

/// Stores a full status, `text` being its JSON and `inventory` that of its inventory; whether the node is known.
///
/// # Errors
/// [`StoreError`].
pub fn status(
    tx: &Connection,
    site: &Name,
    node: &Name,
    digest: Sha256Digest,
    text: &str,
    inventory: &str,
) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE nodes SET status_digest = ?3, status = ?4, inventory = ?5 WHERE site = ?1 AND node = ?2",
        )?
        .execute(params![site.as_str(), node.as_str(), digest.to_string(), text, inventory])?;
    Ok(changed == 1)
}

/// Takes a node's key and certificates from it, so that another machine may enrol in its place; whether it is known.
///
/// # Errors
/// [`StoreError`].
pub fn release(tx: &Connection, site: &Name, node: &Name, now: u64) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE nodes SET key = NULL, enrolled = NULL, installed = 0, cluster_member = 0 WHERE site = ?1 AND node = ?2",
        [site.as_str(), node.as_str()],
    )?;
    tx.execute(
        "DELETE FROM quarantine WHERE site = ?1 AND node = ?2 AND state = 'approved'",
        [site.as_str(), node.as_str()],
    )?;
    certs::revoke(tx, &Holder::Node(site.clone(), node.clone()), None, now)?;
    Ok(changed == 1)
}

/// Counts up a node's reinstall orders; whether it is known. Its next assignment carries the order.
///
/// # Errors
/// [`StoreError`].
pub fn order_reinstall(tx: &Connection, site: &Name, node: &Name) -> Result<bool> {
    let next = assignments::latest(tx, site, node)?.map_or(0, |latest| latest.sequence) + 1;
    let changed = tx.execute(
        "UPDATE nodes SET reinstall = reinstall + 1, reinstall_sequence = ?3, cluster_member = 0
         WHERE site = ?1 AND node = ?2",
        params![site.as_str(), node.as_str(), signed(next)],
    )?;
    Ok(changed == 1)
}

/// How often a reinstall of a node was ordered.
///
/// # Errors
/// [`StoreError`].
pub fn reinstall_count(tx: &Connection, site: &Name, node: &Name) -> Result<u64> {
    Ok(tx
        .prepare_cached("SELECT reinstall FROM nodes WHERE site = ?1 AND node = ?2")?
        .query_row([site.as_str(), node.as_str()], |row| row.get(0))
        .optional()?
        .map_or(0, unsigned))
}

/// Nodes that have been silent for three of their site's intervals, counted from `started` (when this program began to
/// listen) at the earliest, and are not marked as lost.
///
/// # Errors
/// [`StoreError`].
pub fn silent(tx: &Connection, now: u64, started: u64) -> Result<Vec<(Name, Name)>> {
    let mut query = tx.prepare_cached(
        "SELECT n.site, n.node FROM nodes n JOIN sites s ON s.site = n.site
         WHERE n.lost_since IS NULL AND n.last_seen IS NOT NULL AND n.planned = 1
           AND max(n.last_seen, ?2) + 3 * s.interval_seconds < ?1",
    )?;
    let rows =
        query.query_map(params![signed(now), signed(started)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let silent = rows.collect::<rusqlite::Result<Vec<(String, String)>>>()?;
    silent.iter().map(|(site, node)| Ok((super::name(site)?, super::name(node)?))).collect()
}

/// Marks those of `nodes` as lost that are still silent; answers them.
///
/// # Errors
/// [`StoreError`].
pub fn mark_lost(tx: &Connection, nodes: &[(Name, Name)], now: u64, started: u64) -> Result<Vec<NodeView>> {
    let still = silent(tx, now, started)?;
    let mut lost = Vec::new();
    for (site, node) in nodes.iter().filter(|node| still.contains(node)) {
        tx.prepare_cached("UPDATE nodes SET lost_since = ?3 WHERE site = ?1 AND node = ?2")?
            .execute(params![site.as_str(), node.as_str(), signed(now)])?;
        lost.extend(get(tx, site, node)?);
    }
    Ok(lost)
}

/// Who the serial belongs to by the plans, and whether that node runs from its disk with no reinstall ordered.
///
/// # Errors
/// [`StoreError`].
pub fn boots_its_disk(tx: &Connection, serial: &str) -> Result<bool> {
    Ok(tx
        .prepare_cached(
            "SELECT count(*) FROM nodes n LEFT JOIN serials s ON s.site = n.site AND s.node = n.node
             WHERE coalesce(s.serial, n.serial) = ?1 AND n.planned = 1 AND n.installed = 1
               AND n.reinstall_sequence IS NULL",
        )?
        .query_row([serial], |row| row.get::<_, i64>(0))?
        > 0)
}
