//! Whether a running generation is well: named checks over facts, and what follows from them.
//!
//! The facts are gathered by the service; judging them is pure, so that each outcome is tested as a table.

use std::time::Duration;

use cairn_protocol::heartbeat::{ClusterBeat, HealthCheck};
use cairn_protocol::ids::Name;
use cairn_protocol::limits::clean_text;

/// What vouches for the root file system's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Root {
    /// Nothing.
    #[default]
    Unchecked,
    /// The kernel, at every read: dm-verity layers alone.
    Verity,
    /// The handover, which read every block; a container's host may have no device-mapper.
    CheckedAtBoot,
}

impl Root {
    fn line(self) -> &'static str {
        match self {
            Self::Unchecked => "not on verity",
            Self::Verity => "on verity",
            Self::CheckedAtBoot => "every block was checked at boot",
        }
    }
}

/// What was seen of the running system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Answer of `systemctl is-system-running`: `running`, `degraded`, `starting`, …
    pub system_state: String,
    /// Names of failed units.
    pub failed_units: Vec<String>,
    /// What vouches for the root file system's bytes.
    pub root: Root,
    /// Layers in which the kernel has seen damaged blocks in this boot.
    pub damaged_layers: Vec<String>,
    /// Free and total bytes of DATA.
    pub data_bytes: (u64, u64),
    /// Free and total bytes of STATE.
    pub state_bytes: (u64, u64),
    /// Addresses other than loopback and link-local.
    pub addresses: usize,
    /// Whether the controller has answered over mTLS in this boot.
    pub controller_reached: bool,
    /// The node's place in its site's cluster, where its plan gives it one.
    pub cluster: Option<ClusterBeat>,
}

/// Below this share of free bytes a partition is too full to take the next generation's metadata and logs.
const FREE_PERCENT: u64 = 5;

fn check(name: &str, passed: bool, line: impl Into<String>) -> Option<HealthCheck> {
    let name = Name::new(name).ok()?;
    Some(HealthCheck { name, passed, line: clean_text(&line.into()) })
}

fn space(name: &str, (free, total): (u64, u64)) -> Option<HealthCheck> {
    let percent = free.saturating_mul(100).checked_div(total).unwrap_or(0);
    check(name, percent >= FREE_PERCENT, format!("{percent} % of {} MiB free", total >> 20))
}

