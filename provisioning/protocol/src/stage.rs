//! The named stages a node walks from power-on to a running root.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stage of the boot; the order is the order of the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Kernel modules for the hardware that is there; disks looked through for a state partition.
    Devices,
    /// Links up, addresses, routes, resolver.
    Network,
    /// A signed time from the controller.
    Time,
    /// The node's key: loaded from STATE, or made.
    Identity,
    /// A certificate from the controller.
    Enrol,
    /// The signed assignment with the node's part of the plan.
    Plan,
    /// Selectors resolved, disks partitioned, file systems made and mounted.
    Disks,
    /// Release metadata, manifests and missing chunks.
    Fetch,
    /// Components checked whole against release metadata and assignment.
    Verify,
    /// Boot loader and generation written; a reboot where the new generation needs one.
    Activate,
    /// Layers stacked, root switched, systemd started.
    Handover,
    /// The agent runs as a service of the booted root.
    Service,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 12] = [
        Self::Devices,
        Self::Network,
        Self::Time,
        Self::Identity,
        Self::Enrol,
        Self::Plan,
        Self::Disks,
        Self::Fetch,
        Self::Verify,
        Self::Activate,
        Self::Handover,
        Self::Service,
    ];

    /// The stage's name as the console and heartbeats write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Network => "network",
            Self::Time => "time",
            Self::Identity => "identity",
            Self::Enrol => "enrol",
            Self::Plan => "plan",
            Self::Disks => "disks",
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Activate => "activate",
            Self::Handover => "handover",
            Self::Service => "service",
        }
    }

    /// The stage of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
