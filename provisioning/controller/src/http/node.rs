//! What nodes call.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_protocol::enrol::{EnrolAnswer, EnrolRequest, RenewAnswer, RenewRequest};
use cairn_protocol::heartbeat::{Heartbeat, HeartbeatAnswer, Status};
use cairn_protocol::ids::{Name, Sha256Digest};
use cairn_protocol::limits;
use cairn_protocol::plan::HeartbeatPlan;
use cairn_protocol::signed::{Domain, SignedTime, TimeStatement};
use serde::Deserialize;

use super::auth::{Address, NodeCaller};
use super::input::{Limited, Query, json};
use super::problem::Failure;
use crate::app::App;
use crate::config::Identity;
use crate::csr;
use crate::pki::{Issued, Subject};
use crate::store::certs::{self, Holder};
use crate::store::enrolments::{self, Asker, Verdict};
use crate::store::{self, StoreError, assignments, nodes, plans};

/// A quarantined node asks again after this many seconds: soon enough for a technician who waits beside it.
const QUARANTINE_RETRY: u32 = 15;
/// Longest serial and token taken, bytes.
const WORD_BYTES: usize = 256;
/// Longest boot id taken, bytes; the kernel's has 36.
const BOOT_ID_BYTES: usize = 64;
/// Longest id of a generation taken, bytes; ours have 16.
const GENERATION_ID_BYTES: usize = 64;

/// `?nonce=`.
#[derive(Debug, Deserialize)]
pub struct TimeQuery {
    nonce: Option<String>,
}

/// `GET /v1/time`: the time, signed over the caller's nonce.
#[utoipa::path(get, path = "/v1/time", tag = "node-open", summary = "The time, signed over the caller's nonce", params(("nonce" = String, Query, description = "32 lower-case hexadecimal digits")), responses((status = 200, description = "cairn_protocol::signed::SignedTime", body = Object)))]
pub async fn time(
    State(app): State<Arc<App>>,
    Query(query): Query<TimeQuery>,
) -> Result<Json<SignedTime>, Failure> {
    let nonce = query.nonce.filter(|nonce| is_nonce(nonce)).ok_or_else(|| {
        Failure::bad(
            "bad-nonce",
            "ask with ?nonce= and 32 lower-case hexadecimal digits, new for each question",
        )
    })?;
    let unix_seconds = app.clock.now();
    if unix_seconds < app.identity.ca.not_before() {
        return Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "clock-unbelievable",
            "the controller's clock is before its own CA was made: set it",
        ));
    }
    let payload = store::to_json("time", &TimeStatement { nonce, unix_seconds })?;
    Ok(Json(SignedTime {
        keys: app.identity.keys.clone(),
        statement: app.identity.sign(Domain::Time, payload),
    }))
}

