//! The cluster as a member sees it: who is in it, `serve`, `labels`, `ready`.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cairn_bundle::tuf::Date;
use cairn_protocol::ids::Name;
use cairn_protocol::limits::clean_text;
use serde_json::{Value, json};

use super::kubeadm::random_token;
use super::{Host, Identify, Places, ca_hash};
use crate::csr;
use crate::edge::api::{self, Api, ApiError, Change};
use crate::edge::command::Run;
use crate::edge::serve::{self, Answer, Answers};
use crate::edge::tls::Identity;
use crate::engine::{Seen, Trouble};
use crate::etcd;
use crate::material::{self, CaHash, ControlPlaneMaterial, Peer, Peers, Token, WorkerMaterial};
use crate::profile::Profile;
use crate::steps::Way;

/// Steps that look at the members one after another look at the same picture.
const FRESH: Duration = Duration::from_secs(3);
/// Roles of nodes are labels with this prefix.
const ROLE: &str = "node-role.kubernetes.io/";

/// Requests for certificates.
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Refused requests that are remembered.
const REFUSED: usize = 256;

/// The cluster's members at some moment.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub(super) ca: Option<CaHash>,
    pub(super) nodes: Vec<Member>,
}

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) peer: Peer,
    /// Why it is not Ready, where the cluster says.
    pub(super) reason: String,
    /// Whether it has a role's label.
    pub(super) labelled: bool,
}

/// Reads a Node object; `None` for one that is not of a plan of ours.
fn member(node: &Value) -> Option<Member> {
    let name = Name::new(node["metadata"]["name"].as_str()?).ok()?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let address = list(&node["status"]["addresses"])
        .iter()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str()?.parse().ok())?;
    let ready =
        list(&node["status"]["conditions"]).into_iter().find(|condition| condition["type"] == "Ready");
    let labels = node["metadata"]["labels"].as_object();
    Some(Member {
        peer: Peer {
            name,
            address,
            pods: node["spec"]["podCIDR"].as_str().and_then(|text| text.parse().ok()),
            ready: ready.as_ref().is_some_and(|condition| condition["status"] == "True"),
        },
        reason: clean_text(ready.as_ref().and_then(|c| c["message"].as_str()).unwrap_or_default()),
        labelled: labels.is_some_and(|labels| labels.keys().any(|label| label.starts_with(ROLE))),
    })
}

async fn members_of(api: &Api, ca: Option<CaHash>) -> Result<Members, ApiError> {
    let nodes = api.list("/api/v1/nodes").await?;
    Ok(Members { ca, nodes: nodes.iter().filter_map(member).collect() })
}

impl Host {
    /// The members, at most some seconds old.
    pub(super) async fn members(&mut self) -> Result<Arc<Members>, Trouble> {
        if let Some((members, since)) = &self.members
            && since.elapsed() < FRESH
        {
            return Ok(Arc::clone(members));
        }
        let members = if self.place.is_control_plane() {
            let api = self.api()?;
            members_of(&api, self.own_ca()).await.map_err(|e| Trouble::passing(e.to_string()))?
        } else {
            let Peers { ca, nodes } = self.ask_peers().await?;
            let member = |peer: Peer| Member { peer, reason: String::new(), labelled: true };
            Members { ca, nodes: nodes.into_iter().map(member).collect() }
        };
        let members = Arc::new(members);
        self.members = Some((Arc::clone(&members), Instant::now()));
        Ok(members)
    }

    /// Whether the site's cluster is another than the one this node is a member of: it was begun anew.
    pub(crate) fn is_orphan(&self) -> bool {
        let theirs = self.members.as_ref().and_then(|(members, _)| members.ca);
        self.way == Way::JoinWorker
            && self.record.member
            && theirs.is_some()
            && self.record.cluster.is_some()
            && theirs != self.record.cluster
    }

    pub(super) async fn probe_api(&self) -> Result<Seen, Trouble> {
        let api = self.api()?;
        match api.text("/readyz").await {
            Ok(_) => Ok(Seen::Done),
            Err(error) => Ok(Seen::Waiting(Trouble::new(
                error.to_string(),
                "etcd and the API server start; if it stays so, see crictl ps -a and crictl logs on the node",
            ))),
        }
    }

