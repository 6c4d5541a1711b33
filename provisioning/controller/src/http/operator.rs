//! What operators call: sites, plans, tokens, seeds, nodes, quarantine, refusals.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_protocol::ids::Name;
use cairn_protocol::limits;
use cairn_protocol::netplan::Netplan;
use cairn_protocol::plan::Plan;
use cairn_protocol::seed::{Seed, SignedSeed};
use cairn_protocol::signed::Domain;
use serde::{Deserialize, Serialize};

use super::auth::OperatorCaller;
use super::input::{Limited, Path, Query, json, name};
use super::problem::Failure;
use crate::app::App;
use crate::assign;
use crate::store::certs::CertView;
use crate::store::enrolments::{self, Approval, QuarantineView};
use crate::store::nodes::{self, NodeView};
use crate::store::plans::{self, Put, SiteView};
use crate::store::refusals::{self, RefusalView};
use crate::store::{self, assignments, certs};

/// A token's shortest and longest life in seconds: a minute, 90 days.
const TOKEN_LIFE: std::ops::RangeInclusive<u64> = 60..=90 * 86_400;
/// A token's life where none is named: a day.
const TOKEN_DEFAULT: u64 = 86_400;
/// Longest request of an operator but for plans and seeds, bytes.
const REQUEST_BYTES: usize = 64 << 10;

fn no_site(site: &Name) -> Failure {
    Failure::missing(
        "unknown-site",
        format!("there is no site {site}; apply a plan first: cairnctl site plan apply"),
    )
}

fn no_node(site: &Name, node: &Name) -> Failure {
    Failure::missing("unknown-node", format!("site {site} has no node {node}"))
}

/// `GET /v1/sites`.
#[utoipa::path(get, path = "/v1/sites", tag = "operator", summary = "All sites", responses((status = 200, body = Vec<SiteView>)))]
pub async fn sites(State(app): State<Arc<App>>, _: OperatorCaller) -> Result<Json<Vec<SiteView>>, Failure> {
    Ok(Json(app.store.read(plans::list).await?))
}

/// What became of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PlanAnswer {
    /// The site.
    pub site: String,
    /// How many nodes the plan has.
    pub nodes: u64,
    /// Nodes whose assignment changed.
    pub changed: Vec<String>,
    /// Manifests that the plan wants and no published release has; nodes keep what they run until they are published.
    pub missing: Vec<String>,
}

/// `PUT /v1/sites/{site}/plan`: YAML.
#[utoipa::path(put, path = "/v1/sites/{site}/plan", tag = "operator", summary = "Makes a YAML text the site's plan", params(("site" = String, Path)), request_body(content = String, content_type = "application/yaml", description = "4 MiB at most"), responses((status = 200, body = PlanAnswer)))]
pub async fn put_plan(
    State(app): State<Arc<App>>,
    OperatorCaller { name: operator }: OperatorCaller,
    Path(site): Path<String>,
    Limited(body): Limited<{ limits::PLAN_BYTES }>,
) -> Result<Json<PlanAnswer>, Failure> {
    let site = name("site", &site)?;
    let yaml = read_plan_text(&body)?.to_owned();
    let plan = Plan::parse(&yaml).map_err(|e| Failure::unacceptable("plan-invalid", e.to_string()))?;
    if plan.site != site {
        let detail = format!("the plan is for site {}, it was put as the plan of {site}", plan.site);
        return Err(Failure::unacceptable("plan-invalid", detail));
    }
    let nodes = plan.nodes.len() as u64;
    let missing: std::collections::BTreeSet<_> =
        plan.nodes.values().flat_map(|node| assign::missing(&plan, node, &app.releases())).collect();
    let (job, at) = (app.clone(), site.clone());
    let (put, changed) = app
        .store
        .write(move |tx| {
            let now = job.clock.now();
            let put = plans::put(tx, &plan, &yaml, now)?;
            if put != Put::Stored {
                return Ok((put, Vec::new()));
            }
            let changed = assign::refresh_site(tx, &job.identity, &job.releases(), &at, now)?;
            Ok((put, changed))
        })
        .await?;
    if let Put::SerialTaken { serial, site, node } = put {
        let detail = format!("serial {serial:?} belongs to node {node} of site {site} already");
        return Err(Failure::conflict("serial-taken", detail));
    }
    tracing::info!(%site, %operator, nodes, changed = changed.len(), "a plan was applied");
    for node in &changed {
        app.announce_node(&site, node).await;
    }
    let changed = changed.iter().map(Name::to_string).collect();
    Ok(Json(PlanAnswer { site: site.to_string(), nodes, changed, missing: missing.into_iter().collect() }))
}

