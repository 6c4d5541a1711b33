//! The HTTP API: routes, who may call them, and what they say of themselves.

pub mod auth;
pub mod boot;
pub mod files;
pub mod input;
pub mod node;
pub mod operator;
pub mod problem;
pub mod repo;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post, put};
use cairn_protocol::api;

use crate::app::App;
use problem::Failure;

/// The API's routes.
pub fn router(app: Arc<App>) -> Router {
    let file = |prefix: &str, rest: &str| format!("{prefix}/{rest}");
    Router::new()
        .route("/healthz", get(healthz))
        .route(api::TIME, get(node::time))
        .route(api::ENROL, post(node::enrol))
        .route(api::RENEW, post(node::renew))
        .route(api::ASSIGNMENT, get(node::assignment))
        .route(api::HEARTBEAT, post(node::heartbeat))
        .route(api::STATUS, put(node::status))
        .route(&file(api::METADATA, "{file}"), get(repo::metadata))
        .route(&file(api::TARGETS, "{*path}"), get(repo::target))
        .route(&file(api::INDEXES, "{file}"), get(repo::index))
        .route(&file(api::CHUNKS, "{prefix}/{file}"), get(repo::chunk))
        .route("/v1/sites", get(operator::sites))
        .route("/v1/sites/{site}/plan", get(operator::get_plan).put(operator::put_plan))
        .route("/v1/sites/{site}/tokens", post(operator::token))
        .route("/v1/sites/{site}/seed", post(operator::seed))
        .route("/v1/nodes", get(operator::list_nodes))
        .route("/v1/nodes/{site}/{node}", get(operator::get_node))
        .route("/v1/nodes/{site}/{node}/events", get(operator::node_events))
        .route("/v1/nodes/{site}/{node}/release", post(operator::release))
        .route("/v1/nodes/{site}/{node}/reinstall", post(operator::reinstall))
        .route("/v1/quarantine", get(operator::quarantine))
        .route("/v1/quarantine/{id}/approve", post(operator::approve))
        .route("/v1/quarantine/{id}/refuse", post(operator::refuse))
        .route("/v1/refusals", get(operator::list_refusals))
        .method_not_allowed_fallback(async || {
            Failure::new(
                axum::http::StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "this path takes another method; see /openapi.json",
            )
        })
        .fallback(async || Failure::missing("no-such-route", "there is no such path; see /openapi.json"))
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    app.metrics.request(&route, status, took);
    tracing::debug!(%method, path, status, micros = took.as_micros() as u64, "answered");
    response
}

/// `GET /healthz`: the controller listens and its database answers.
async fn healthz(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    app.store.read(|tx| Ok(tx.execute_batch("SELECT 1")?)).await?;
    Ok("ok\n")
}
