//! Sites and their plans.

use std::collections::BTreeMap;

use cairn_protocol::ids::Name;
use cairn_protocol::plan::{HeartbeatPlan, Plan};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::{Result, json, name, signed, to_json, unsigned};

/// A site as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SiteView {
    /// Its name.
    pub site: String,
    /// Nodes in its plan.
    pub nodes: u64,
    /// Of those, how many have enrolled.
    pub enrolled: u64,
    /// Of those, how many are Ready.
    pub ready: u64,
    /// Of those, how many are lost.
    pub lost: u64,
    /// When the plan was last changed, seconds since 1970.
    pub updated: u64,
}

/// What became of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is the site's plan now.
    Stored,
    /// A serial in it belongs to another site's node.
    SerialTaken {
        /// The serial.
        serial: String,
        /// The other site.
        site: String,
        /// Its node.
        node: String,
    },
}

/// Makes `plan`, written as `yaml`, its site's plan.
///
/// # Errors
/// [`super::StoreError`].
pub fn put(tx: &Connection, plan: &Plan, yaml: &str, now: u64) -> Result<Put> {
    let site = plan.site.as_str();
    if let Some(taken) = taken_serial(tx, plan)? {
        return Ok(taken);
    }
    tx.execute(
        "INSERT INTO sites (site, yaml, plan, updated, interval_seconds, jitter_percent)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (site) DO UPDATE
         SET yaml = ?2, plan = ?3, updated = ?4, interval_seconds = ?5, jitter_percent = ?6",
        params![
            site,
            yaml,
            to_json("plan", plan)?,
            signed(now),
            plan.heartbeat.interval_seconds,
            plan.heartbeat.jitter_percent
        ],
    )?;
    tx.execute("DELETE FROM serials WHERE site = ?1", [site])?;
    tx.execute("UPDATE nodes SET planned = 0 WHERE site = ?1", [site])?;
    for (node, entry) in &plan.nodes {
        tx.prepare_cached(
            "INSERT INTO nodes (site, node, planned) VALUES (?1, ?2, 1)
             ON CONFLICT (site, node) DO UPDATE SET planned = 1",
        )?
        .execute([site, node.as_str()])?;
        if let Some(serial) = &entry.serial {
            tx.prepare_cached("INSERT INTO serials (serial, site, node) VALUES (?1, ?2, ?3)")?.execute([
                serial.trim(),
                site,
                node.as_str(),
            ])?;
        }
    }
    Ok(Put::Stored)
}

fn taken_serial(tx: &Connection, plan: &Plan) -> Result<Option<Put>> {
    let mut query = tx.prepare_cached("SELECT site, node FROM serials WHERE serial = ?1 AND site <> ?2")?;
    let mut own = BTreeMap::new();
    for (node, entry) in &plan.nodes {
        let Some(serial) = &entry.serial else { continue };
        // The plan's own check compares serials as written; firmware's are compared trimmed.
        if let Some(other) = own.insert(serial.trim(), node) {
            return Ok(Some(Put::SerialTaken {
                serial: serial.clone(),
                site: plan.site.to_string(),
                node: other.to_string(),
            }));
        }
        let taken = query
            .query_row([serial.trim(), plan.site.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((site, node)) = taken {
            return Ok(Some(Put::SerialTaken { serial: serial.clone(), site, node }));
        }
    }
    Ok(None)
}

/// The plan of `site`.
///
/// # Errors
/// [`super::StoreError`].
pub fn get(tx: &Connection, site: &Name) -> Result<Option<Plan>> {
    let text: Option<String> = tx
        .prepare_cached("SELECT plan FROM sites WHERE site = ?1")?
        .query_row([site.as_str()], |row| row.get(0))
        .optional()?;
    text.map(|text| json("plan", &text)).transpose()
}

/// The plan of `site` as its author wrote it.
///
/// # Errors
/// [`super::StoreError`].
pub fn yaml(tx: &Connection, site: &Name) -> Result<Option<String>> {
    Ok(tx
        .prepare_cached("SELECT yaml FROM sites WHERE site = ?1")?
        .query_row([site.as_str()], |row| row.get(0))
        .optional()?)
}

/// All sites' names.
///
/// # Errors
/// [`super::StoreError`].
pub fn names(tx: &Connection) -> Result<Vec<Name>> {
    let mut query = tx.prepare_cached("SELECT site FROM sites ORDER BY site")?;
    let texts = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    texts.iter().map(|text| name(text)).collect()
}

/// All sites.
///
/// # Errors
/// [`super::StoreError`].
pub fn list(tx: &Connection) -> Result<Vec<SiteView>> {
    let mut query = tx.prepare_cached(
        "SELECT s.site, s.updated, count(n.node), count(n.key),
                count(CASE WHEN json_extract(n.heartbeat, '$.state') = 'ready' AND n.lost_since IS NULL THEN 1 END),
                count(n.lost_since)
         FROM sites s LEFT JOIN nodes n ON n.site = s.site AND n.planned = 1
         GROUP BY s.site ORDER BY s.site",
    )?;
    let rows = query.query_map([], |row| {
        Ok(SiteView {
            site: row.get(0)?,
            updated: unsigned(row.get(1)?),
            nodes: unsigned(row.get(2)?),
            enrolled: unsigned(row.get(3)?),
            ready: unsigned(row.get(4)?),
            lost: unsigned(row.get(5)?),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// How often the nodes of `site` report; the defaults for a site without a plan.
///
/// # Errors
/// [`super::StoreError`].
pub fn heartbeat(tx: &Connection, site: &Name) -> Result<HeartbeatPlan> {
    let plan = tx
        .prepare_cached("SELECT interval_seconds, jitter_percent FROM sites WHERE site = ?1")?
        .query_row([site.as_str()], |row| {
            Ok(HeartbeatPlan { interval_seconds: row.get(0)?, jitter_percent: row.get(1)? })
        })
        .optional()?;
    Ok(plan.unwrap_or_default())
}