/// The text of a plan.
///
/// # Errors
/// A 422 for bytes that are not UTF-8.
pub fn read_plan_text(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes)
        .map_err(|e| Failure::unacceptable("plan-invalid", format!("the plan is not UTF-8 text: {e}")))
}

/// `?format=`.
#[derive(Debug, Deserialize)]
pub struct FormatQuery {
    format: Option<String>,
}

/// `GET /v1/sites/{site}/plan`: JSON, or the original with `?format=yaml`.
#[utoipa::path(get, path = "/v1/sites/{site}/plan", tag = "operator", summary = "The site's plan", params(("site" = String, Path), ("format" = Option<String>, Query, description = "json or yaml")), responses((status = 200, description = "cairn_protocol::plan::Plan", body = Object)))]
pub async fn get_plan(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
    Path(site): Path<String>,
    Query(query): Query<FormatQuery>,
) -> Result<Response, Failure> {
    let site = name("site", &site)?;
    let at = site.clone();
    match query.format.as_deref() {
        Some("yaml") => {
            let yaml = app.store.read(move |tx| plans::yaml(tx, &at)).await?.ok_or_else(|| no_site(&site))?;
            Ok(([(header::CONTENT_TYPE, "application/yaml")], yaml).into_response())
        }
        None | Some("json") => {
            let plan = app.store.read(move |tx| plans::get(tx, &at)).await?.ok_or_else(|| no_site(&site))?;
            Ok(Json(plan).into_response())
        }
        Some(_) => Err(Failure::bad("bad-query", "format takes json or yaml")),
    }
}

/// A wish for a token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRequest {
    /// Seconds until it runs out. Default 86400, 60 to 7776000.
    pub ttl_seconds: Option<u64>,
}

/// A one-time token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TokenAnswer {
    /// The token; it is shown here once and kept as a hash.
    pub token: String,
    /// When it runs out, seconds since 1970.
    pub expires: u64,
}

/// `POST /v1/sites/{site}/tokens`.
#[utoipa::path(post, path = "/v1/sites/{site}/tokens", tag = "operator", summary = "Makes a one-time token", params(("site" = String, Path)), request_body = TokenRequest, responses((status = 200, body = TokenAnswer)))]
pub async fn token(
    State(app): State<Arc<App>>,
    OperatorCaller { name: operator }: OperatorCaller,
    Path(site): Path<String>,
    Limited(body): Limited<REQUEST_BYTES>,
) -> Result<Json<TokenAnswer>, Failure> {
    let site = name("site", &site)?;
    let request: TokenRequest =
        if body.is_empty() { TokenRequest::default() } else { json("the request", &body)? };
    let answer = make_token(&app, &site, request.ttl_seconds).await?;
    tracing::info!(%site, %operator, expires = answer.expires, "a token was made");
    Ok(Json(answer))
}

async fn make_token(app: &App, site: &Name, ttl: Option<u64>) -> Result<TokenAnswer, Failure> {
    let ttl = ttl.unwrap_or(TOKEN_DEFAULT);
    if !TOKEN_LIFE.contains(&ttl) {
        let (min, max) = (TOKEN_LIFE.start(), TOKEN_LIFE.end());
        return Err(Failure::bad("bad-ttl", format!("ttl_seconds takes {min} to {max}")));
    }
    // 160 bits; nobody guesses it, so a plain hash keeps it well.
    let token = crate::random::hex(20);
    let now = app.clock.now();
    let (at, secret) = (site.clone(), token.clone());
    let made = app
        .store
        .write(move |tx| {
            if plans::get(tx, &at)?.is_none() {
                return Ok(false);
            }
            enrolments::add_token(tx, &at, &secret, now, now + ttl)?;
            Ok(true)
        })
        .await?;
    if made { Ok(TokenAnswer { token, expires: now + ttl }) } else { Err(no_site(site)) }
}

