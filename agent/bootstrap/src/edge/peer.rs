//! Asking a control plane of the same site for material.

use std::net::Ipv4Addr;
use std::time::Duration;

use cairn_protocol::ids::Name;
use cairn_protocol::limits::clean_text;
use http_body_util::Full;
use hyper::Request;
use hyper::header::HOST;
use tokio::time::timeout;

use super::http;
use super::tls::{self, Identity};
use crate::engine::Trouble;
use crate::material::MATERIAL_BYTES;

/// Asks the control plane at an address and port, one of `control_planes`, for `path`.
///
/// # Errors
/// [`Trouble`].
pub async fn ask(
    identity: &Identity,
    at: (Ipv4Addr, u16),
    control_planes: &[Name],
    path: &str,
    limit: Duration,
) -> Result<Vec<u8>, Trouble> {
    let late = || away(at, &format!("it did not answer within {} s", limit.as_secs()));
    timeout(limit, ask_unbounded(identity, at, control_planes, path)).await.unwrap_or_else(|_| Err(late()))
}

fn away((endpoint, port): (Ipv4Addr, u16), why: &str) -> Trouble {
    Trouble::new(
        format!("no control plane answers at {endpoint}:{port}: {why}"),
        "is the first control plane up? its steps are in `cairnctl node show`; the node tries again by itself",
    )
}

async fn ask_unbounded(
    identity: &Identity,
    at: (Ipv4Addr, u16),
    control_planes: &[Name],
    path: &str,
) -> Result<Vec<u8>, Trouble> {
    let passing = |why: String| Trouble::passing(why);
    let tls = tls::towards(identity, control_planes.to_vec()).map_err(|e| passing(e.to_string()))?;
    let request = Request::get(path).header(HOST, at.0.to_string()).body(Full::default());
    let request = request.map_err(|e| passing(e.to_string()))?;
    match http::ask(at, tls, request, MATERIAL_BYTES).await {
        Ok((status, bytes)) if status.is_success() => Ok(bytes),
        Ok((status, bytes)) => {
            let why = clean_text(&String::from_utf8_lossy(&bytes));
            Err(passing(format!("the control plane at {} says {}: {why}", at.0, status.as_u16())))
        }
        Err(http::Failed::Connect(why)) => Err(away(at, &why)),
        Err(http::Failed::Broken(why)) => Err(away(at, &format!("the answer broke off: {why}"))),
    }
}
