//! All time limits of a cluster, from one word: the speed of the site's machines.
//!
//! `fast` is what the projects ship as defaults. `slow` is for software emulation and starved disks: an API server that
//! answers after seconds is well there, and must not lose its leases for it.

use std::time::Duration;

use cairn_protocol::plan::Timeouts;

/// The numbers of one speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// etcd's `heartbeat-interval`, milliseconds.
    pub etcd_heartbeat: u32,
    /// etcd's `election-timeout`, milliseconds: ten heartbeats, as etcd's tuning guide has it.
    pub etcd_election: u32,
    /// Duration of the leases of controller manager and scheduler, seconds.
    pub lease: u32,
    /// Within which a holder renews, seconds.
    pub lease_renew: u32,
    /// Between two tries, seconds.
    pub lease_retry: u32,
    /// kubeadm: until the control plane answers, seconds.
    pub control_plane: u32,
    /// kubeadm: every other wait, seconds.
    pub patience: u32,
    /// kubelet: one call to containerd, seconds.
    pub runtime: u32,
    /// kubelet: between two status updates, seconds.
    pub node_status: u32,
    /// A program that only asks or writes some files.
    pub command: Duration,
    /// A program that waits for a service, a kubeadm phase for one.
    pub phase: Duration,
    /// One image's import.
    pub import: Duration,
    /// One question to the API server.
    pub question: Duration,
    /// How long a worker's token lives, seconds: it fetches a new one at each try.
    pub token: u32,
    /// How long the endpoint's holder may be silent before another takes the address, seconds.
    pub endpoint_lease: u32,
}

/// Real hardware.
const FAST: Profile = Profile {
    etcd_heartbeat: 100,
    etcd_election: 1000,
    lease: 15,
    lease_renew: 10,
    lease_retry: 2,
    control_plane: 240,
    patience: 120,
    runtime: 120,
    node_status: 10,
    command: Duration::from_secs(60),
    phase: Duration::from_secs(300),
    import: Duration::from_secs(300),
    question: Duration::from_secs(10),
    token: 900,
    endpoint_lease: 10,
};

/// Software emulation.
const SLOW: Profile = Profile {
    etcd_heartbeat: 500,
    etcd_election: 5000,
    lease: 60,
    lease_renew: 50,
    lease_retry: 5,
    control_plane: 900,
    patience: 600,
    runtime: 600,
    node_status: 20,
    command: Duration::from_secs(300),
    phase: Duration::from_secs(1200),
    import: Duration::from_secs(1200),
    question: Duration::from_secs(30),
    token: 3600,
    endpoint_lease: 40,
};

impl Profile {
    /// The profile of a speed; one that is not known yet counts as fast.
    pub fn of(speed: Timeouts) -> Self {
        match speed {
            Timeouts::Slow => SLOW,
            Timeouts::Fast | Timeouts::Auto => FAST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_lie_above_what_they_bound() {
        for profile in [FAST, SLOW] {
            assert!(profile.etcd_election >= 10 * profile.etcd_heartbeat);
            assert!(profile.lease > profile.lease_renew && profile.lease_renew > profile.lease_retry);
            assert!(profile.phase.as_secs() > u64::from(profile.patience));
            assert!(u64::from(profile.token) > profile.phase.as_secs());
        }
        assert_eq!(Profile::of(Timeouts::Auto), FAST);
    }
}
