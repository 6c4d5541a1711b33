//! The facts behind the health checks, and the trial of a new generation.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cairn_protocol::heartbeat::{HealthCheck, NodeState};
use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use crate::health::{self, Facts, Root, Verdict};
use crate::running::Running;
use crate::worker::context::Context;

/// A boot that is not well after this time will not be in the next seconds either.
const SETTLE: Duration = Duration::from_secs(300);

/// Health as the service sees it.
pub(super) struct Health {
    begun: Instant,
    on_trial: bool,
    limit: Duration,
    has_fallback: bool,
    stuck: bool,
    well: bool,
    /// Whether the cluster called this node Ready in this boot.
    was_ready: bool,
    /// Layers with damage that was not repaired yet.
    pub(super) damaged: Vec<String>,
    checks: Vec<HealthCheck>,
    heartbeats_before: u64,
}

impl Health {
    pub(super) fn new(context: &Context, running: Option<&Running>) -> Self {
        let limit = running.map_or(600, |running| running.plan.health.timeout_seconds);
        Self {
            begun: Instant::now(),
            on_trial: running.is_some_and(|running| running.on_trial),
            limit: Duration::from_secs(u64::from(limit)),
            has_fallback: running.is_some_and(|running| running.has_fallback),
            stuck: false,
            well: false,
            was_ready: false,
            damaged: Vec::new(),
            checks: Vec::new(),
            heartbeats_before: context.report.facts().heartbeats,
        }
    }

    /// Whether the generation has to prove itself still.
    pub(super) fn on_trial(&self) -> bool {
        self.on_trial
    }

    /// Whether the next look is due soon: a trial, or a boot that was not well yet. A node that stays unwell is no reason to
    /// ask systemd every few seconds for ever.
    pub(super) fn is_settling(&self) -> bool {
        self.on_trial || (!self.well && self.age() < SETTLE)
    }

    pub(super) fn committed(&mut self) {
        self.on_trial = false;
    }

    /// Since the service started.
    pub(super) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// There is nothing to go back to: the trial gets its whole time again.
    pub(super) fn extend(&mut self) {
        self.begun = Instant::now();
        self.stuck = true;
    }

    /// Whether the trial's time was up once and there was nothing to go back to.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// One line for `systemctl status`.
    pub(super) fn line(&self) -> String {
        let failing: Vec<_> =
            self.checks.iter().filter(|c| !c.passed).map(|c| format!("{} ({})", c.name, c.line)).collect();
        if failing.is_empty() { "all health checks pass".to_owned() } else { failing.join("; ") }
    }

    /// Looks and judges; publishes checks and state.
    pub(super) async fn judge(&mut self, context: &Context, running: Option<&Running>) -> Verdict {
        let (system_state, failed_units) =
            tokio::task::spawn_blocking(system_state).await.unwrap_or_default();
        let facts = Facts {
            system_state,
            failed_units,
            root: match (running, &context.container) {
                (None, _) => Root::Unchecked,
                (Some(_), Some(_)) => Root::CheckedAtBoot,
                (Some(_), None) if root_is_verity() => Root::Verity,
                (Some(_), None) => Root::Unchecked,
            },
            damaged_layers: self.damaged.clone(),
            data_bytes: space(&context.paths.data()),
            state_bytes: space(&context.paths.state()),
            addresses: context
                .network
                .as_ref()
                .map_or(0, |network| network.status().addresses().iter().map(|(_, list)| list.len()).sum()),
            controller_reached: context.report.facts().heartbeats > self.heartbeats_before,
            cluster: context.report.facts().cluster,
        };
        self.checks = health::checks(&facts);
        let verdict = health::judge(&self.checks, self.begun.elapsed(), self.limit, self.has_fallback);
        self.well = health::well(&self.checks);
        let cluster = context.report.facts().cluster;
        // What was Ready once and is not any more is a fault; before that it is on its way.
        self.was_ready |= cluster.as_ref().is_some_and(|cluster| cluster.ready);
        let on_its_way = cluster.is_some_and(|cluster| !cluster.ready) && !self.was_ready;
        let state = match (self.on_trial, self.well) {
            (true, _) => NodeState::Trying,
            (false, true) => NodeState::Ready,
            (false, false) if on_its_way && health::well_but_for_the_cluster(&self.checks) => {
                NodeState::Bootstrapping
            }
            (false, false) => NodeState::Degraded,
        };
        context.report.change(|published| {
            published.state = state;
            published.health.clone_from(&self.checks);
        });
        if matches!(state, NodeState::Ready | NodeState::Bootstrapping) || verdict == Verdict::Commit {
            // This boot has proven itself.
            let boots = context.paths.state().join(crate::stages::BOOTS);
            if boots.exists() {
                let _ = fs::remove_file(boots);
                // Else a power cut within seconds would count this boot as one that failed.
                let _ = fs::File::open(context.paths.state()).and_then(|state| state.sync_all());
            }
        }
        if self.on_trial { verdict } else { Verdict::Wait }
    }
}

