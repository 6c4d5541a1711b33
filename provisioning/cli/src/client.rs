//! The controller's API, called with an operator's credential.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use cairn_protocol::api::Problem;
use cairn_protocol::limits::clean_text;
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::error::{Error, read_limited};

/// A certificate or key file is a few KiB.
const CREDENTIAL_BYTES: u64 = 64 << 10;
/// A list of every node of a large fleet.
const ANSWER_BYTES: usize = 256 << 20;
/// Time to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(15);
/// Silence after which an answer is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// A connection to the controller.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
}

/// The body of a request.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    None,
    Json(serde_json::Value),
    Bytes(&'static str, Vec<u8>),
}

impl Client {
    /// Reads the credential; nothing is sent yet.
    pub(crate) fn new(global: &Global) -> Result<Self, Error> {
        let dir = credentials(global)?;
        let base = controller_url(global, dir)?;
        // Another provider may be there already; ring is the only one linked in.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = |name: &str| read_limited(&dir.join(name), CREDENTIAL_BYTES);
        let authority = reqwest::Certificate::from_pem(&read("ca.crt")?)
            .map_err(|e| Error::input(&dir.join("ca.crt"), reason(&e)))?;
        let pair = [read("client.crt")?, b"\n".to_vec(), read("client.key")?].concat();
        let identity = reqwest::Identity::from_pem(&pair).map_err(|e| {
            Error::input(&dir.join("client.key"), format!("no certificate with its key: {}", reason(&e)))
        })?;
        let http = reqwest::Client::builder()
            .tls_certs_only([authority])
            .identity(identity)
            .https_only(true)
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("cairnctl/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::input(dir, reason(&e)))?;
        Ok(Self { http, base })
    }

    /// Sends a request; any answer but a success is an error.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response, Error> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method, &url);
        match body {
            Body::None => {}
            Body::Json(value) => {
                request = request.header("content-type", "application/json").body(value.to_string());
            }
            Body::Bytes(kind, bytes) => request = request.header("content-type", kind).body(bytes),
        }
        let response = request.send().await.map_err(|e| unreachable(&self.base, &e))?;
        let status = response.status();
        if status.is_success() { Ok(response) } else { Err(self.refusal(status, response).await) }
    }

    async fn refusal(&self, status: StatusCode, response: Response) -> Error {
        let bytes = body(response, 64 << 10, &self.base).await.unwrap_or_default();
        let problem = serde_json::from_slice::<Problem>(&bytes).unwrap_or_else(|_| Problem {
            status: status.as_u16(),
            code: "not-cairn".to_owned(),
            detail: format!("it answered {status} without a reason; is this a Cairn controller?"),
        });
        let (code, detail) = (clean_text(&problem.code), clean_text(&problem.detail));
        if status.is_server_error() {
            return Error::Failed(format!("the controller failed ({code}): {detail}"));
        }
        Error::Refused { status: status.as_u16(), code, detail }
    }

    /// `GET`, as JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json(self.send(Method::GET, path, Body::None).await?).await
    }

    /// `GET`; `None` where there is nothing.
    pub(crate) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        match self.get(path).await {
            Err(Error::Refused { status: 404, .. }) => Ok(None),
            result => result.map(Some),
        }
    }

    /// The bytes of a file of at most `limit`; `None` where there is none.
    pub(crate) async fn file(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        match self.send(Method::GET, path, Body::None).await {
            Err(Error::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(response) => body(response, limit, &self.base).await.map(Some),
        }
    }

    /// `POST` with JSON both ways; an answer without a body reads as `null`.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        value: serde_json::Value,
    ) -> Result<T, Error> {
        self.json(self.send(Method::POST, path, Body::Json(value)).await?).await
    }

    /// `PUT` of bytes.
    pub(crate) async fn put(
        &self,
        path: &str,
        kind: &'static str,
        bytes: Vec<u8>,
    ) -> Result<Response, Error> {
        self.send(Method::PUT, path, Body::Bytes(kind, bytes)).await
    }

    /// `PUT` of a file that may be there already, whole or damaged: the controller looks; whether it took this one.
    pub(crate) async fn offer(&self, path: &str, kind: &'static str, bytes: Vec<u8>) -> Result<bool, Error> {
        Ok(self.put(path, kind, bytes).await?.status() == StatusCode::CREATED)
    }

    /// Reads an answer as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, response: Response) -> Result<T, Error> {
        let mut bytes = body(response, ANSWER_BYTES, &self.base).await?;
        if bytes.is_empty() {
            bytes = b"null".to_vec();
        }
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::Failed(format!("the controller's answer is not understood ({e}); update cairnctl"))
        })
    }
}

async fn body(mut response: Response, limit: usize, base: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|e| unreachable(base, &e))? {
        bytes.extend_from_slice(&part);
        if bytes.len() > limit {
            return Err(Error::Failed(format!("the controller's answer is longer than {limit} bytes")));
        }
    }
    Ok(bytes)
}

/// Runs a request to its end on this thread.
pub(crate) fn run<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Error::Failed(format!("cannot start the network: {e}")))?.block_on(work)
}

/// The operator's folder.
pub(crate) fn credentials(global: &Global) -> Result<&Path, Error> {
    global.credentials.as_deref().ok_or_else(|| {
        Error::Usage(
            "say who you are: --credentials DIR or CAIRN_CREDENTIALS (made by cairn-controller operator)"
                .to_owned(),
        )
    })
}

/// The controller's URL, without a slash at its end.
pub(crate) fn controller_url(global: &Global, credentials: &Path) -> Result<String, Error> {
    let file = credentials.join("controller.url");
    let url = match &global.controller {
        Some(url) => url.clone(),
        None => crate::error::read_text(&file, 4096).map_err(|_| {
            Error::Usage(
                "say which controller: --controller https://HOST:8443 or CAIRN_CONTROLLER".to_owned(),
            )
        })?,
    };
    check_url(url.trim())
}

/// A controller's base URL: `https://host[:port]`, no path.
pub(crate) fn check_url(url: &str) -> Result<String, Error> {
    let base = url.trim_end_matches('/');
    let rest = base.strip_prefix("https://").unwrap_or_default();
    if rest.is_empty() || rest.contains(['/', '?', '#', '@']) || rest.contains(char::is_whitespace) {
        return Err(Error::Usage(format!("{url:?} is not a controller's URL: write https://HOST:8443")));
    }
    Ok(base.to_owned())
}

fn unreachable(base: &str, error: &reqwest::Error) -> Error {
    let why = reason(error);
    let advice = if why.contains("certificate") || why.contains("UnknownIssuer") {
        "; the credentials may be of another controller"
    } else if error.is_timeout() {
        "; it did not answer in time"
    } else {
        "; check the address, and that cairn-controller serve runs there"
    };
    Error::Unreachable { url: base.to_owned(), why: why + advice }
}

/// The innermost cause, which is what an operator can act on.
fn reason(error: &dyn std::error::Error) -> String {
    let mut last = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        last = cause.to_string();
        next = cause.source();
    }
    clean_text(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_host_and_nothing_else() {
        assert_eq!(check_url("https://c.lab:8443/").unwrap(), "https://c.lab:8443");
        for bad in ["http://c.lab", "https://", "c.lab:8443", "https://c/x", "https://u@c", "https://c d"] {
            assert!(matches!(check_url(bad), Err(Error::Usage(_))), "{bad}");
        }
    }
}
