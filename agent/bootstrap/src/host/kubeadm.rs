//! The steps that are phases of kubeadm's.

use std::time::Duration;

use cairn_protocol::ids::Sha256Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Host, remove, write};
use crate::edge::command::Run;
use crate::engine::{Seen, Trouble};
use crate::material::Token;
use crate::render::kubeadm as files;
use crate::steps::{Step, Way};

/// The kubelet's port for its own health, on the loopback.
const KUBELET_HEALTH: u16 = 10248;
/// Certificates whose names are those of this node: made anew when its settings change.
const NAMED: [&str; 6] = [
    "apiserver.crt",
    "apiserver.key",
    "etcd/server.crt",
    "etcd/server.key",
    "etcd/peer.crt",
    "etcd/peer.key",
];

/// Eleven random bytes.
pub(super) fn random_token() -> Result<Token, Trouble> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; 11];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Trouble::passing("the kernel has no randomness"))?;
    Ok(Token::from_random(bytes))
}

impl Host {
    pub(super) fn write_config(&mut self) -> Result<Vec<String>, Trouble> {
        let settings = self.settings()?;
        let (text, token) = match (self.way, &self.material) {
            (Way::Init, _) => {
                let token = random_token()?;
                (files::init(settings, &token), token)
            }
            (_, Some((material, _))) => {
                (files::join(settings, &material.token, &material.ca), material.token.clone())
            }
            // A member that only starts again: kubeadm reads no token any more.
            (_, None) => return self.no_config(),
        };
        write(&self.places.config(), text.as_bytes(), 0o600)?;
        (self.token, self.config) = (Some(token), Some(Sha256Digest::of(text.as_bytes())));
        Ok(Vec::new())
    }

    fn no_config(&mut self) -> Result<Vec<String>, Trouble> {
        self.config = Some(Sha256Digest::of(b""));
        Ok(Vec::new())
    }

    /// Runs `kubeadm` with `words` and its file.
    async fn kubeadm(&self, words: &[&str]) -> Result<Vec<String>, Trouble> {
        let config = self.places.config();
        let config = config.to_string_lossy();
        let mut all = words.to_vec();
        all.extend(["--config", config.as_ref()]);
        let clean = |log: Vec<String>| -> Vec<String> {
            let secret = self.token.as_ref().map(Token::secret).unwrap_or("\0");
            log.into_iter().map(|line| line.replace(secret, "…")).collect()
        };
        match Run::new("kubeadm", &all, self.profile.phase).succeed().await {
            Ok(ran) => Ok(clean(ran.log)),
            Err(mut trouble) => {
                trouble.log = clean(trouble.log);
                let secret = self.token.as_ref().map(Token::secret).unwrap_or("\0");
                trouble.reason = trouble.reason.replace(secret, "…");
                Err(trouble)
            }
        }
    }

    pub(super) async fn certs(&mut self) -> Result<Vec<String>, Trouble> {
        self.refresh_material().await?;
        let pki = self.places.pki();
        if !self.record.has_any(Step::Certs) {
            // Half of a cluster's keys, left by a power cut, fit to nothing.
            remove(&pki)?;
        } else {
            for name in NAMED {
                remove(&pki.join(name))?;
            }
        }
        if let Some((material, _)) = &self.material {
            for (name, text) in &material.files {
                write(&pki.join(name), text.as_bytes(), 0o600)?;
            }
        }
        match self.way {
            Way::Init => self.kubeadm(&["init", "phase", "certs", "all"]).await,
            _ => self.kubeadm(&["join", "phase", "control-plane-prepare", "certs"]).await,
        }
    }

    pub(super) async fn kubeconfig(&mut self) -> Result<Vec<String>, Trouble> {
        for name in ["admin", "super-admin", "controller-manager", "scheduler", "kubelet"] {
            remove(&self.places.kubernetes().join(format!("{name}.conf")))?;
        }
        self.refresh_material().await?;
        match self.way {
            Way::Init => self.kubeadm(&["init", "phase", "kubeconfig", "all"]).await,
            _ => self.kubeadm(&["join", "phase", "control-plane-prepare", "kubeconfig"]).await,
        }
    }

    pub(super) async fn phase(&mut self, step: Step) -> Result<Vec<String>, Trouble> {
        self.refresh_material().await?;
        let init = self.way == Way::Init;
        let words: &[&str] = match (step, init) {
            (Step::Etcd, _) => &["init", "phase", "etcd", "local"],
            (Step::ControlPlane, true) => &["init", "phase", "control-plane", "all"],
            (Step::ControlPlane, false) => &["join", "phase", "control-plane-prepare", "control-plane"],
            (Step::EtcdJoin, _) => return self.etcd_join().await,
            (Step::UploadConfig, _) => &["init", "phase", "upload-config", "all"],
            (Step::MarkControlPlane, true) => &["init", "phase", "mark-control-plane"],
            (Step::MarkControlPlane, false) => &["join", "phase", "control-plane-join", "mark-control-plane"],
            (Step::BootstrapToken, _) => &["init", "phase", "bootstrap-token", "--skip-token-print"],
            (Step::KubeletFinalize, _) => &["init", "phase", "kubelet-finalize", "all"],
            (Step::Addons, _) => &["init", "phase", "addon", "all"],
            _ => return Ok(Vec::new()),
        };
        self.kubeadm(words).await
    }