/// All checks, always the same ones in the same order; `cluster` for a member alone.
pub fn checks(facts: &Facts) -> Vec<HealthCheck> {
    let system = match facts.failed_units.as_slice() {
        [] => facts.system_state.clone(),
        failed => format!("{}: {} failed", facts.system_state, failed.join(", ")),
    };
    let layers = match facts.damaged_layers.as_slice() {
        [] => "no damaged block seen".to_owned(),
        damaged => format!("damaged: {}", damaged.join(", ")),
    };
    [
        check("system", facts.system_state == "running", system),
        check("verity-root", facts.root != Root::Unchecked, facts.root.line()),
        check("layers", facts.damaged_layers.is_empty(), layers),
        space("data-space", facts.data_bytes),
        space("state-space", facts.state_bytes),
        check("network", facts.addresses > 0, format!("{} addresses", facts.addresses)),
        check(
            "controller",
            facts.controller_reached,
            if facts.controller_reached { "reached in this boot" } else { "not reached in this boot" },
        ),
        facts.cluster.as_ref().and_then(|cluster| check(CLUSTER, cluster.ready, &*cluster.line)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The checks that a committed generation may fail without being unwell: a site runs on while central is gone.
const NEEDED_TO_COMMIT_ONLY: [&str; 1] = ["controller"];

/// The check of a member. It is not needed to commit: a first bootstrap takes longer than a trial may, and waits for other
/// nodes; a generation is not at fault for that.
const CLUSTER: &str = "cluster";

/// Whether the cluster alone keeps a committed generation from being well.
pub fn well_but_for_the_cluster(checks: &[HealthCheck]) -> bool {
    let others: Vec<_> = checks.iter().filter(|check| check.name.as_str() != CLUSTER).cloned().collect();
    well(&others)
}

/// Whether a committed generation is well.
pub fn well(checks: &[HealthCheck]) -> bool {
    checks.iter().all(|check| check.passed || NEEDED_TO_COMMIT_ONLY.contains(&check.name.as_str()))
}

/// What to do with a generation that is not committed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All checks pass: keep it.
    Commit,
    /// Not yet; there is time left.
    Wait,
    /// Time is up and there is an older good generation: go back to it.
    GiveUp {
        /// Why, one line.
        reason: String,
    },
    /// Time is up and there is nothing to go back to: say so and keep trying.
    Persist {
        /// Why, one line.
        reason: String,
    },
}

/// Judges a generation that is tried, `running` since the service started, with `limit` to pass.
pub fn judge(checks: &[HealthCheck], running: Duration, limit: Duration, has_fallback: bool) -> Verdict {
    let counts = |check: &&HealthCheck| !check.passed && check.name.as_str() != CLUSTER;
    let failing: Vec<_> = checks.iter().filter(counts).map(|c| format!("{} ({})", c.name, c.line)).collect();
    if failing.is_empty() {
        return Verdict::Commit;
    }
    if running < limit {
        return Verdict::Wait;
    }
    let reason = format!("not healthy within {} s: {}", limit.as_secs(), failing.join("; "));
    if has_fallback { Verdict::GiveUp { reason } } else { Verdict::Persist { reason } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            system_state: "running".to_owned(),
            root: Root::Verity,
            data_bytes: (50, 100),
            state_bytes: (50, 100),
            addresses: 1,
            controller_reached: true,
            ..Facts::default()
        }
    }

    type Spoil = fn(&mut Facts);

    const LIMIT: Duration = Duration::from_secs(600);

    #[test]
    fn a_well_generation_is_committed_at_once() {
        assert_eq!(judge(&checks(&good()), Duration::ZERO, LIMIT, true), Verdict::Commit);
    }

    #[test]
    fn each_fact_fails_its_own_check() {
        let cases: [(&str, Spoil); 7] = [
            ("system", |facts| facts.system_state = "degraded".to_owned()),
            ("verity-root", |facts| facts.root = Root::Unchecked),
            ("layers", |facts| facts.damaged_layers.push("base".to_owned())),
            ("data-space", |facts| facts.data_bytes = (4, 100)),
            ("state-space", |facts| facts.state_bytes = (0, 0)),
            ("network", |facts| facts.addresses = 0),
            ("controller", |facts| facts.controller_reached = false),
        ];
        for (name, spoil) in cases {
            let mut facts = good();
            spoil(&mut facts);
            let checks = checks(&facts);
            let failing: Vec<_> = checks.iter().filter(|c| !c.passed).map(|c| c.name.as_str()).collect();
            assert_eq!(failing, [name]);
            assert_eq!(well(&checks), name == "controller");
            assert_eq!(judge(&checks, Duration::ZERO, LIMIT, true), Verdict::Wait);
            assert!(
                matches!(judge(&checks, LIMIT, LIMIT, true), Verdict::GiveUp { reason } if reason.contains(name))
            );
            assert!(matches!(judge(&checks, LIMIT, LIMIT, false), Verdict::Persist { .. }));
        }
    }

    #[test]
    fn a_bootstrap_that_goes_on_fails_no_generation() {
        let cluster = ClusterBeat { line: "images".to_owned(), ..ClusterBeat::default() };
        let facts = Facts { cluster: Some(cluster.clone()), ..good() };
        let open = checks(&facts);
        assert!(!well(&open) && well_but_for_the_cluster(&open));
        assert_eq!(judge(&open, LIMIT, LIMIT, true), Verdict::Commit);
        let done = Facts { cluster: Some(ClusterBeat { ready: true, ..cluster }), ..good() };
        assert!(well(&checks(&done)));
        let sick = checks(&Facts { addresses: 0, ..facts });
        assert!(!well_but_for_the_cluster(&sick));
    }

    #[test]
    fn failed_units_are_named() {
        let facts = Facts {
            system_state: "degraded".to_owned(),
            failed_units: vec!["a.service".to_owned(), "b.mount".to_owned()],
            ..good()
        };
        assert_eq!(checks(&facts)[0].line, "degraded: a.service, b.mount failed");
    }
}
