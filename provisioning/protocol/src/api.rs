//! Paths and common shapes of the controller's HTTP API.

use serde::{Deserialize, Serialize};

/// Signed time: `GET ?nonce=<32 hex>`, no client certificate. Answers [`crate::signed::SignedTime`].
pub const TIME: &str = "/v1/time";
/// Enrolment: `POST`, no client certificate.
pub const ENROL: &str = "/v1/enrol";
/// Renewal of a node's certificate: `POST`.
pub const RENEW: &str = "/v1/node/renew";
/// The node's assignment: `GET` with `If-None-Match`. Answers [`crate::signed::Envelope`], 204 where there is none.
pub const ASSIGNMENT: &str = "/v1/node/assignment";
/// Heartbeat: `POST`.
pub const HEARTBEAT: &str = "/v1/node/heartbeat";
/// Full status: `PUT`.
pub const STATUS: &str = "/v1/node/status";
/// Release metadata: `GET /v1/repo/metadata/<file>`.
pub const METADATA: &str = "/v1/repo/metadata";
/// TUF targets (manifests), hash-prefixed: `GET /v1/repo/targets/<dir>/<sha256>.<file>`.
pub const TARGETS: &str = "/v1/repo/targets";
/// Chunk indexes: `GET /v1/repo/indexes/<sha256>.caibx`, ranges allowed.
pub const INDEXES: &str = "/v1/repo/indexes";
/// Chunks: `GET /v1/repo/chunks/<first 4 hex>/<64 hex>.cacnk`, ranges allowed.
pub const CHUNKS: &str = "/v1/repo/chunks";

/// An error answer (RFC 9457 problem details, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A stable word for machines, such as `unknown-serial`.
    pub code: String,
    /// One line for people: what was refused, why, and what to do.
    pub detail: String,
}