/// A wish for a seed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SeedRequest {
    /// A netplan v2 `network` section.
    #[schema(value_type = Option<Object>)]
    pub network: Option<Netplan>,
    /// Base URLs of the controller to try before the image's own.
    pub controllers: Vec<String>,
    /// Whether to put a one-time token in.
    pub with_token: bool,
    /// The token's life. Default 86400, 60 to 7776000.
    pub ttl_seconds: Option<u64>,
}

/// `POST /v1/sites/{site}/seed`.
#[utoipa::path(post, path = "/v1/sites/{site}/seed", tag = "operator", summary = "Makes a signed seed", params(("site" = String, Path)), request_body = SeedRequest, responses((status = 200, description = "cairn_protocol::seed::SignedSeed", body = Object)))]
pub async fn seed(
    State(app): State<Arc<App>>,
    OperatorCaller { name: operator }: OperatorCaller,
    Path(site): Path<String>,
    Limited(body): Limited<{ limits::SEED_BYTES }>,
) -> Result<Json<SignedSeed>, Failure> {
    let site = name("site", &site)?;
    let request: SeedRequest = json("the request", &body)?;
    let url = |text: &String| {
        text.starts_with("https://") && text.len() <= 512 && !text.contains(char::is_whitespace)
    };
    if request.controllers.len() > 16 || !request.controllers.iter().all(url) {
        return Err(Failure::bad("bad-controllers", "controllers takes up to 16 https:// URLs"));
    }
    let token = if request.with_token {
        Some(make_token(&app, &site, request.ttl_seconds).await?.token)
    } else {
        let at = site.clone();
        app.store.read(move |tx| plans::yaml(tx, &at)).await?.ok_or_else(|| no_site(&site))?;
        None
    };
    let seed = Seed {
        version: 1,
        site: site.clone(),
        controllers: request.controllers,
        network: request.network,
        token,
    };
    let payload = store::to_json("seed", &seed)?;
    tracing::info!(%site, %operator, with_token = request.with_token, "a seed was made");
    Ok(Json(SignedSeed { keys: app.identity.keys.clone(), seed: app.identity.sign(Domain::Seed, payload) }))
}

/// `?site=`.
#[derive(Debug, Deserialize)]
pub struct SiteQuery {
    site: Option<String>,
}

/// `GET /v1/nodes`.
#[utoipa::path(get, path = "/v1/nodes", tag = "operator", summary = "All nodes", params(("site" = Option<String>, Query)), responses((status = 200, body = Vec<NodeView>)))]
pub async fn list_nodes(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
    Query(query): Query<SiteQuery>,
) -> Result<Json<Vec<NodeView>>, Failure> {
    let site = query.site.map(|site| name("site", &site)).transpose()?;
    Ok(Json(app.store.read(move |tx| nodes::list(tx, site.as_ref())).await?))
}

/// Everything about a node.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct NodeDetail {
    /// As in lists.
    #[serde(flatten)]
    pub node: NodeView,
    /// The assignment that it is given now.
    #[schema(value_type = Option<Object>)]
    pub assignment: Option<serde_json::Value>,
    /// Manifests that its plan wants and no published release has.
    pub missing: Vec<String>,
    /// Its last full status.
    #[schema(value_type = Option<Object>)]
    pub status: Option<serde_json::Value>,
    /// What the machine has.
    #[schema(value_type = Option<Object>)]
    pub inventory: Option<serde_json::Value>,
    /// Its certificates, newest first.
    pub certificates: Vec<CertView>,
    /// Its last 20 events, oldest first.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<cairn_protocol::heartbeat::Event>,
}

