//! What operators call about machines: nodes, quarantine, refusals.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cairn_protocol::ids::Name;
use serde::{Deserialize, Serialize};

use super::auth::OperatorCaller;
use super::input::{Limited, Path, Query, json, name};
use super::problem::Failure;
use super::sites::REQUEST_BYTES;
use crate::app::App;
use crate::assign;
use crate::store::certs::CertView;
use crate::store::enrolments::{self, Approval, QuarantineView};
use crate::store::nodes::{self, NodeView};
use crate::store::refusals::{self, RefusalView};
use crate::store::{self, assignments, certs, plans};

fn no_node(site: &Name, node: &Name) -> Failure {
    Failure::missing("unknown-node", format!("site {site} has no node {node}"))
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

/// Events that one answer may have; more are not kept.
const EVENTS: std::ops::RangeInclusive<u64> = 1..=5_000;

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
    let limit = query.limit.unwrap_or(200);
    if !EVENTS.contains(&limit) {
        let (min, max) = (EVENTS.start(), EVENTS.end());
        return Err(Failure::bad("bad-query", format!("limit takes {min} to {max}")));
    }
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
    OperatorCaller { name: operator, .. }: OperatorCaller,
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
    OperatorCaller { name: operator, .. }: OperatorCaller,
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
    OperatorCaller { name: operator, .. }: OperatorCaller,
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
    OperatorCaller { name: operator, .. }: OperatorCaller,
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