    pub(super) async fn probe_kubelet(&self) -> Result<Seen, Trouble> {
        let known = self.record.has(Step::Kubelet, self.digest(Step::Kubelet)?);
        let done =
            known && (self.waits_for_etcd() || self.has_kubelet_credentials() && kubelet_is_well().await);
        Ok(if done { Seen::Done } else { Seen::Needed })
    }

    /// A kubelet of a joining control plane asks its own API server, which waits for its own member of etcd: it is not well
    /// before that.
    fn waits_for_etcd(&self) -> bool {
        self.way == Way::JoinControlPlane && !self.record.has_any(Step::EtcdJoin)
    }

    /// Whether the kubelet can show who it is: a power cut may leave its files empty.
    pub(super) fn has_kubelet_credentials(&self) -> bool {
        let kubernetes = self.places.kubernetes();
        let current = self.places.at("var/lib/kubelet/pki/kubelet-client-current.pem");
        let filled = |path: &std::path::Path| std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0);
        let conf = filled(&kubernetes.join("kubelet.conf"));
        // On a control plane the first certificate is in kubelet.conf itself until it is finalised.
        conf && (filled(&current) || self.way == Way::Init)
    }

    pub(super) async fn kubelet(&mut self) -> Result<Vec<String>, Trouble> {
        let known = self.record.has(Step::Kubelet, self.digest(Step::Kubelet)?);
        if known && self.has_kubelet_credentials() {
            let run = Run::new("systemctl", &["start", "kubelet.service"], self.profile.phase);
            let log = run.succeed().await?.log;
            wait_for_kubelet(self.profile.command).await;
            return Ok(log);
        }
        if self.way == Way::Init {
            let log = self.kubeadm(&["init", "phase", "kubelet-start"]).await?;
            wait_for_kubelet(self.profile.command).await;
            return Ok(log);
        }
        self.join_kubelet().await
    }

    async fn join_kubelet(&mut self) -> Result<Vec<String>, Trouble> {
        self.refresh_material().await?;
        let stop = Run::new("systemctl", &["stop", "kubelet.service"], self.profile.phase);
        stop.succeed().await?;
        let kubernetes = self.places.kubernetes();
        for path in [
            kubernetes.join("kubelet.conf"),
            kubernetes.join("bootstrap-kubelet.conf"),
            self.places.at("var/lib/kubelet/pki"),
        ] {
            remove(&path)?;
        }
        if !self.place.is_control_plane() {
            remove(&self.places.pki())?;
        }
        let mut log = self.kubeadm(&["join", "phase", "kubelet-start"]).await?;
        if self.way == Way::JoinWorker {
            // kubeadm's own phase that waits asks with credentials that a worker does not have.
            wait_for_kubelet(Duration::from_secs(u64::from(self.profile.patience))).await;
            if !self.has_kubelet_credentials() {
                log.extend(last_words(self.profile.command).await);
                return Err(Trouble {
                    log,
                    ..Trouble::new(
                        "the kubelet has not been given its certificate yet",
                        "see journalctl -u kubelet; the node tries again by itself",
                    )
                });
            }
            // Its token has done its work.
            remove(&kubernetes.join("bootstrap-kubelet.conf"))?;
        }
        Ok(log)
    }

    async fn etcd_join(&mut self) -> Result<Vec<String>, Trouble> {
        // A power cut may lie between the kubelet's start and this.
        let start = Run::new("systemctl", &["start", "kubelet.service"], self.profile.phase);
        start.succeed().await?;
        let mut log = self.kubeadm(&["join", "phase", "etcd-join"]).await?;
        log.extend(self.kubeadm(&["join", "phase", "kubelet-wait-bootstrap"]).await?);
        wait_for_kubelet(self.profile.command).await;
        Ok(log)
    }
}

/// What the kubelet said last.
async fn last_words(limit: Duration) -> Vec<String> {
    let words = ["--unit=kubelet.service", "--lines=6", "--output=cat", "--no-pager"];
    Run::new("journalctl", &words, limit).run().await.map(|ran| ran.log).unwrap_or_default()
}

/// Waits until the kubelet says that it is well, for `limit` at most; the probe after it judges.
async fn wait_for_kubelet(limit: Duration) {
    let wait = async {
        while !kubelet_is_well().await {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let _ = tokio::time::timeout(limit, wait).await;
}

/// Whether the kubelet's own `/healthz` answers with 200.
async fn kubelet_is_well() -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", KUBELET_HEALTH)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").await.ok()?;
        let mut head = [0; 64];
        let length = stream.read(&mut head).await.ok()?;
        let line = head.get(..length)?;
        Some(line.starts_with(b"HTTP/1.0 200") || line.starts_with(b"HTTP/1.1 200"))
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.ok().flatten().unwrap_or(false)
}
