//! The generation that this boot runs, told by the initramfs to the service: `/run/cairn/running.json`.

use cairn_disk::generation::choose::Candidate;
use cairn_disk::generation::{Store, Stored};
use cairn_protocol::assignment::Assignment;
use cairn_protocol::generation::Phase;
use cairn_protocol::heartbeat::FailedGeneration;
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::plan::NodePlan;
use serde::{Deserialize, Serialize};

use crate::release::Release;

/// Its name below /run/cairn.
pub const FILE_NAME: &str = "running.json";

/// The running generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Its id, which is its assignment's etag too.
    pub id: String,
    /// The version of its UKI.
    pub uki: String,
    /// Its assignment's sequence.
    pub sequence: u64,
    /// Its layers: name, file's digest, verity root hash; the base first.
    pub layers: Vec<RunningLayer>,
    /// Whether it has to pass its health checks still.
    pub on_trial: bool,
    /// Whether an older one could be gone back to.
    pub has_fallback: bool,
    /// The node's part of the plan.
    pub plan: NodePlan,
}

/// A layer of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningLayer {
    /// Its name.
    pub name: String,
    /// The digest of its file.
    pub sha256: Sha256Digest,
    /// The root of its tree.
    pub root_hash: Sha256Digest,
}

/// The layers of a release, the base first.
pub fn layers(release: &Release) -> Vec<RunningLayer> {
    use cairn_bundle::manifest::v1::StacksOn;
    let mut layers: Vec<_> = release
        .bundles
        .iter()
        .flat_map(|bundle| &bundle.manifest.components)
        .filter_map(|component| {
            let layer = component.layer.as_ref()?;
            let is_base = layer.stacks_on == StacksOn::None;
            let (name, sha256, root_hash) =
                (component.name.clone(), component.sha256, layer.verity.root_hash);
            Some((!is_base, RunningLayer { name, sha256, root_hash }))
        })
        .collect();
    layers.sort_by_key(|(is_upper, _)| *is_upper);
    layers.into_iter().map(|(_, layer)| layer).collect()
}

/// A plan that says nothing.
pub fn no_plan() -> NodePlan {
    use cairn_protocol::plan::{HealthPlan, HeartbeatPlan, Timeouts};
    NodePlan {
        roles: Vec::new(),
        network: None,
        disks: None,
        heartbeat: HeartbeatPlan::default(),
        health: HealthPlan::default(),
        timeouts: Timeouts::Auto,
        kubernetes: None,
    }
}

/// The version of the UKI that a release brings; `running` where it brings none.
pub fn uki_of(release: &Release, running: &str) -> String {
    let components = release.bundles.iter().flat_map(|bundle| &bundle.manifest.components);
    components
        .filter_map(|component| component.uki.as_ref())
        .map(|uki| uki.version.clone())
        .next()
        .unwrap_or_else(|| running.to_owned())
}

/// The stored generations as candidates for the choice. Their signatures are not checked here: what is chosen is
/// verified before it runs, and what is not chosen does nothing.
pub fn candidates(stored: &[Stored], running: &str) -> Vec<Candidate> {
    stored
        .iter()
        .filter_map(|one| {
            let assignment = unverified(one)?;
            let uki = one.generation.manifests.iter().zip(&assignment.bundles).find_map(|(_, bundle)| {
                let bytes = manifest(one, &bundle.sha256)?;
                let manifest = cairn_bundle::manifest::parse(&bytes).ok()?;
                manifest.components.iter().find_map(|c| Some(c.uki.as_ref()?.version.clone()))
            });
            Some(Candidate {
                id: one.generation.id.clone(),
                phase: one.status.phase,
                tries_left: one.status.tries_left,
                uki: uki.unwrap_or_else(|| running.to_owned()),
                sequence: assignment.sequence,
                installed: one.generation.installed,
            })
        })
        .collect()
}

/// A generation's assignment before its signature was checked.
pub fn unverified(stored: &Stored) -> Option<Assignment> {
    serde_json::from_str(&stored.generation.assignment.payload).ok()
}

/// A manifest as it was kept with a generation.
pub fn manifest(stored: &Stored, sha256: &Sha256Digest) -> Option<Vec<u8>> {
    let path = stored.dir.join(format!("manifests/{sha256}.json"));
    cairn_bundle::durable::read(&path, crate::release::MANIFEST_BYTES).ok().flatten()
}

/// The generation that failed last, for the heartbeats.
pub fn last_failed(store: &Store) -> Option<FailedGeneration> {
    let stored = store.list().ok()?.stored;
    let failed = stored.into_iter().find(|one| one.status.phase == Phase::Failed)?;
    Some(FailedGeneration { id: failed.generation.id, reason: failed.status.reason.unwrap_or_default() })
}
