//! `endpoint` and `pod-network`: an address that moves, and pods that reach each other.

use std::collections::BTreeMap;
use std::fs;

use cairn_net::kernel::Kernel;
use cairn_net::pods::Way;
use cairn_protocol::netplan::Cidr;

use super::elector::Elector;
use super::{Host, write};
use crate::edge::command::Run;
use crate::engine::{Seen, Trouble};
use crate::render::cni;

/// The name sorts before those of other plugins: containerd takes the first.
const CONFLIST: &str = "etc/cni/net.d/10-cairn.conflist";

impl Host {
    /// Whether the address moves: then the elector holds it, as soon as there is a cluster to hold an election in.
    fn endpoint_moves(&self) -> bool {
        self.place.control_planes.len() > 1
    }

    pub(super) async fn probe_endpoint(&self) -> Result<Seen, Trouble> {
        if self.endpoint_moves() && (self.record.member || self.electing.is_some()) {
            return Ok(Seen::Done);
        }
        let holds = self.kernel.holds(self.place.endpoint).await;
        let holds = holds.map_err(|e| Trouble::passing(e.to_string()))?;
        Ok(if holds { Seen::Done } else { Seen::Needed })
    }

    pub(super) async fn take_endpoint(&self) -> Result<Vec<String>, Trouble> {
        let endpoint = self.place.endpoint;
        let trouble = |e: cairn_net::kernel::KernelError| Trouble::passing(e.to_string());
        self.kernel.hold(endpoint, None).await.map_err(trouble)?;
        if let Some(own) = &self.own {
            Kernel::announce(own, endpoint).map_err(trouble)?;
        }
        Ok(vec![format!("holds {endpoint}")])
    }

    /// Takes part in the endpoint's election, where there is one.
    pub(super) fn elect(&mut self) -> Result<(), Trouble> {
        if !self.endpoint_moves() || self.electing.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        let own = self.own.clone().ok_or_else(|| Trouble::passing("the node's address is not known yet"))?;
        let elector = Elector {
            places: self.places.clone(),
            kernel: self.kernel.clone(),
            own,
            endpoint: self.place.endpoint,
            node: self.place.node.clone(),
            seconds: self.profile.endpoint_lease,
        };
        self.electing = Some(tokio::spawn(elector.run()));
        Ok(())
    }

    /// This node's part of the pod network, and the way to the others'.
    async fn pods(&mut self) -> Result<(Cidr, BTreeMap<Cidr, Way>), Trouble> {
        let members = self.members().await?;
        let node = &self.place.node;
        let own = members.nodes.iter().find(|member| member.peer.name == *node);
        let own = own.and_then(|member| member.peer.pods).ok_or_else(|| {
            Trouble::passing("the cluster has not given this node its part of the pod network yet")
        });
        if own.is_err() {
            self.members = None;
        }
        let others = members.nodes.iter().filter(|member| member.peer.name != *node);
        let mut routes: BTreeMap<_, _> =
            others.filter_map(|member| Some((member.peer.pods?, Way::Node(member.peer.address)))).collect();
        if let Some(link) = &self.own {
            routes.insert(self.place.service_network, Way::Link(link.index, link.address));
        }
        Ok((own?, routes))
    }

    pub(super) async fn probe_pod_network(&mut self) -> Result<Seen, Trouble> {
        let (own, routes) = self.pods().await?;
        let have = fs::read_to_string(self.places.at(CONFLIST)).unwrap_or_default();
        let have_routes = self.kernel.pod_routes().await.map_err(|e| Trouble::passing(e.to_string()))?;
        let marked = fs::read_to_string(self.masquerade_mark()).unwrap_or_default();
        let done = have == cni::conflist(own) && have_routes == routes && marked == self.masquerade(own)?;
        Ok(if done { Seen::Done } else { Seen::Needed })
    }

    pub(super) async fn pod_network(&mut self) -> Result<Vec<String>, Trouble> {
        let (own, routes) = self.pods().await?;
        let program = self.masquerade(own)?;
        let nft = Run { input: Some(&program), ..Run::new("nft", &["-f", "-"], self.profile.command) };
        let mut log = nft.succeed().await?.log;
        // The kernel's tables last for one boot, as the mark does.
        write(&self.masquerade_mark(), program.as_bytes(), 0o644)?;
        let changed =
            self.kernel.set_pod_routes(&routes).await.map_err(|e| Trouble::passing(e.to_string()))?;
        write(&self.places.at(CONFLIST), cni::conflist(own).as_bytes(), 0o644)?;
        log.push(format!("pods {own}, {} routes, {changed} changed", routes.len()));
        Ok(log)
    }

    fn masquerade(&self, own: Cidr) -> Result<String, Trouble> {
        Ok(cni::masquerade(own, self.place.pod_network, self.settings()?.address))
    }

    fn masquerade_mark(&self) -> std::path::PathBuf {
        self.places.run().join("masquerade.nft")
    }
}
