//! What operators call about sites: plans, tokens, seeds.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
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
use crate::store;
use crate::store::enrolments;
use crate::store::plans::{self, Put, SiteView};

/// A token's shortest and longest life in seconds: a minute, 90 days.
const TOKEN_LIFE: std::ops::RangeInclusive<u64> = 60..=90 * 86_400;
/// A token's life where none is named: a day.
const TOKEN_DEFAULT: u64 = 86_400;
/// Longest request of an operator but for plans and seeds, bytes.
pub(super) const REQUEST_BYTES: usize = 64 << 10;

fn no_site(site: &Name) -> Failure {
    Failure::missing(
        "unknown-site",
        format!("there is no site {site}; apply a plan first: cairnctl site plan apply"),
    )
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
    OperatorCaller { name: operator, .. }: OperatorCaller,
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
    OperatorCaller { name: operator, .. }: OperatorCaller,
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
    OperatorCaller { name: operator, .. }: OperatorCaller,
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