    pub(super) async fn probe_ready(&mut self) -> Result<Seen, Trouble> {
        let members = self.members().await?;
        let own = members.nodes.iter().find(|member| member.peer.name == self.place.node);
        let (reason, advice) = match own {
            Some(member) if member.peer.ready => return Ok(Seen::Done),
            Some(member) if member.reason.is_empty() => {
                ("the cluster does not call this node Ready yet".to_owned(), "see journalctl -u kubelet")
            }
            Some(member) => (member.reason.clone(), "see journalctl -u kubelet"),
            None => ("the cluster does not know this node".to_owned(), "see journalctl -u kubelet"),
        };
        self.members = None;
        Ok(Seen::Waiting(Trouble::new(reason, advice)))
    }

    pub(super) async fn probe_labels(&mut self) -> Result<Seen, Trouble> {
        let members = self.members().await?;
        let all = members.nodes.iter().all(|member| member.labelled);
        Ok(if all { Seen::Done } else { Seen::Needed })
    }

    /// Names the role of each node that has none yet: a kubelet may not do that for itself.
    pub(super) async fn label(&mut self) -> Result<Vec<String>, Trouble> {
        let members = self.members().await?;
        let api = self.api()?;
        let mut log = Vec::new();
        for member in members.nodes.iter().filter(|member| !member.labelled) {
            let name = &member.peer.name;
            let role = if self.place.control_planes.contains(name) { "control-plane" } else { "worker" };
            let labels = json!({ "metadata": { "labels": { format!("{ROLE}{role}"): "" } } });
            let path = format!("/api/v1/nodes/{name}");
            api.change(Change::Merge, &path, &labels).await.map_err(|e| Trouble::passing(e.to_string()))?;
            log.push(format!("{name} is a {role}"));
        }
        self.members = None;
        Ok(log)
    }

    /// Requests of kubelets for serving certificates that wait and were not refused yet.
    async fn requests(&self, api: &Api) -> Result<Vec<Value>, Trouble> {
        let requests = api.list(&format!("{REQUESTS}?fieldSelector=spec.signerName={}", csr::SIGNER)).await;
        let mut requests = requests.map_err(|e| Trouble::passing(e.to_string()))?;
        requests.retain(|request| {
            let name = request["metadata"]["name"].as_str().unwrap_or_default();
            csr::is_pending(request) && !self.refused.contains(name)
        });
        Ok(requests)
    }

    pub(super) async fn probe_approve(&self) -> Result<Seen, Trouble> {
        let none = self.requests(&self.api()?).await?.is_empty();
        Ok(if none { Seen::Done } else { Seen::Needed })
    }

    pub(super) async fn approve(&mut self) -> Result<Vec<String>, Trouble> {
        self.members = None;
        let members = self.members().await?;
        let api = self.api()?;
        let mut log = Vec::new();
        for mut request in self.requests(&api).await? {
            let name = request["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let address = |node: &str| {
                let member = members.nodes.iter().find(|member| member.peer.name.as_str() == node)?;
                Some(member.peer.address)
            };
            if let Err(why) = csr::judge(&request, address) {
                tracing::warn!(request = name, %why, "a certificate is not approved");
                log.push(clean_text(&format!("{name} is not approved: {why}")));
                if self.refused.len() < REFUSED {
                    self.refused.insert(name);
                }
                continue;
            }
            request["status"]["conditions"] = json!([{
                "type": "Approved",
                "status": "True",
                "reason": "CairnNode",
                "message": "name and address are those of the node",
            }]);
            let path = format!("{REQUESTS}/{name}/approval");
            api.change(Change::Replace, &path, &request)
                .await
                .map_err(|e| Trouble::passing(e.to_string()))?;
            log.push(format!("approved {name}"));
        }
        Ok(log)
    }

    pub(super) fn probe_serve(&self) -> Seen {
        let serving = self.serving.as_ref().is_some_and(|task| !task.is_finished());
        if serving { Seen::Done } else { Seen::Needed }
    }

