//! What each node is to run: computed from its site's plan, the published releases and the orders of operators.

use cairn_protocol::assignment::{AssignedBundle, Assignment};
use cairn_protocol::ids::Name;
use cairn_protocol::plan::{Node, Plan, manifest_target};
use cairn_protocol::signed::Domain;
use rusqlite::Connection;

use crate::config::Identity;
use crate::releases::Releases;
use crate::store::{self, StoreError, assignments, nodes, plans};

/// The bundles that `node` is to run. While one of them is not published, the node keeps what it had (`before`): a plan
/// may be written before its release is out, and must not take a running node's software away.
pub fn bundles(
    plan: &Plan,
    node: &Node,
    releases: &Releases,
    before: &[AssignedBundle],
) -> Vec<AssignedBundle> {
    let wanted = plan.bundles_of(node);
    let found: Option<Vec<_>> = wanted
        .iter()
        .map(|(bundle, version)| {
            let target = manifest_target(bundle, version);
            let release = releases.find(&target)?;
            Some(AssignedBundle { sha256: release.sha256, length: release.length, target })
        })
        .collect();
    found.unwrap_or_else(|| before.to_vec())
}

/// The bundles that the plan wants for `node` and no published release has.
pub fn missing(plan: &Plan, node: &Node, releases: &Releases) -> Vec<String> {
    let targets = plan.bundles_of(node).into_iter().map(|(bundle, version)| manifest_target(bundle, version));
    targets.filter(|target| releases.find(target).is_none()).collect()
}

/// Brings the assignments of all nodes of `site` up to date; answers the nodes whose assignment changed.
///
/// # Errors
/// [`StoreError`].
pub fn refresh_site(
    tx: &Connection,
    identity: &Identity,
    releases: &Releases,
    site: &Name,
    now: u64,
) -> store::Result<Vec<Name>> {
    let plan = plans::get(tx, site)?;
    let mut changed = Vec::new();
    for view in nodes::list(tx, Some(site))? {
        let name = store::name(&view.node)?;
        let Some((plan, node)) = plan.as_ref().and_then(|plan| Some((plan, plan.nodes.get(&name)?))) else {
            if view.assigned_sequence.is_some() {
                assignments::withdraw(tx, site, &name)?;
                changed.push(name);
            }
            continue;
        };
        let before = assignments::latest(tx, site, &name)?;
        let next = Assignment {
            version: 1,
            site: site.clone(),
            node: name.clone(),
            sequence: before.as_ref().map_or(0, |before| before.sequence),
            issued: before.as_ref().map_or(0, |before| before.issued),
            bundles: bundles(plan, node, releases, before.as_ref().map_or(&[], |before| &before.bundles)),
            plan: plan.node_plan(&name, node),
            reinstall: view.reinstall,
        };
        if before.as_ref() == Some(&next) && view.assigned_sequence == Some(next.sequence) {
            continue;
        }
        let next = Assignment { sequence: next.sequence + 1, issued: now, ..next };
        let payload = store::to_json("assignment", &next)?;
        assignments::put(tx, &next, &identity.sign(Domain::Assignment, payload))?;
        changed.push(name);
    }
    Ok(changed)
}

/// As [`refresh_site`], for all sites.
///
/// # Errors
/// [`StoreError`].
pub fn refresh_all(
    tx: &Connection,
    identity: &Identity,
    releases: &Releases,
    now: u64,
) -> Result<Vec<(Name, Name)>, StoreError> {
    let mut changed = Vec::new();
    for site in plans::names(tx)? {
        let nodes = refresh_site(tx, identity, releases, &site, now)?;
        changed.extend(nodes.into_iter().map(|node| (site.clone(), node)));
    }
    Ok(changed)
}