/// Whether `text` is a nonce: 32 lower-case hexadecimal digits.
pub fn is_nonce(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Reads and checks an enrolment request; the key is the CSR's, DER SubjectPublicKeyInfo.
///
/// # Errors
/// A 400 that says what is wrong.
pub fn read_enrolment(bytes: &[u8]) -> Result<(EnrolRequest, Vec<u8>), Failure> {
    let mut request: EnrolRequest = json("the enrolment request", bytes)?;
    request.serial = request.serial.trim().to_owned();
    if request.serial.len() > WORD_BYTES || request.token.as_ref().is_some_and(|t| t.len() > WORD_BYTES) {
        return Err(Failure::bad("malformed", format!("serial and token take up to {WORD_BYTES} bytes")));
    }
    let spki = csr::key_of(&request.csr).map_err(|e| Failure::bad("bad-csr", e.to_string()))?;
    Ok((request, spki))
}

/// `POST /v1/enrol`: a certificate for the node whose serial the plan names, or whose key an operator approved.
#[utoipa::path(post, path = "/v1/enrol", tag = "node-open", summary = "A certificate for a known node; quarantine for one with a token", request_body(content = Object, description = "cairn_protocol::enrol::EnrolRequest, 256 KiB at most"), responses((status = 200, description = "cairn_protocol::enrol::EnrolAnswer", body = Object)))]
pub async fn enrol(
    State(app): State<Arc<App>>,
    Address(address): Address,
    Limited(body): Limited<{ limits::ENROL_BYTES }>,
) -> Result<Json<EnrolAnswer>, Failure> {
    let (request, spki) = read_enrolment(&body)?;
    let serial = request.serial.clone();
    let job = app.clone();
    let (verdict, certificate) = app
        .store
        .write(move |tx| {
            let now = job.clock.now();
            let asker = Asker {
                spki: &spki,
                serial: &request.serial,
                token: request.token.as_deref(),
                inventory: &request.inventory,
                address: &address.ip().to_canonical().to_string(),
            };
            let verdict = enrolments::decide(tx, &asker, now)?;
            let certificate = match &verdict {
                Verdict::Node(site, node) => {
                    Some(issue(tx, &job.identity, site, node, &spki, now, job.node_life)?)
                }
                _ => None,
            };
            Ok((verdict, certificate))
        })
        .await?;
    match verdict {
        Verdict::Node(site, node) => {
            // Another key's certificates may have been revoked.
            app.reload_revoked().await?;
            tracing::info!(%site, %node, serial, %address, "enrolled");
            app.announce_node(&site, &node).await;
            Ok(Json(EnrolAnswer::Enrolled {
                site,
                node,
                certificates: certificate.unwrap_or_default(),
                assurance: "software".to_owned(),
                keys: app.identity.keys.clone(),
            }))
        }
        Verdict::Quarantined(words) => {
            tracing::info!(serial, %address, words, "in quarantine: an operator has to approve it");
            Ok(Json(EnrolAnswer::Quarantined { words, retry_seconds: QUARANTINE_RETRY }))
        }
        Verdict::Refused(code, detail) => {
            app.refused(code, &serial, address, &detail).await;
            Err(Failure::forbidden(code, detail))
        }
    }
}

/// Makes and remembers a node certificate; answers it and the CA's, PEM.
fn issue(
    tx: &rusqlite::Connection,
    identity: &Identity,
    site: &Name,
    node: &Name,
    spki: &[u8],
    now: u64,
    life: u64,
) -> store::Result<String> {
    let issued: Issued = identity
        .ca
        .issue(&Subject::Node { site, node }, spki, now, life)
        .map_err(|e| StoreError::Damaged { what: "certificate", why: e.to_string() })?;
    certs::insert(tx, &Holder::Node(site.clone(), node.clone()), &issued)?;
    Ok(format!("{}{}", issued.pem, identity.ca.pem))
}

/// `POST /v1/node/renew`: the next certificate, for the same key or a new one.
#[utoipa::path(post, path = "/v1/node/renew", tag = "node", summary = "The next certificate", request_body(content = Object, description = "cairn_protocol::enrol::RenewRequest"), responses((status = 200, description = "cairn_protocol::enrol::RenewAnswer", body = Object)))]
pub async fn renew(
    State(app): State<Arc<App>>,
    NodeCaller { site, node, standing }: NodeCaller,
    Limited(body): Limited<{ limits::ENROL_BYTES }>,
) -> Result<Json<RenewAnswer>, Failure> {
    let request: RenewRequest = json("the renewal request", &body)?;
    let spki = csr::key_of(&request.csr).map_err(|e| Failure::bad("bad-csr", e.to_string()))?;
    let job = app.clone();
    let (key, serial) = (Sha256Digest::of(&spki), standing.serial());
    let certificates = app
        .store
        .write(move |tx| {
            // A release that came first must not be undone by the next certificate.
            if certs::is_revoked(tx, &serial)? || !enrolments::change_key(tx, &site, &node, key)? {
                return Ok(None);
            }
            issue(tx, &job.identity, &site, &node, &spki, job.clock.now(), job.node_life).map(Some)
        })
        .await?;
    standing.check().await?;
    let certificates = certificates
        .ok_or_else(|| Failure::conflict("key-taken", "this key is another node's; make a new one"))?;
    Ok(Json(RenewAnswer { certificates }))
}

/// `GET /v1/node/assignment`: the caller's signed assignment.
#[utoipa::path(get, path = "/v1/node/assignment", tag = "node", summary = "The caller's signed assignment", responses((status = 200, description = "cairn_protocol::signed::Envelope of an Assignment, with its ETag", body = Object), (status = 204, description = "The site's plan does not have this node now"), (status = 304, description = "The assignment that If-None-Match names is current")))]
pub async fn assignment(
    State(app): State<Arc<App>>,
    NodeCaller { site, node, .. }: NodeCaller,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let current = app.store.read(move |tx| assignments::current(tx, &site, &node)).await?;
    let Some(current) = current else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let etag = format!("\"{}\"", current.etag);
    if super::files::if_none_match(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    Ok(([(header::ETAG, etag)], Json(current.envelope)).into_response())
}

/// Reads and checks a heartbeat.
///
/// # Errors
/// A 400 that says what is wrong.
pub fn read_heartbeat(bytes: &[u8]) -> Result<Heartbeat, Failure> {
    let mut beat: Heartbeat = json("the heartbeat", bytes)?;
    if beat.events.len() > limits::EVENTS_PER_HEARTBEAT {
        let most = limits::EVENTS_PER_HEARTBEAT;
        return Err(Failure::bad("malformed", format!("a heartbeat carries at most {most} events")));
    }
    let boot_ids = beat.events.iter().map(|event| &event.boot_id).chain([&beat.boot_id]);
    if boot_ids.into_iter().any(|id| id.is_empty() || id.len() > BOOT_ID_BYTES) {
        return Err(Failure::bad("malformed", format!("a boot id has 1 to {BOOT_ID_BYTES} bytes")));
    }
    for event in &mut beat.events {
        event.code = limits::clean_text(&event.code);
        event.line = limits::clean_text(&event.line);
    }
    if let Some(waiting) = &mut beat.waiting {
        waiting.reason = limits::clean_text(&waiting.reason);
        waiting.advice = limits::clean_text(&waiting.advice);
    }
    if let Some(failed) = &mut beat.failed {
        failed.reason = limits::clean_text(&failed.reason);
    }
    if let Some(cluster) = &mut beat.cluster {
        cluster.line = limits::clean_text(&cluster.line);
    }
    let generations = beat.generation.iter().chain(beat.failed.as_ref().map(|failed| &failed.id));
    for id in generations {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if id.is_empty() || id.len() > GENERATION_ID_BYTES || !id.bytes().all(plain) {
            let most = GENERATION_ID_BYTES;
            return Err(Failure::bad(
                "malformed",
                format!("a generation's id has 1 to {most} letters and digits"),
            ));
        }
    }
    Ok(beat)
}

/// `POST /v1/node/heartbeat`: what the caller does; its events are stored once, however often they are sent.
#[utoipa::path(post, path = "/v1/node/heartbeat", tag = "node", summary = "What the caller does; events are stored once, however often they are sent", request_body(content = Object, description = "cairn_protocol::heartbeat::Heartbeat, 64 KiB at most"), responses((status = 200, description = "cairn_protocol::heartbeat::HeartbeatAnswer", body = Object)))]
pub async fn heartbeat(
    State(app): State<Arc<App>>,
    NodeCaller { site, node, .. }: NodeCaller,
    Limited(body): Limited<{ limits::HEARTBEAT_BYTES }>,
) -> Result<Json<HeartbeatAnswer>, Failure> {
    let beat = read_heartbeat(&body)?;
    let events = u32::try_from(beat.events.len()).unwrap_or(u32::MAX);
    let now = app.clock.now();
    let (stored, etag, plan, cluster_stands) = app
        .store
        .write(move |tx| {
            let stored = nodes::heartbeat(tx, &site, &node, &beat, now)?;
            let etag = assignments::etag(tx, &site, &node)?;
            let stands = nodes::cluster_stands(tx, &site, &node)?;
            Ok((stored, etag, plans::heartbeat(tx, &site)?, stands))
        })
        .await?;
    let stored = stored.ok_or_else(unknown_node)?;
    if stored.returned {
        tracing::info!(site = stored.view.site, node = stored.view.node, "a lost node is back");
    }
    app.metrics.heartbeat();
    app.announce(stored.view);
    let HeartbeatPlan { interval_seconds, jitter_percent } = plan;
    Ok(Json(HeartbeatAnswer {
        assignment_etag: etag,
        interval_seconds,
        jitter_percent,
        want_status: stored.want_status,
        events_stored: events,
        unix_seconds: now,
        cluster_stands,
    }))
}

fn unknown_node() -> Failure {
    Failure::forbidden("unknown-node", "the controller does not know this node any more; enrol again")
}

/// `PUT /v1/node/status`: the caller's full status. Its digest is the SHA-256 of the body.
#[utoipa::path(put, path = "/v1/node/status", tag = "node", summary = "The caller's full status; its digest is the SHA-256 of the body", request_body(content = Object, description = "cairn_protocol::heartbeat::Status, 512 KiB at most"), responses((status = 204, description = "Stored")))]
pub async fn status(
    State(app): State<Arc<App>>,
    NodeCaller { site, node, .. }: NodeCaller,
    Limited(body): Limited<{ limits::STATUS_BYTES }>,
) -> Result<StatusCode, Failure> {
    let mut status: Status = json("the status", &body)?;
    status.clean();
    let digest = Sha256Digest::of(&body);
    let text = store::to_json("status", &status)?;
    let inventory = store::to_json("inventory", &status.inventory)?;
    let (at, of) = (site.clone(), node.clone());
    let known = app.store.write(move |tx| nodes::status(tx, &at, &of, digest, &text, &inventory)).await?;
    if !known {
        return Err(unknown_node());
    }
    app.announce_node(&site, &node).await;
    Ok(StatusCode::NO_CONTENT)
}
