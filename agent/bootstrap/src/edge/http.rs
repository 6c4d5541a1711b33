//! One question over one TLS connection, its answer counted while it is read.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{IpAddr, ServerName};
use std::net::Ipv4Addr;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest head of an answer, bytes; hyper's default allows 400 KiB.
const HEAD_BYTES: usize = 16 << 10;

/// Why there was no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nobody listens, or no TLS.
    Connect(String),
    /// The answer broke off or is too long.
    Broken(String),
}

fn broken(error: &dyn std::fmt::Display) -> Failed {
    Failed::Broken(error.to_string())
}

fn connect(error: &dyn std::fmt::Display) -> Failed {
    Failed::Connect(error.to_string())
}

/// Asks `request` at `address`; the answer has at most `limit` bytes.
///
/// # Errors
/// [`Failed`].
pub(super) async fn ask(
    (address, port): (Ipv4Addr, u16),
    tls: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<(StatusCode, Vec<u8>), Failed> {
    let stream = TcpStream::connect((address, port)).await.map_err(|e| connect(&e))?;
    // Questions are small and wait for their answers.
    let _ = stream.set_nodelay(true);
    let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(address)));
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| connect(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| connect(&e))?;
    let running = tokio::spawn(async move {
        // Its errors are those of the question.
        let _ = connection.await;
    });
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| broken(&e))?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > limit {
                    return Err(Failed::Broken(format!("it is longer than {limit} bytes")));
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok((head.status, bytes))
    };
    let answer = answer.await;
    running.abort();
    answer
}
