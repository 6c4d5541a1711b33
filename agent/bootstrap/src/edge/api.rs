//! The cluster's API server, asked over HTTP/1.1 with the administrator's credentials that kubeadm keeps on a control
//! plane. Few questions, each bounded: a client library of the cluster's would be larger than the whole agent.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::time::timeout;

use super::http;
use super::tls::{self, TlsError};
use crate::settings::API_PORT;

/// The longest answer that is read, bytes: a list's page of 50 nodes.
const ANSWER_BYTES: usize = 2 << 20;
/// The longest kubeconfig that is read, bytes.
const KUBECONFIG_BYTES: u64 = 64 << 10;

/// Why the API server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The credentials.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody listens.
    #[error("the API server at {address} cannot be reached: {why}")]
    Connect {
        /// Its address.
        address: Ipv4Addr,
        /// Why.
        why: String,
    },
    /// No answer in time.
    #[error("the API server did not answer {what} within {seconds} s")]
    Late {
        /// Method and path.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// It said no.
    #[error("the API server refused {what} with status {status}: {why}")]
    Refused {
        /// Method and path.
        what: String,
        /// The HTTP status.
        status: u16,
        /// Its message.
        why: String,
    },
    /// The answer broke off, is too long or no JSON.
    #[error("the API server's answer to {what} cannot be read: {why}")]
    Broken {
        /// Method and path.
        what: String,
        /// Why.
        why: String,
    },
}

impl ApiError {
    /// Whether what was asked for does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether it exists already, or was changed by another meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

/// How a change is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new object.
    Create,
    /// The whole object anew.
    Replace,
    /// These fields, others stay (RFC 7396).
    Merge,
    /// Server-side apply.
    Apply,
}

/// The API server of one control plane.
#[derive(Debug, Clone)]
pub struct Api {
    address: Ipv4Addr,
    tls: Arc<ClientConfig>,
    limit: Duration,
}

/// The kubeconfig with the administrator's credentials: `super-admin.conf` where it is, for `admin.conf` means nothing
/// before its binding exists.
pub fn kubeconfig(etc_kubernetes: &Path) -> PathBuf {
    let first = etc_kubernetes.join("super-admin.conf");
    if first.exists() { first } else { etc_kubernetes.join("admin.conf") }
}

/// The credentials in a kubeconfig of kubeadm's, each a line `key: <base64 of PEM>`.
fn data(text: &str, key: &str) -> Option<Vec<u8>> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'))?;
    BASE64.decode(line.trim()).ok()
}

impl Api {
    /// The API server at `address`, with the credentials of `kubeconfig`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(address: Ipv4Addr, kubeconfig: &Path, limit: Duration) -> Result<Self, TlsError> {
        let bad = |why: String| TlsError::Credentials(why);
        let bytes = cairn_bundle::durable::read(kubeconfig, KUBECONFIG_BYTES)
            .map_err(|e| bad(e.to_string()))?
            .ok_or_else(|| bad(format!("{} is not there yet", kubeconfig.display())))?;
        let text = String::from_utf8_lossy(&bytes);
        let pem = |key: &str| data(&text, key).ok_or_else(|| bad(format!("{key} is missing")));
        let unreadable = |key: &str| bad(format!("{key} is no PEM"));
        let ca = CertificateDer::from_pem_slice(&pem("certificate-authority-data")?)
            .map_err(|_| unreadable("certificate-authority-data"))?;
        let chain = CertificateDer::pem_slice_iter(&pem("client-certificate-data")?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| unreadable("client-certificate-data"))?;
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)
            .map_err(|_| unreadable("client-key-data"))?;
        Ok(Self { address, tls: tls::towards_api(ca, chain, key)?, limit })
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask(Method::GET, path, None, "application/json").await
    }

    /// All objects of a list, page by page.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let more = if token.is_empty() { String::new() } else { format!("&continue={token}") };
            let mut page = self.get(&format!("{path}{join}limit=50{more}")).await?;
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found);
            }
            token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                return Ok(items);
            }
        }
    }

    /// The plain text of a path such as `/readyz`; an error for any status but 200.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn text(&self, path: &str) -> Result<String, ApiError> {
        let bytes = self.raw(Method::GET, path, None, "text/plain").await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Changes an object.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn change(&self, change: Change, path: &str, object: &Value) -> Result<Value, ApiError> {
        let (method, kind) = match change {
            Change::Create => (Method::POST, "application/json"),
            Change::Replace => (Method::PUT, "application/json"),
            Change::Merge => (Method::PATCH, "application/merge-patch+json"),
            // JSON is YAML.
            Change::Apply => (Method::PATCH, "application/apply-patch+yaml"),
        };
        self.ask(method, path, Some(object), kind).await
    }

    /// Deletes an object; a missing one is fine.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        match self.ask(Method::DELETE, path, None, "application/json").await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        object: Option<&Value>,
        kind: &str,
    ) -> Result<Value, ApiError> {
        let what = format!("{method} {path}");
        let body = object.map(|object| Bytes::from(object.to_string()));
        let bytes = self.raw(method, path, body, kind).await?;
        serde_json::from_slice(&bytes).map_err(|e| ApiError::Broken { what, why: e.to_string() })
    }

    async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        kind: &str,
    ) -> Result<Vec<u8>, ApiError> {
        let what = format!("{method} {}", path.split('?').next().unwrap_or(path));
        let late = ApiError::Late { what: what.clone(), seconds: self.limit.as_secs() };
        timeout(self.limit, self.raw_unbounded(method, path, body, kind, what)).await.unwrap_or(Err(late))
    }

    async fn raw_unbounded(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        kind: &str,
        what: String,
    ) -> Result<Vec<u8>, ApiError> {
        let broken = |why: String| ApiError::Broken { what: what.clone(), why };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{}:{API_PORT}", self.address))
            .header(ACCEPT, if kind == "text/plain" { "*/*" } else { "application/json" })
            .header(CONTENT_TYPE, kind)
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|e| broken(e.to_string()))?;
        let answer = http::ask((self.address, API_PORT), Arc::clone(&self.tls), request, ANSWER_BYTES).await;
        match answer {
            Ok((status, bytes)) if status.is_success() => Ok(bytes),
            Ok((status, bytes)) => Err(refused(&what, status, &bytes)),
            Err(http::Failed::Connect(why)) => Err(ApiError::Connect { address: self.address, why }),
            Err(http::Failed::Broken(why)) => Err(broken(why)),
        }
    }
}

fn refused(what: &str, status: StatusCode, body: &[u8]) -> ApiError {
    let message =
        serde_json::from_slice::<Value>(body).ok().and_then(|v| Some(v["message"].as_str()?.to_owned()));
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let why = cairn_protocol::limits::clean_text(&message);
    ApiError::Refused { what: what.to_owned(), status: status.as_u16(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_in_a_kubeconfig() {
        let text =
            "users:\n- name: a\n  user:\n    client-certificate-data: YWJj\n    client-key-data: ZGVm\n";
        assert_eq!(data(text, "client-certificate-data").unwrap(), b"abc");
        assert_eq!(data(text, "client-key-data").unwrap(), b"def");
        assert_eq!(data(text, "certificate-authority-data"), None);
    }
}
