//! Asking a control plane of the same site for material.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::ids::Name;
use cairn_protocol::limits::clean_text;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{IpAddr, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::tls::{self, Identity};
use crate::engine::Trouble;
use crate::material::MATERIAL_BYTES;
use crate::settings::MATERIAL_PORT;

/// The longest head of an answer, bytes.
const HEAD_BYTES: usize = 16 << 10;

/// Asks the control plane that holds `endpoint`, one of `control_planes`, for `path`.
///
/// # Errors
/// [`Trouble`].
pub async fn ask(
    identity: &Identity,
    endpoint: Ipv4Addr,
    control_planes: &[Name],
    path: &str,
    limit: Duration,
) -> Result<Vec<u8>, Trouble> {
    let late = || away(endpoint, &format!("it did not answer within {} s", limit.as_secs()));
    timeout(limit, ask_unbounded(identity, endpoint, control_planes, path))
        .await
        .unwrap_or_else(|_| Err(late()))
}

fn away(endpoint: Ipv4Addr, why: &str) -> Trouble {
    Trouble::new(
        format!("no control plane answers at {endpoint}:{MATERIAL_PORT}: {why}"),
        "is the first control plane up? its steps are in `cairnctl node show`; the node tries again by itself",
    )
}

async fn ask_unbounded(
    identity: &Identity,
    endpoint: Ipv4Addr,
    control_planes: &[Name],
    path: &str,
) -> Result<Vec<u8>, Trouble> {
    let tls = tls::towards(identity, control_planes.to_vec()).map_err(|e| Trouble::passing(e.to_string()))?;
    let stream =
        TcpStream::connect((endpoint, MATERIAL_PORT)).await.map_err(|e| away(endpoint, &e.to_string()))?;
    let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(endpoint)));
    let stream = TlsConnector::from(Arc::clone(&tls))
        .connect(name, stream)
        .await
        .map_err(|e| away(endpoint, &format!("no TLS: {e}")))?;
    let broken = |e: hyper::Error| away(endpoint, &format!("the answer broke off: {e}"));
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let running = tokio::spawn(async move {
        // Its errors are those of the question.
        let _ = connection.await;
    });
    let answer = async {
        let request = Request::get(path)
            .header(HOST, endpoint.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|e| Trouble::passing(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > MATERIAL_BYTES {
                    return Err(away(endpoint, "its answer is too long"));
                }
                bytes.extend_from_slice(data);
            }
        }
        if head.status.is_success() {
            return Ok(bytes);
        }
        let why = clean_text(&String::from_utf8_lossy(&bytes));
        Err(Trouble::passing(format!("the control plane at {endpoint} says {}: {why}", head.status.as_u16())))
    };
    let answer = answer.await;
    running.abort();
    answer
}