/// `GET /v1/nodes/{site}/{node}`.
#[utoipa::path(get, path = "/v1/nodes/{site}/{node}", tag = "operator", summary = "Everything about a node", params(("site" = String, Path), ("node" = String, Path)), responses((status = 200, body = NodeDetail)))]
pub async fn get_node(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
    Path((site, node)): Path<(String, String)>,
) -> Result<Json<NodeDetail>, Failure> {
    let (site, node) = (name("site", &site)?, name("node", &node)?);
    let (at, of, job) = (site.clone(), node.clone(), app.clone());
    let detail = app
        .store
        .read(move |tx| {
            let Some(view) = nodes::get(tx, &at, &of)? else { return Ok(None) };
            let text = |text: Option<String>| text.map(|text| store::json("report", &text)).transpose();
            let (status, inventory) = nodes::reports(tx, &at, &of)?;
            let plan = plans::get(tx, &at)?;
            let planned = plan.as_ref().and_then(|plan| Some((plan, plan.nodes.get(&of)?)));
            let current = assignments::current(tx, &at, &of)?;
            Ok(Some(NodeDetail {
                assignment: text(current.map(|current| current.envelope.payload))?,
                missing: planned
                    .map(|(plan, node)| assign::missing(plan, node, &job.releases()))
                    .unwrap_or_default(),
                status: text(status)?,
                inventory: text(inventory)?,
                certificates: certs::of_node(tx, &at, &of)?,
                events: nodes::list_events(tx, &at, &of, 20)?,
                node: view,
            }))
        })
        .await?;
    detail.map(Json).ok_or_else(|| no_node(&site, &node))
}

/// `?limit=`.
#[derive(Debug, Deserialize)]
pub struct LimitQuery {
    limit: Option<u64>,
}

/// `GET /v1/nodes/{site}/{node}/events`: the latest ones, oldest first.
#[utoipa::path(get, path = "/v1/nodes/{site}/{node}/events", tag = "operator", summary = "The latest events of a node, the oldest first", params(("site" = String, Path), ("node" = String, Path), ("limit" = Option<u64>, Query, description = "1 to 5000, default 200")), responses((status = 200, description = "cairn_protocol::heartbeat::Event", body = Vec<Object>)))]
pub async fn node_events(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
    Path((site, node)): Path<(String, String)>,
    Query(query): Query<LimitQuery>,
) -> Result<Json<Vec<cairn_protocol::heartbeat::Event>>, Failure> {
    let (site, node) = (name("site", &site)?, name("node", &node)?);
    let limit = query.limit.unwrap_or(200).clamp(1, 5_000);
    let (at, of) = (site.clone(), node.clone());
    let events = app
        .store
        .read(move |tx| {
            let known = nodes::get(tx, &at, &of)?.is_some();
            known.then(|| nodes::list_events(tx, &at, &of, limit)).transpose()
        })
        .await?;
    events.map(Json).ok_or_else(|| no_node(&site, &node))
}

/// `POST /v1/nodes/{site}/{node}/release`: takes key and certificates from the node.
#[utoipa::path(post, path = "/v1/nodes/{site}/{node}/release", tag = "operator", summary = "Takes key and certificates from a node", params(("site" = String, Path), ("node" = String, Path)), responses((status = 200, body = NodeView)))]
pub async fn release(
    State(app): State<Arc<App>>,
    OperatorCaller { name: operator }: OperatorCaller,
    Path((site, node)): Path<(String, String)>,
) -> Result<Json<NodeView>, Failure> {
    let (site, node) = (name("site", &site)?, name("node", &node)?);
    let (at, of, now) = (site.clone(), node.clone(), app.clock.now());
    if !app.store.write(move |tx| nodes::release(tx, &at, &of, now)).await? {
        return Err(no_node(&site, &node));
    }
    app.reload_revoked().await?;
    tracing::info!(%site, %node, %operator, "released: another machine may enrol in its place");
    show(&app, &site, &node).await
}

