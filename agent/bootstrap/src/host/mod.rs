//! The steps on a real node: what each looks at and does.

mod base;
mod cluster;
mod elector;
mod join;
mod kubeadm;
mod network;
mod workloads;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cairn_bundle::durable;
use cairn_net::kernel::Kernel;
use cairn_net::pods::OwnAddress;
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::plan::NodeKubernetes;
use tokio::task::JoinHandle;

use crate::edge::api::{self, Api};
use crate::edge::tls::Identity;
use crate::engine::{Seen, Trouble};
use crate::material::{CaHash, Token};
use crate::profile::Profile;
use crate::record::{self, Record};
use crate::render::kubeadm as files;
use crate::settings::Settings;
use crate::steps::{Step, Way};

pub(crate) use cluster::Members;

/// Who this node is now; certificates live for a day.
pub trait Identify: Send + Sync + 'static {
    /// The identity; `None` while there is none.
    fn identity(&self) -> Option<Identity>;
}

/// Where things lie; `/` on a node, a directory in tests.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// Below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// `/etc/kubernetes`, on DATA.
    pub(crate) fn kubernetes(&self) -> PathBuf {
        self.at("etc/kubernetes")
    }

    /// The cluster's keys.
    pub(crate) fn pki(&self) -> PathBuf {
        self.at("etc/kubernetes/pki")
    }

    /// What the bootstrap keeps, on DATA.
    pub(crate) fn kept(&self) -> PathBuf {
        self.at("var/lib/cairn/kubernetes")
    }

    /// What lives for one boot: kubeadm's file has a token in it.
    pub(crate) fn run(&self) -> PathBuf {
        self.at("run/cairn/kubernetes")
    }

    /// What the layers bring.
    pub(crate) fn layer(&self) -> PathBuf {
        self.at("usr/lib/cairn")
    }

    /// The bootstrap's record.
    pub fn record(&self) -> PathBuf {
        self.kept().join(record::FILE_NAME)
    }

    fn config(&self) -> PathBuf {
        self.run().join("kubeadm.yaml")
    }
}

/// The node while it becomes a member and is one.
pub(crate) struct Host {
    pub(crate) places: Places,
    pub(crate) place: NodeKubernetes,
    pub(crate) container: bool,
    memory_bytes: Option<u64>,
    pub(crate) profile: Profile,
    pub(crate) identity: Arc<dyn Identify>,
    pub(crate) way: Way,
    pub(crate) record: Record,
    kernel: Kernel,
    own: Option<OwnAddress>,
    settings: Option<Settings>,
    /// What a control plane handed out, and when.
    material: Option<(Material, Instant)>,
    /// The digest of kubeadm's file without its secrets, once it is written in this process.
    config: Option<Sha256Digest>,
    /// The token in that file, for logs to be cleaned of it.
    token: Option<Token>,
    images_seen: bool,
    serving: Option<JoinHandle<()>>,
    electing: Option<JoinHandle<()>>,
    members: Option<(Arc<Members>, Instant)>,
    workloads_done: bool,
    /// Requests for certificates that were refused, so that each is told once.
    refused: std::collections::BTreeSet<String>,
}

/// What was handed out to this node.
#[derive(Debug)]
struct Material {
    ca: CaHash,
    token: Token,
    files: std::collections::BTreeMap<String, String>,
}

impl Host {
    pub(crate) fn new(
        places: Places,
        place: NodeKubernetes,
        (container, memory_bytes): (bool, Option<u64>),
        profile: Profile,
        identity: Arc<dyn Identify>,
        kernel: Kernel,
        (way, record): (Way, Record),
    ) -> Self {
        Self {
            places,
            place,
            container,
            memory_bytes,
            profile,
            identity,
            way,
            record,
            kernel,
            own: None,
            settings: None,
            material: None,
            config: None,
            token: None,
            images_seen: false,
            serving: None,
            electing: None,
            members: None,
            workloads_done: false,
            refused: std::collections::BTreeSet::new(),
        }
    }

    /// Looks at a step.
    pub(crate) async fn probe(&mut self, step: Step) -> Seen {
        let seen = match step {
            Step::Prepare => self.probe_prepare(),
            Step::Containerd => self.probe_containerd().await,
            Step::Images => self.probe_images().await,
            Step::Endpoint => self.probe_endpoint().await,
            Step::Material => self.probe_material(),
            Step::Config => Ok(if self.config.is_some() { Seen::Done } else { Seen::Needed }),
            Step::Certs => self.probe_file(step, "pki/ca.crt"),
            Step::Kubeconfig => self.probe_file(step, "admin.conf"),
            Step::Etcd => self.probe_file(step, "manifests/etcd.yaml"),
            Step::ControlPlane => self.probe_file(step, "manifests/kube-apiserver.yaml"),
            Step::Kubelet => self.probe_kubelet().await,
            Step::EtcdJoin => self.probe_file(step, "manifests/etcd.yaml"),
            Step::ApiServer => self.probe_api().await,
            Step::UploadConfig
            | Step::MarkControlPlane
            | Step::BootstrapToken
            | Step::KubeletFinalize
            | Step::Addons => self.probe_file(step, "."),
            Step::Serve => Ok(self.probe_serve()),
            Step::PodNetwork => self.probe_pod_network().await,
            Step::Labels => self.probe_labels().await,
            Step::Approve => self.probe_approve().await,
            Step::Ready => self.probe_ready().await,
            Step::Workloads => self.probe_workloads(),
        };
        seen.unwrap_or_else(Seen::Waiting)
    }

