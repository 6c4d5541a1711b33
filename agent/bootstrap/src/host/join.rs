//! `material`: the way into a cluster that stands.

use std::time::{Duration, Instant};

use super::{Host, Material};
use crate::edge::peer;
use crate::engine::{Seen, Trouble};
use crate::material::{self, Peers};
use crate::settings::MATERIAL_PORT;
use crate::steps::{Step, Way};

impl Host {
    pub(super) fn probe_material(&self) -> Result<Seen, Trouble> {
        let last = if self.way == Way::JoinWorker { Step::Kubelet } else { Step::MarkControlPlane };
        let joined = self.record.has_any(last) && self.has_kubelet_credentials();
        Ok(if joined || self.is_material_fresh() { Seen::Done } else { Seen::Needed })
    }

    /// Whether the token at hand is good for a whole phase.
    fn is_material_fresh(&self) -> bool {
        let life = Duration::from_secs(u64::from(self.profile.token)) / 2;
        self.material.as_ref().is_some_and(|(_, since)| since.elapsed() < life)
    }

    /// Before a phase that shows the token: fetches a new one where it is old, and writes kubeadm's file with it.
    pub(super) async fn refresh_material(&mut self) -> Result<(), Trouble> {
        if self.way != Way::Init && !self.is_material_fresh() {
            self.fetch_material().await?;
            self.write_config()?;
        }
        Ok(())
    }

    pub(super) async fn fetch_material(&mut self) -> Result<Vec<String>, Trouble> {
        let wrong = |e: material::MaterialError| Trouble::passing(e.to_string());
        let got = match self.way {
            Way::JoinControlPlane => {
                let has_etcd = self.places.at("var/lib/etcd/member").exists();
                let path = if has_etcd { material::CONTROL_PLANE_AGAIN } else { material::CONTROL_PLANE };
                let bytes = self.ask(path).await?;
                let got = material::parse_control_plane(&bytes).map_err(wrong)?;
                Material { ca: got.ca, token: got.token, files: got.files }
            }
            _ => {
                let bytes = self.ask(material::WORKER).await?;
                let got = material::parse_worker(&bytes).map_err(wrong)?;
                Material { ca: got.ca, token: got.token, files: std::collections::BTreeMap::new() }
            }
        };
        let line = format!("cluster {}", got.ca);
        self.material = Some((got, Instant::now()));
        // kubeadm's file is written anew with the new token.
        self.config = None;
        Ok(vec![line])
    }

    /// The members, as the control plane at the endpoint knows them.
    pub(super) async fn ask_peers(&self) -> Result<Peers, Trouble> {
        let bytes = self.ask(material::PEERS).await?;
        material::parse_peers(&bytes, self.place.pod_network).map_err(|e| Trouble::passing(e.to_string()))
    }

    async fn ask(&self, path: &str) -> Result<Vec<u8>, Trouble> {
        let identity = self.identity.identity().ok_or_else(|| {
            Trouble::new(
                "the node has no certificate to show to a control plane",
                "it enrols at central first; the node tries again by itself",
            )
        })?;
        let limit = self.profile.question * 2;
        let at = (self.place.endpoint, MATERIAL_PORT);
        peer::ask(&identity, at, &self.place.control_planes, path, limit).await
    }
}