    pub(super) async fn serve(&mut self) -> Result<Vec<String>, Trouble> {
        let listener = serve::listen().await.map_err(|error| {
            Trouble::passing(format!(
                "port {} cannot be listened on: {error}",
                crate::settings::MATERIAL_PORT
            ))
        })?;
        let settings = self.settings()?;
        let desk = Desk {
            places: self.places.clone(),
            address: settings.address,
            profile: settings.profile,
            control_planes: self.place.control_planes.clone(),
            identity: Arc::clone(&self.identity),
            tokens: Mutex::default(),
        };
        let limit = settings.profile.question * 3;
        self.serving = Some(tokio::spawn(serve::serve(listener, Arc::new(desk), limit)));
        self.elect()?;
        Ok(Vec::new())
    }
}

/// What answers the other nodes.
struct Desk {
    places: Places,
    address: Ipv4Addr,
    profile: Profile,
    control_planes: Vec<Name>,
    identity: Arc<dyn Identify>,
    /// Tokens that were made, by node: one that asks again and again gets the same.
    tokens: Mutex<BTreeMap<Name, (Token, Instant)>>,
}

/// Nodes whose tokens are remembered; more are forgotten, and get new ones.
const TOKENS: usize = 1024;

fn failed(why: impl std::fmt::Display) -> Answer {
    (503, why.to_string().into_bytes())
}

fn body<T: serde::Serialize>(value: &T) -> Answer {
    serde_json::to_vec(value).map_or_else(failed, |bytes| (200, bytes))
}

impl Answers for Desk {
    fn answer<'a>(&'a self, node: Name, path: &'a str) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(async move {
            let answer = match path {
                material::PEERS => self.peers().await,
                material::WORKER => self.worker(&node).await,
                material::CONTROL_PLANE | material::CONTROL_PLANE_AGAIN
                    if self.control_planes.contains(&node) =>
                {
                    self.control_plane(&node, path == material::CONTROL_PLANE).await
                }
                material::CONTROL_PLANE | material::CONTROL_PLANE_AGAIN => {
                    let why = format!("the plan does not name {node} as a control plane");
                    return (403, why.into_bytes());
                }
                _ => return (404, b"there is no such thing here".to_vec()),
            };
            answer.unwrap_or_else(|trouble| failed(trouble.reason))
        })
    }

    fn identity(&self) -> Option<Identity> {
        self.identity.identity()
    }
}

impl Desk {
    fn api(&self) -> Result<Api, Trouble> {
        let kubeconfig = api::kubeconfig(&self.places.kubernetes());
        Api::open(self.address, &kubeconfig, self.profile.question)
            .map_err(|e| Trouble::passing(e.to_string()))
    }

    fn ca(&self) -> Result<CaHash, Trouble> {
        ca_hash(&self.places.pki().join("ca.crt"))
            .ok_or_else(|| Trouble::passing("there is no cluster here yet"))
    }

    async fn peers(&self) -> Result<Answer, Trouble> {
        let members = members_of(&self.api()?, Some(self.ca()?)).await;
        let members = members.map_err(|e| Trouble::passing(e.to_string()))?;
        let nodes = members.nodes.into_iter().map(|member| member.peer).collect();
        Ok(body(&Peers { ca: members.ca, nodes }))
    }

    async fn worker(&self, node: &Name) -> Result<Answer, Trouble> {
        let ca = self.ca()?;
        self.forget_node(node).await?;
        let token = self.token(node).await?;
        tracing::info!(%node, "a worker was given its way in");
        Ok(body(&WorkerMaterial { ca, token }))
    }

    /// `anew`: the asking machine has nothing of the cluster yet.
    async fn control_plane(&self, node: &Name, anew: bool) -> Result<Answer, Trouble> {
        let ca = self.ca()?;
        if anew {
            self.forget_member(node).await?;
            self.forget_node(node).await?;
        }
        let mut files = BTreeMap::new();
        for name in material::SHARED_KEYS {
            let path = self.places.pki().join(name);
            let bytes = cairn_bundle::durable::read(&path, super::PEM_BYTES).ok().flatten();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(|| Trouble::passing(format!("{name} cannot be read")))?;
            files.insert(name.to_owned(), text);
        }
        let token = self.token(node).await?;
        tracing::info!(%node, "a control plane was given the cluster's keys");
        Ok(body(&ControlPlaneMaterial { ca, token, files }))
    }