/// `systemctl is-system-running` and the failed units.
fn system_state() -> (String, Vec<String>) {
    let systemctl = |args: &[&str]| {
        let output = Command::new("systemctl").args(args).stdin(Stdio::null()).stderr(Stdio::null()).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    let state = systemctl(&["is-system-running"]).trim().to_owned();
    if state != "degraded" {
        return (state, Vec::new());
    }
    let list = systemctl(&["list-units", "--failed", "--plain", "--no-legend", "--no-pager"]);
    let units = list.lines().filter_map(|line| line.split_whitespace().next()).take(16).map(str::to_owned);
    (state, units.collect())
}

/// Asks systemd for something; says whether it took the request.
pub(super) async fn systemctl(args: &'static [&'static str]) -> bool {
    let run = move || Command::new("systemctl").args(args).stdin(Stdio::null()).status();
    tokio::task::spawn_blocking(run).await.is_ok_and(|status| status.is_ok_and(|status| status.success()))
}

/// Free and total bytes.
fn space(path: &Path) -> (u64, u64) {
    statvfs(path).map_or((0, 0), |stat| {
        let unit = stat.fragment_size();
        (stat.blocks_available().saturating_mul(unit), stat.blocks().saturating_mul(unit))
    })
}

/// Whether the root lies on dm-verity devices alone: it is, or every lower layer of its overlay is, a device-mapper
/// device with a verity target that has seen no damage.
fn root_is_verity() -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let devices = layer_devices(&table);
    let Ok(control) = cairn_sys::dm::Control::open() else { return false };
    let verity = |device: &String| {
        let name = fs::read_to_string(format!("/sys/dev/block/{device}/dm/name")).unwrap_or_default();
        control
            .status(name.trim())
            .is_ok_and(|targets| !targets.is_empty() && targets.iter().all(|target| target.kind == "verity"))
    };
    !devices.is_empty() && devices.iter().all(verity)
}

/// The block devices (`major:minor`) of the erofs mounts of a mount table (proc(5), mountinfo), and of a root that is
/// none.
fn layer_devices(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let device = front.split(' ').nth(2)?;
            let kind = back.split(' ').next()?;
            let root = front.split(' ').nth(4)? == "/";
            (kind == "erofs" || (root && kind != "overlay" && kind != "rootfs")).then(|| device.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_below_the_root() {
        let table = "1 1 0:2 / / rw - rootfs none rw\n\
                     30 1 254:0 / /run/cairn/layers/base ro,nodev - erofs /dev/dm-0 ro\n\
                     31 1 0:30 / / ro,relatime - overlay overlay ro,lowerdir=/run/cairn/layers/base\n\
                     32 31 254:3 / /run/cairn/state rw shared:1 - ext4 /dev/vda3 rw\n";
        assert_eq!(layer_devices(table), ["254:0"]);
        assert_eq!(layer_devices("9 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), ["8:1"]);
    }
}
