//! What the controller tells one node to run (Uptane's director).

use serde::{Deserialize, Serialize};

use crate::ids::{Name, Sha256Digest};
use crate::plan::NodePlan;
use crate::signed::{Domain, Envelope, SignedError, TrustedKeys};

/// One node's assignment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The format: 1.
    pub version: u32,
    /// The site.
    pub site: Name,
    /// The node.
    pub node: Name,
    /// Grows with every change for this node; a node never goes back to a smaller one.
    pub sequence: u64,
    /// When it was made, seconds since 1970.
    pub issued: u64,
    /// What to run. Empty: stay in the initramfs, enrolled and waiting.
    pub bundles: Vec<AssignedBundle>,
    /// The node's part of the site's plan.
    pub plan: NodePlan,
    /// Grows when an operator orders a reinstall; a node whose disk has a smaller one wipes itself.
    #[serde(default)]
    pub reinstall: u64,
}

/// A bundle of an assignment; release metadata must agree with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignedBundle {
    /// The TUF target path, such as `os/base/1.0.0/manifest.json`.
    pub target: String,
    /// SHA-256 of the manifest.
    pub sha256: Sha256Digest,
    /// Length of the manifest in bytes.
    pub length: u64,
}

/// Why an assignment was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// The signature.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// A format this program does not know.
    #[error("the assignment has version {0}, this agent reads version 1")]
    Version(u32),
    /// For somebody else.
    #[error("the assignment is for node {node} of site {site}, this is node {own_node} of site {own_site}")]
    Other {
        /// Its site.
        site: Name,
        /// Its node.
        node: Name,
        /// This node's site.
        own_site: Name,
        /// This node.
        own_node: Name,
    },
    /// Older than one that was accepted before.
    #[error(
        "the assignment has sequence {found}, this node has already accepted {floor}: an old one was replayed"
    )]
    RolledBack {
        /// Its sequence.
        found: u64,
        /// The highest sequence accepted.
        floor: u64,
    },
}

/// Verifies `envelope` for `node` of `site`, not older than `floor`.
///
/// # Errors
/// [`AssignmentError`].
pub fn verify(
    envelope: &Envelope,
    keys: &TrustedKeys,
    site: &Name,
    node: &Name,
    floor: u64,
) -> Result<Assignment, AssignmentError> {
    let assignment: Assignment = envelope.read(Domain::Assignment, keys, "the assignment")?;
    if assignment.version != 1 {
        return Err(AssignmentError::Version(assignment.version));
    }
    if (&assignment.site, &assignment.node) != (site, node) {
        return Err(AssignmentError::Other {
            site: assignment.site,
            node: assignment.node,
            own_site: site.clone(),
            own_node: node.clone(),
        });
    }
    if assignment.sequence < floor {
        return Err(AssignmentError::RolledBack { found: assignment.sequence, floor });
    }
    Ok(assignment)
}