    /// What the cluster knows of an earlier machine of that name goes, its pods with it.
    async fn forget_node(&self, node: &Name) -> Result<(), Trouble> {
        let path = format!("/api/v1/nodes/{node}");
        self.api()?.delete(&path).await.map_err(|e| Trouble::passing(e.to_string()))
    }

    /// The member of etcd that an earlier machine of that name was goes: with an empty disk under its id it would break
    /// etcd's promise to have kept what it acknowledged.
    async fn forget_member(&self, node: &Name) -> Result<(), Trouble> {
        let pki = self.places.pki().join("etcd");
        let file = |name: &str| pki.join(name).to_string_lossy().into_owned();
        let flags = [
            "--endpoints=https://127.0.0.1:2379".to_owned(),
            format!("--cacert={}", file("ca.crt")),
            format!("--cert={}", file("healthcheck-client.crt")),
            format!("--key={}", file("healthcheck-client.key")),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let list = [flags.as_slice(), &["member", "list", "-w", "json"]].concat();
        let run = Run { output: etcd::LIST_BYTES, ..Run::new("etcdctl", &list, self.profile.command) };
        let listed = run.succeed().await?.output;
        let members = etcd::parse_members(listed.as_bytes()).map_err(|e| Trouble::passing(e.to_string()))?;
        for member in members.iter().filter(|member| member.name == node.as_str()) {
            tracing::warn!(%node, member = member.id, "the member of an earlier machine leaves etcd");
            let remove = [flags.as_slice(), &["member", "remove", member.id.as_str()]].concat();
            Run::new("etcdctl", &remove, self.profile.command).succeed().await?;
        }
        Ok(())
    }

    /// A token for `node`.
    async fn token(&self, node: &Name) -> Result<Token, Trouble> {
        let trouble = |e: ApiError| Trouble::passing(e.to_string());
        let api = self.api()?;
        let life = Duration::from_secs(u64::from(self.profile.token));
        {
            let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            // It has to be good for at least half of its life, as the other side counts on.
            if let Some((token, since)) = tokens.get(node)
                && since.elapsed() < life / 4
            {
                return Ok(token.clone());
            }
        }
        let token = random_token()?;
        let secret = token_secret(&token, node, unix_now() + life.as_secs());
        api.change(Change::Create, "/api/v1/namespaces/kube-system/secrets", &secret)
            .await
            .map_err(trouble)?;
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS {
            tokens.clear();
        }
        tokens.insert(node.clone(), (token.clone(), Instant::now()));
        Ok(token)
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A token as the cluster keeps it
/// (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>).
fn token_secret(token: &Token, node: &Name, expires: u64) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": { "name": format!("bootstrap-token-{}", token.id()), "namespace": "kube-system" },
        "stringData": {
            "description": format!("cairn: for node {node}"),
            "token-id": token.id(),
            "token-secret": token.secret(),
            "expiration": Date(expires).to_string(),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read() {
        let node = json!({
            "metadata": { "name": "w1", "labels": { "node-role.kubernetes.io/worker": "" } },
            "spec": { "podCIDR": "10.244.1.0/24" },
            "status": {
                "addresses": [{ "type": "Hostname", "address": "w1" }, { "type": "InternalIP", "address": "10.77.0.12" }],
                "conditions": [{ "type": "Ready", "status": "False", "message": "no network" }],
            },
        });
        let read = member(&node).unwrap();
        assert_eq!(read.peer.pods, Some("10.244.1.0/24".parse().unwrap()));
        assert!(!read.peer.ready && read.labelled);
        assert_eq!(read.reason, "no network");
        assert!(member(&json!({ "metadata": { "name": "W_1" } })).is_none());
    }

    #[test]
    fn a_token_is_kept_as_the_cluster_wants_it() {
        let token = Token::from_random([1; 11]);
        let secret = token_secret(&token, &Name::new("w1").unwrap(), 1_800_000_000);
        assert_eq!(secret["stringData"]["expiration"], "2027-01-15T08:00:00Z");
        assert_eq!(secret["metadata"]["name"], format!("bootstrap-token-{}", token.id()));
    }
}