    /// Does a step; the answer is the last lines that its programs said.
    pub(crate) async fn act(&mut self, step: Step) -> Result<Vec<String>, Trouble> {
        let log = match step {
            Step::Prepare => self.prepare().await,
            Step::Containerd => self.containerd().await,
            Step::Images => self.import().await,
            Step::Endpoint => self.take_endpoint().await,
            Step::Material => self.fetch_material().await,
            Step::Config => self.write_config(),
            Step::Certs => self.certs().await,
            Step::Kubeconfig => self.kubeconfig().await,
            Step::Kubelet => self.kubelet().await,
            Step::Etcd
            | Step::ControlPlane
            | Step::EtcdJoin
            | Step::UploadConfig
            | Step::MarkControlPlane
            | Step::BootstrapToken
            | Step::KubeletFinalize
            | Step::Addons => self.phase(step).await,
            Step::ApiServer | Step::Ready => Ok(Vec::new()),
            Step::Serve => self.serve().await,
            Step::PodNetwork => self.pod_network().await,
            Step::Labels => self.label().await,
            Step::Approve => self.approve().await,
            Step::Workloads => self.apply_workloads().await,
        }?;
        if step.is_recorded() {
            let with = self.digest(step)?;
            // What the programs wrote is on the disk before it counts.
            let _ = tokio::task::spawn_blocking(nix::unistd::sync).await;
            self.record.note(step, with);
            self.save()?;
        }
        Ok(log)
    }

    /// All steps are done.
    pub(crate) fn is_member(&mut self) -> Result<(), Trouble> {
        let version = self.settings()?.inventory.version.clone();
        let cluster = self.own_ca();
        if !self.record.member
            || self.record.version.as_ref() != Some(&version)
            || self.record.cluster != cluster
        {
            (self.record.member, self.record.version, self.record.cluster) = (true, Some(version), cluster);
            self.save()?;
        }
        Ok(())
    }

    /// Writes the record.
    pub(crate) fn save(&self) -> Result<(), Trouble> {
        let bytes = serde_json::to_vec(&self.record).map_err(|e| Trouble::passing(e.to_string()))?;
        write(&self.places.record(), &bytes, 0o600)
    }

    fn settings(&self) -> Result<&Settings, Trouble> {
        self.settings.as_ref().ok_or_else(|| Trouble::passing("the node's settings are not known yet"))
    }

    /// What a recorded step was or would be done with.
    fn digest(&self, step: Step) -> Result<Sha256Digest, Trouble> {
        match step {
            Step::Images => Ok(self.images_digest()?),
            Step::Workloads => self.workloads_digest(),
            // A kubelet that joined keeps its credentials over new versions and settings of the cluster.
            Step::Kubelet if self.way != Way::Init => {
                let settings = self.settings()?;
                let words = format!("{} {} {}", self.place.node, settings.api(), settings.address);
                Ok(Sha256Digest::of(words.as_bytes()))
            }
            // A join's file has a token of its own each time; what it says beside it is the settings'.
            _ => {
                let settings = self.settings()?;
                let token = Token::from_random([0; 11]);
                Ok(Sha256Digest::of(files::init(settings, &token).as_bytes()))
            }
        }
    }

    /// A recorded step that leaves the file `path` below `/etc/kubernetes`.
    fn probe_file(&self, step: Step, path: &str) -> Result<Seen, Trouble> {
        let there = self.places.kubernetes().join(path).exists();
        let done = there && self.record.has(step, self.digest(step)?);
        Ok(if done { Seen::Done } else { Seen::Needed })
    }

    /// The API server of this control plane.
    fn api(&self) -> Result<Api, Trouble> {
        let settings = self.settings()?;
        let kubeconfig = api::kubeconfig(&self.places.kubernetes());
        Api::open(settings.address, &kubeconfig, settings.profile.question)
            .map_err(|error| Trouble::passing(error.to_string()))
    }

    /// The cluster that this node's files are of.
    fn own_ca(&self) -> Option<CaHash> {
        ca_hash(&self.places.pki().join("ca.crt"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for task in self.serving.iter().chain(&self.electing) {
            task.abort();
        }
    }
}

/// The longest certificate or key file that is read, bytes.
const PEM_BYTES: u64 = 64 << 10;

/// The hash of a CA certificate's key, as kubeadm computes it: SHA-256 over its SubjectPublicKeyInfo.
pub(crate) fn ca_hash(path: &Path) -> Option<CaHash> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let pem = durable::read(path, PEM_BYTES).ok()??;
    let certificate = CertificateDer::from_pem_slice(&pem).ok()?;
    let anchor = webpki::anchor_from_trusted_cert(&certificate).ok()?;
    Some(CaHash(Sha256Digest::of(&cairn_der_sequence(&anchor.subject_public_key_info))))
}

/// DER SEQUENCE around `content` (X.690 8.1): webpki hands out the content alone.
fn cairn_der_sequence(content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![0x30];
    if let Ok(short @ 0..=0x7f) = u8::try_from(length) {
        der.push(short);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        der.push(0x80 | u8::try_from(bytes.len()).unwrap_or(0));
        der.extend(bytes);
    }
    der.extend_from_slice(content);
    der
}

/// Writes a file whole and through; its directory is made where it is missing.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Trouble> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.map_err(|error| Trouble::passing(format!("{}: {error}", path.display())))?;
    durable::write_mode(path, bytes, mode).map_err(|error| {
        let advice = if error.is_full() { "make room on DATA" } else { "the node tries again by itself" };
        Trouble::new(error.to_string(), advice)
    })
}

/// Removes a file or a directory with all that is in it; a missing one is fine.
fn remove(path: &Path) -> Result<(), Trouble> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Trouble::passing(format!("{} cannot be removed: {error}", path.display())))
        }
        _ => Ok(()),
    }
}
