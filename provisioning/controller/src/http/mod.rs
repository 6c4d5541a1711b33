//! The HTTP API: routes, who may call them, and what they say of themselves.
//!
//! Each handler carries its own OpenAPI description; [`routes`] puts route and description in at once, so that the
//! document cannot leave a route out.

pub mod auth;
pub mod boot;
pub mod files;
pub mod fuzz;
pub mod input;
pub mod node;
pub mod openapi;
pub mod operator;
pub mod problem;
pub mod repo;
pub mod sites;
pub mod upload;
pub mod watch;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use problem::Failure;

/// The API's routes with their descriptions.
fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(document))
        .routes(routes!(node::time))
        .routes(routes!(node::enrol))
        .routes(routes!(node::renew))
        .routes(routes!(node::assignment))
        .routes(routes!(node::heartbeat))
        .routes(routes!(node::status))
        .routes(routes!(repo::metadata, upload::put_metadata))
        .routes(routes!(repo::target, upload::put_target))
        .routes(routes!(repo::index, upload::put_index))
        .routes(routes!(repo::chunk, upload::put_chunk))
        .routes(routes!(upload::missing))
        .routes(routes!(sites::sites))
        .routes(routes!(sites::get_plan, sites::put_plan))
        .routes(routes!(sites::token))
        .routes(routes!(sites::seed))
        .routes(routes!(operator::list_nodes))
        .routes(routes!(operator::get_node))
        .routes(routes!(operator::node_events))
        .routes(routes!(operator::release))
        .routes(routes!(operator::reinstall))
        .routes(routes!(operator::quarantine))
        .routes(routes!(operator::approve))
        .routes(routes!(operator::refuse))
        .routes(routes!(operator::list_refusals))
        .routes(routes!(watch::watch))
}

/// The API.
pub fn router(app: Arc<App>) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .method_not_allowed_fallback(async || {
            Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
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

#[utoipa::path(get, path = "/healthz", tag = "open", summary = "Whether the controller listens and its database answers", responses((status = 200, body = String, content_type = "text/plain")))]
async fn healthz(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    app.store.read(|tx| Ok(tx.execute_batch("SELECT 1")?)).await?;
    Ok("ok\n")
}

#[utoipa::path(get, path = "/openapi.json", tag = "open", summary = "This document", responses((status = 200, body = Object)))]
async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(openapi::document(routes().into_openapi()))
}