/// `POST /v1/nodes/{site}/{node}/reinstall`: its next assignment tells it to wipe its disk and install anew.
#[utoipa::path(post, path = "/v1/nodes/{site}/{node}/reinstall", tag = "operator", summary = "Orders a node to wipe its disk and install anew", params(("site" = String, Path), ("node" = String, Path)), responses((status = 200, body = NodeView)))]
pub async fn reinstall(
    State(app): State<Arc<App>>,
    OperatorCaller { name: operator }: OperatorCaller,
    Path((site, node)): Path<(String, String)>,
) -> Result<Json<NodeView>, Failure> {
    let (site, node) = (name("site", &site)?, name("node", &node)?);
    let (at, of, job) = (site.clone(), node.clone(), app.clone());
    let ordered = app
        .store
        .write(move |tx| {
            let planned = nodes::get(tx, &at, &of)?.is_some_and(|view| view.planned);
            if !planned || !nodes::order_reinstall(tx, &at, &of)? {
                return Ok(false);
            }
            assign::refresh_site(tx, &job.identity, &job.releases(), &at, job.clock.now())?;
            Ok(true)
        })
        .await?;
    if !ordered {
        return Err(no_node(&site, &node));
    }
    tracing::info!(%site, %node, %operator, "a reinstall was ordered");
    show(&app, &site, &node).await
}

async fn show(app: &App, site: &Name, node: &Name) -> Result<Json<NodeView>, Failure> {
    let (at, of) = (site.clone(), node.clone());
    let view =
        app.store.read(move |tx| nodes::get(tx, &at, &of)).await?.ok_or_else(|| no_node(site, node))?;
    app.announce(view.clone());
    Ok(Json(view))
}

/// `GET /v1/quarantine`.
#[utoipa::path(get, path = "/v1/quarantine", tag = "operator", summary = "Keys in quarantine", responses((status = 200, body = Vec<QuarantineView>)))]
pub async fn quarantine(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
) -> Result<Json<Vec<QuarantineView>>, Failure> {
    Ok(Json(app.store.read(enrolments::list).await?))
}

/// Which node a key becomes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveRequest {
    /// The site.
    #[schema(value_type = String)]
    pub site: Name,
    /// The node, which the site's plan must have.
    #[schema(value_type = String)]
    pub node: Name,
}

/// `POST /v1/quarantine/{id}/approve`.
#[utoipa::path(post, path = "/v1/quarantine/{id}/approve", tag = "operator", summary = "Approves a key as a node of a plan", params(("id" = u64, Path)), request_body = ApproveRequest, responses((status = 204, description = "Approved")))]
pub async fn approve(
    State(app): State<Arc<App>>,
    OperatorCaller { name: operator }: OperatorCaller,
    Path(id): Path<u64>,
    Limited(body): Limited<REQUEST_BYTES>,
) -> Result<StatusCode, Failure> {
    let ApproveRequest { site, node } = json("the request", &body)?;
    let (at, of) = (site.clone(), node.clone());
    match app.store.write(move |tx| enrolments::approve(tx, id, &at, &of)).await? {
        Approval::Done => {
            tracing::info!(id, %site, %node, %operator, "a key was approved");
            Ok(StatusCode::NO_CONTENT)
        }
        Approval::NoSuchKey => Err(no_key(id)),
        Approval::NoSuchNode => Err(Failure::missing(
            "unknown-node",
            format!("the plan of site {site} has no node {node}; add it to the plan first"),
        )),
        Approval::Taken => Err(Failure::conflict(
            "serial-already-enrolled",
            format!("node {node} is installed with another key; run: cairnctl node release {site} {node}"),
        )),
    }
}

fn no_key(id: u64) -> Failure {
    Failure::missing("unknown-quarantine", format!("no key {id} waits in quarantine"))
}

/// `POST /v1/quarantine/{id}/refuse`.
#[utoipa::path(post, path = "/v1/quarantine/{id}/refuse", tag = "operator", summary = "Refuses a key", params(("id" = u64, Path)), responses((status = 204, description = "Refused")))]
pub async fn refuse(
    State(app): State<Arc<App>>,
    OperatorCaller { name: operator }: OperatorCaller,
    Path(id): Path<u64>,
) -> Result<StatusCode, Failure> {
    if !app.store.write(move |tx| enrolments::refuse(tx, id)).await? {
        return Err(no_key(id));
    }
    tracing::info!(id, %operator, "a key was refused");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/refusals`.
#[utoipa::path(get, path = "/v1/refusals", tag = "operator", summary = "What was refused, the latest first", responses((status = 200, body = Vec<RefusalView>)))]
pub async fn list_refusals(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
) -> Result<Json<Vec<RefusalView>>, Failure> {
    Ok(Json(app.store.read(refusals::list).await?))
}
