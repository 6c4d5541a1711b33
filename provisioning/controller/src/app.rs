//! What every request of a running controller shares.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use cairn_protocol::ids::Name;
use tokio::sync::{broadcast, watch};

use crate::chunks::Chunks;
use crate::clock::Clock;
use crate::config::Identity;
use crate::dir::Dir;
use crate::metrics::Metrics;
use crate::releases::Releases;
use crate::store::nodes::NodeView;
use crate::store::{self, Store, certs, nodes, refusals};

/// Node changes that a slow watcher may lag behind before it is sent everything anew.
const WATCH_BACKLOG: usize = 1024;

/// A running controller.
#[derive(Debug)]
pub struct App {
    /// Its folder.
    pub dir: Dir,
    /// Its keys.
    pub identity: Identity,
    /// Its database.
    pub store: Store,
    /// Its clock.
    pub clock: Clock,
    /// Life of node certificates in seconds.
    pub node_life: u64,
    /// When it began, seconds since 1970.
    pub started: u64,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// The chunks of its repository.
    pub chunks: Chunks,
    /// Turns true when the controller stops.
    pub stop: watch::Receiver<bool>,
    /// Uploads of release metadata, one at a time.
    pub publishing: tokio::sync::Mutex<()>,
    releases: RwLock<Arc<Releases>>,
    revoked: watch::Sender<HashSet<String>>,
    changes: broadcast::Sender<NodeView>,
}

impl App {
    /// Ties the parts together.
    pub fn new(
        dir: Dir,
        identity: Identity,
        store: Store,
        clock: Clock,
        node_life: u64,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let chunks = Chunks::of(&dir.repo());
        Self {
            chunks,
            dir,
            identity,
            store,
            clock,
            node_life,
            started: clock.now(),
            metrics: Metrics::default(),
            stop,
            publishing: tokio::sync::Mutex::new(()),
            releases: RwLock::default(),
            revoked: watch::Sender::default(),
            changes: broadcast::channel(WATCH_BACKLOG).0,
        }
    }

    /// The published releases now.
    pub fn releases(&self) -> Arc<Releases> {
        self.releases.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the published releases again and brings all assignments up to date.
    ///
    /// # Errors
    /// What failed, for the log and the operator.
    pub async fn reload_releases(self: &Arc<Self>) -> Result<(), String> {
        let repo = self.dir.repo();
        let loaded = tokio::task::spawn_blocking(move || Releases::load(&repo))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        *self.releases.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        let (app, now) = (self.clone(), self.clock.now());
        let changed = self
            .store
            .write(move |tx| crate::assign::refresh_all(tx, &app.identity, &app.releases(), now))
            .await
            .map_err(|e| e.to_string())?;
        tracing::info!(targets = self.releases().len(), assignments = changed.len(), "releases read");
        for (site, node) in changed {
            self.announce_node(&site, &node).await;
        }
        Ok(())
    }

    /// Whether the certificate with this serial number is revoked.
    pub fn is_revoked(&self, serial: &str) -> bool {
        self.revoked.borrow().contains(serial)
    }

    /// Changes whenever a certificate was revoked.
    pub fn revocations(&self) -> watch::Receiver<HashSet<String>> {
        self.revoked.subscribe()
    }

    /// Reads the revoked certificates again.
    ///
    /// # Errors
    /// [`store::StoreError`].
    pub async fn reload_revoked(&self) -> store::Result<()> {
        let now = self.clock.now();
        let revoked = self.store.read(move |tx| certs::revoked(tx, now)).await?;
        self.revoked.send_if_modified(|known| {
            let changed = *known != revoked;
            *known = revoked;
            changed
        });
        Ok(())
    }

    /// Tells watchers about a node.
    pub fn announce(&self, view: NodeView) {
        // No receiver is no fault.
        let _ = self.changes.send(view);
    }

    /// Reads a node and tells watchers about it.
    pub async fn announce_node(&self, site: &Name, node: &Name) {
        let (site, node) = (site.clone(), node.clone());
        match self.store.read(move |tx| nodes::get(tx, &site, &node)).await {
            Ok(Some(view)) => self.announce(view),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "cannot read a node for its watchers"),
        }
    }

    /// Changes of nodes from now on.
    pub fn changes(&self) -> broadcast::Receiver<NodeView> {
        self.changes.subscribe()
    }

    /// Notes a refusal: one log line, one row, one count.
    pub async fn refused(&self, code: &'static str, serial: &str, address: SocketAddr, detail: &str) {
        let detail = cairn_protocol::limits::clean_text(detail);
        let serial = cairn_protocol::limits::clean_text(serial);
        tracing::warn!(code, serial, %address, "refused: {detail}");
        self.metrics.refused(code);
        let (now, ip) = (self.clock.now(), address.ip().to_canonical().to_string());
        let noted = self.store.write(move |tx| refusals::note(tx, code, &serial, &ip, &detail, now)).await;
        if let Err(error) = noted {
            tracing::error!(%error, "cannot note a refusal");
        }
    }
}
