//! One HTTP/1.1 connection, and questions on it whose answers are bounded while they arrive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::limits::TooLong;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::tls::{Dates, pin_mismatch};
use super::{CONNECT, IDLE, UplinkError};

/// A question.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// The JSON body, where there is one.
    pub body: Option<Bytes>,
    /// The etag that is known already.
    pub etag: Option<&'a str>,
    /// What the answer is, for errors.
    pub what: &'static str,
    /// The longest answer that is read, bytes.
    pub limit: usize,
    /// Whether certificate dates are judged.
    pub dates: Dates,
    /// Whether the node shows its certificate.
    pub as_node: bool,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The etag without its quotes.
    pub etag: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    number: usize,
    dates: Dates,
    as_node: bool,
    /// The server's name and chain; none on a plain connection.
    peer: Option<(ServerName<'static>, Vec<CertificateDer<'static>>)>,
    sender: SendRequest<Full<Bytes>>,
}

/// The longest head of an answer, bytes; hyper's default allows 400 KiB.
const HEAD_BYTES: usize = 16 << 10;

impl Connection {
    /// Whether it leads to that controller, with dates judged that way.
    pub(super) fn fits(&self, number: usize, dates: Dates) -> bool {
        self.number == number && self.dates == dates && self.is_open()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// For a connection whose dates were not judged: judges them by `judge`. False where it must not be used any more.
    pub(super) fn judge_dates(
        &mut self,
        judge: impl Fn(&ServerName<'_>, &[CertificateDer<'_>]) -> bool,
    ) -> bool {
        let good =
            self.dates == Dates::Judged || self.peer.as_ref().is_some_and(|(name, chain)| judge(name, chain));
        self.dates = Dates::Judged;
        good
    }

    /// Connects to `base`, `https://host[:port]`.
    pub(super) async fn open(
        base: &str,
        number: usize,
        dates: Dates,
        as_node: bool,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, UplinkError> {
        let url = || base.to_owned();
        let (host, port) = host_and_port(base).ok_or_else(|| UplinkError::Url { url: url() })?;
        let name = ServerName::try_from(host.clone()).map_err(|_| UplinkError::Url { url: url() })?;
        let late =
            |doing| move |_| UplinkError::Timeout { url: base.to_owned(), doing, seconds: CONNECT.as_secs() };
        let stream = timeout(CONNECT, TcpStream::connect((host.as_str(), port)))
            .await
            .map_err(late("accept a connection"))?
            .map_err(|source| UplinkError::Connect { url: url(), source })?;
        // Questions are small and wait for their answers.
        let _ = stream.set_nodelay(true);
        let stream = timeout(CONNECT * 2, TlsConnector::from(tls).connect(name.clone(), stream))
            .await
            .map_err(late("finish the TLS handshake"))?
            .map_err(|error| match pin_mismatch(&error) {
                Some(source) => UplinkError::Pin { url: url(), source },
                None => UplinkError::Tls { url: url(), why: error.to_string() },
            })?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = Some((name, chain.iter().map(|certificate| certificate.clone().into_owned()).collect()));
        let (sender, connection) = Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| UplinkError::Tls { url: url(), why: e.to_string() })?;
        tokio::spawn(async move {
            // Its errors are those of the questions on it.
            let _ = connection.await;
        });
        Ok(Self { number, dates, as_node, peer, sender })
    }

    /// Asks, and reads the answer within its limits.
    pub(super) async fn ask(&mut self, base: &str, ask: &Ask<'_>) -> Result<Answer, UplinkError> {
        if self.as_node != ask.as_node {
            return Err(broken(base, &"the connection is another's"));
        }
        let host = base.trim_start_matches("https://").trim_end_matches('/');
        let mut request = Request::builder().method(ask.method.clone()).uri(ask.path).header(HOST, host);
        if let Some(etag) = ask.etag {
            request = request.header(IF_NONE_MATCH, format!("\"{etag}\""));
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(ask.body.clone().unwrap_or_default()))
            .map_err(|e| UplinkError::Malformed { what: "the question", why: e.to_string() })?;
        let late =
            |_| UplinkError::Timeout { url: base.to_owned(), doing: "answer", seconds: IDLE.as_secs() };
        timeout(IDLE, self.sender.ready()).await.map_err(late)?.map_err(|e| broken(base, &e))?;
        let response = timeout(IDLE, self.sender.send_request(request))
            .await
            .map_err(late)?
            .map_err(|e| broken(base, &e))?;
        let (head, mut body) = response.into_parts();
        let etag = head.headers.get(ETAG).and_then(|value| value.to_str().ok());
        let etag = etag.map(|value| value.trim_matches('"').to_owned());
        let too_long = |length: usize| TooLong { what: ask.what, length, limit: ask.limit };
        let announced = hyper::body::Body::size_hint(&body).lower();
        if announced > ask.limit as u64 {
            return Err(too_long(usize::try_from(announced).unwrap_or(usize::MAX)).into());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or_default());
        while let Some(frame) = timeout(IDLE, body.frame()).await.map_err(late)? {
            let frame = frame.map_err(|e| broken(base, &e))?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > ask.limit {
                    return Err(too_long(bytes.len() + data.len()).into());
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(Answer { status: head.status, etag, body: bytes })
    }
}

fn broken(base: &str, why: &dyn std::fmt::Display) -> UplinkError {
    UplinkError::Broken { url: base.to_owned(), why: why.to_string() }
}

/// Host and port of `https://host[:port]`; brackets of an IPv6 address are taken off.
fn host_and_port(base: &str) -> Option<(String, u16)> {
    let uri: Uri = base.parse().ok()?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
        return None;
    }
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), uri.port_u16().unwrap_or(443)))
}

/// Fetches a small file over plain HTTP, for a seed: nothing of it is believed before its signature is.
///
/// # Errors
/// [`UplinkError`].
pub(crate) async fn plain_get(url: &str, what: &'static str, limit: usize) -> Result<Vec<u8>, UplinkError> {
    let bad = || UplinkError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad())?;
    if uri.scheme_str() != Some("http") {
        return Err(bad());
    }
    let host = uri.host().ok_or_else(bad)?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let late = |doing, limit: Duration| {
        move |_| UplinkError::Timeout { url: url.to_owned(), doing, seconds: limit.as_secs() }
    };
    let stream = timeout(CONNECT, TcpStream::connect((host.as_str(), port)))
        .await
        .map_err(late("accept a connection", CONNECT))?
        .map_err(|source| UplinkError::Connect { url: url.to_owned(), source })?;
    let (sender, connection) = Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(url, &e))?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut connection = Connection { number: 0, dates: Dates::Ignored, as_node: false, peer: None, sender };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let ask = Ask {
        method: Method::GET,
        path,
        body: None,
        etag: None,
        what,
        limit,
        dates: Dates::Ignored,
        as_node: false,
    };
    let answer = connection.ask(authority, &ask).await?;
    if answer.status != StatusCode::OK {
        return Err(broken(url, &format!("status {}", answer.status)));
    }
    Ok(answer.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_controllers() {
        for (url, parts) in [
            ("https://c.example:8443", Some(("c.example", 8443))),
            ("https://c.example/", Some(("c.example", 443))),
            ("https://[fd00::1]:8443", Some(("fd00::1", 8443))),
            ("http://c.example:8443", None),
            ("https://c.example/path", None),
            ("nonsense", None),
        ] {
            let parts = parts.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_and_port(url), parts, "{url}");
        }
    }
}
