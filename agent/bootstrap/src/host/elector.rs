//! The endpoint's address on a site with several control planes: held by the one that holds the Lease, for no longer than the
//! Lease lasts.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use cairn_bundle::tuf::Date;
use cairn_net::kernel::Kernel;
use cairn_net::pods::OwnAddress;
use cairn_protocol::ids::Name;
use serde_json::Value;

use super::Places;
use crate::edge::api::{self, Api, ApiError, Change};
use crate::election::{LEASES, Observed, PATH, Turn};

/// Takes part in the election.
pub(super) struct Elector {
    pub(super) places: Places,
    pub(super) kernel: Kernel,
    pub(super) own: OwnAddress,
    pub(super) endpoint: Ipv4Addr,
    pub(super) node: Name,
    /// The lease's seconds.
    pub(super) seconds: u32,
}

impl Elector {
    /// Takes part for ever. A turn comes three times in a lease, so that one lost answer loses no address.
    pub(super) async fn run(self) {
        let every = Duration::from_secs(u64::from(self.seconds)) / 3;
        let (mut observed, begun) = (Observed::default(), Instant::now());
        let mut held = false;
        loop {
            let asked = Instant::now();
            let holds = match self.turn(&mut observed, begun).await {
                Ok(holds) => holds,
                Err(error) => {
                    // The kernel drops the address when the lease ends; it is not given up before.
                    tracing::info!(%error, "the endpoint's lease was not renewed");
                    tokio::time::sleep(every / 2).await;
                    continue;
                }
            };
            if let Err(error) = self.follow(holds, held, asked.elapsed()).await {
                tracing::warn!(%error, "the endpoint's address");
            }
            held = holds;
            tokio::time::sleep(every).await;
        }
    }

    /// Whether this node has the lease now.
    async fn turn(&self, observed: &mut Observed, begun: Instant) -> Result<bool, ApiError> {
        let kubeconfig = api::kubeconfig(&self.places.kubernetes());
        let limit = Duration::from_secs(u64::from(self.seconds)) / 3;
        let api = Api::open(self.own.address, &kubeconfig, limit)?;
        let lease: Option<Value> = match api.get(PATH).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        // MicroTime of the API: six digits behind the second.
        let time = Date::now().to_string().replace('Z', ".000000Z");
        let now = begun.elapsed();
        let written = match observed.turn(lease.as_ref(), self.node.as_str(), self.seconds, now, &time) {
            Turn::Create(lease) => api.change(Change::Create, LEASES, &lease).await,
            Turn::Write(lease) => api.change(Change::Replace, PATH, &lease).await,
            Turn::Other => return Ok(false),
        };
        match written {
            Ok(_) => Ok(true),
            // Another was first.
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn follow(
        &self,
        holds: bool,
        held: bool,
        asked: Duration,
    ) -> Result<(), cairn_net::kernel::KernelError> {
        if !holds {
            if held || self.kernel.holds(self.endpoint).await? {
                tracing::info!("another control plane holds the endpoint now");
                self.kernel.let_go(self.endpoint).await?;
            }
            return Ok(());
        }
        let late = u32::try_from(asked.as_secs() + 1).unwrap_or(u32::MAX);
        self.kernel.hold(self.endpoint, Some(self.seconds.saturating_sub(late).max(1))).await?;
        if !held {
            tracing::info!("this control plane holds the endpoint now");
            Kernel::announce(&self.own, self.endpoint)?;
        }
        Ok(())
    }
}
