//! Enrolment: how a node gets its first certificate, and the next ones.

use serde::{Deserialize, Serialize};

use crate::ids::Name;
use crate::inventory::Inventory;
use crate::signed::ControllerKeys;

/// `POST /v1/enrol`, over TLS without a client certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// A PKCS#10 request (RFC 2986), PEM, for the node's P-256 key; its subject and extensions are ignored.
    pub csr: String,
    /// The chassis serial as SMBIOS gives it.
    pub serial: String,
    /// A one-time site token from a seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What the machine has.
    pub inventory: Inventory,
}

/// The answer to an enrolment; a refusal is an HTTP 403 with an [`crate::api::Problem`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase", deny_unknown_fields)]
pub enum EnrolAnswer {
    /// The node is a member of its site.
    Enrolled {
        /// The site.
        site: Name,
        /// The node's name in the site's plan.
        node: Name,
        /// The certificate and its CA, PEM, leaf first.
        certificates: String,
        /// How strongly the key is bound to the machine: `software`.
        assurance: String,
        /// The controller's signing keys, to verify assignments with.
        keys: ControllerKeys,
    },
    /// An operator has to approve the key first; ask again with the same key.
    Quarantined {
        /// The words that node and central both show.
        words: String,
        /// Seconds until the next try.
        retry_seconds: u32,
    },
}

/// `POST /v1/node/renew`, over mTLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// A PKCS#10 request, PEM, for the same key or a new one.
    pub csr: String,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewAnswer {
    /// The certificate and its CA, PEM, leaf first.
    pub certificates: String,
}
