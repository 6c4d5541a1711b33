//! Certificates that were issued, and which of them are revoked.

use std::collections::HashSet;

use cairn_protocol::ids::{Name, Sha256Digest};
use rusqlite::{Connection, params};
use serde::Serialize;

use super::{Result, signed, unsigned};
use crate::pki::Issued;

/// Who a certificate was issued to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A node: site and name.
    Node(Name, Name),
    /// An operator.
    Operator(Name),
}

/// A certificate as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct CertView {
    /// Serial number.
    pub serial: String,
    /// Not valid before, seconds since 1970.
    pub not_before: u64,
    /// Not valid after.
    pub not_after: u64,
    /// When it was revoked.
    pub revoked: Option<u64>,
}

/// Remembers a certificate.
///
/// # Errors
/// [`super::StoreError`].
pub fn insert(tx: &Connection, holder: &Holder, issued: &Issued) -> Result<()> {
    let (site, node, operator) = holder.columns();
    tx.prepare_cached(
        "INSERT INTO certificates (serial, site, node, operator, key, not_before, not_after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        issued.serial,
        site,
        node,
        operator,
        issued.key.to_string(),
        signed(issued.not_before),
        signed(issued.not_after)
    ])?;
    Ok(())
}

impl Holder {
    /// Site, node and operator, as the table has them.
    fn columns(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        match self {
            Self::Node(site, node) => (Some(site.as_str()), Some(node.as_str()), None),
            Self::Operator(name) => (None, None, Some(name.as_str())),
        }
    }
}

/// Whether `holder` has had a certificate, revoked or not.
///
/// # Errors
/// [`super::StoreError`].
pub fn is_known(tx: &Connection, holder: &Holder) -> Result<bool> {
    let (site, node, operator) = holder.columns();
    let query =
        "SELECT EXISTS (SELECT 1 FROM certificates WHERE site IS ?1 AND node IS ?2 AND operator IS ?3)";
    Ok(tx.query_row(query, params![site, node, operator], |row| row.get(0))?)
}

/// Revokes all certificates of `holder` but those for the key `except`; answers how many.
///
/// # Errors
/// [`super::StoreError`].
pub fn revoke(tx: &Connection, holder: &Holder, except: Option<Sha256Digest>, now: u64) -> Result<usize> {
    let (site, node, operator) = holder.columns();
    let except = except.map(|key| key.to_string()).unwrap_or_default();
    let changed = tx.execute(
        "UPDATE certificates SET revoked = ?1
         WHERE site IS ?2 AND node IS ?3 AND operator IS ?4 AND key <> ?5 AND revoked IS NULL",
        params![signed(now), site, node, operator, except],
    )?;
    Ok(changed)
}

/// Whether the certificate with this serial number is revoked.
///
/// # Errors
/// [`super::StoreError`].
pub fn is_revoked(tx: &Connection, serial: &str) -> Result<bool> {
    let query = "SELECT EXISTS (SELECT 1 FROM certificates WHERE serial = ?1 AND revoked IS NOT NULL)";
    Ok(tx.prepare_cached(query)?.query_row([serial], |row| row.get(0))?)
}

/// Serial numbers of revoked certificates that have not run out.
///
/// # Errors
/// [`super::StoreError`].
pub fn revoked(tx: &Connection, now: u64) -> Result<HashSet<String>> {
    let mut query =
        tx.prepare_cached("SELECT serial FROM certificates WHERE revoked IS NOT NULL AND not_after >= ?1")?;
    let rows = query.query_map([signed(now)], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The certificates of a node, newest first.
///
/// # Errors
/// [`super::StoreError`].
pub fn of_node(tx: &Connection, site: &Name, node: &Name) -> Result<Vec<CertView>> {
    let mut query = tx.prepare_cached(
        "SELECT serial, not_before, not_after, revoked FROM certificates
         WHERE site = ?1 AND node = ?2 ORDER BY not_before DESC, rowid DESC LIMIT 20",
    )?;
    let rows = query.query_map([site.as_str(), node.as_str()], |row| {
        Ok(CertView {
            serial: row.get(0)?,
            not_before: unsigned(row.get(1)?),
            not_after: unsigned(row.get(2)?),
            revoked: row.get::<_, Option<i64>>(3)?.map(unsigned),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Forgets certificates that ran out more than 90 days ago.
///
/// # Errors
/// [`super::StoreError`].
pub fn prune(tx: &Connection, now: u64) -> Result<usize> {
    Ok(tx.execute("DELETE FROM certificates WHERE not_after < ?1", [signed(now) - 90 * 86_400])?)
}
