//! Answering the other nodes of the site: `GET`s over mTLS, few at a time, each within its limits.

use std::convert::Infallible;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::ids::Name;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::tls::{self, Identity};
use crate::settings::MATERIAL_PORT;

/// Connections at a time; a site asks in turns, and each is short.
const CONNECTIONS: usize = 16;
/// The longest head of a request, bytes: hyper's own minimum.
const HEAD_BYTES: usize = 8 << 10;

/// An answer: a status and a body.
pub type Answer = (StatusCode, Vec<u8>);
/// What answers a node's question for a path.
pub trait Answers: Send + Sync + 'static {
    /// Answers `node`, whose certificate was judged.
    fn answer<'a>(&'a self, node: Name, path: &'a str) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;
    /// Who this node is now: certificates live for a day.
    fn identity(&self) -> Option<Identity>;
}

/// Listens on all addresses; the endpoint may move here at any time.
///
/// # Errors
/// bind(2)'s.
pub async fn listen() -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, MATERIAL_PORT)).await
}

/// Answers for ever. A whole connection, handshake included, may take `limit`.
pub async fn serve(listener: TcpListener, answers: Arc<dyn Answers>, limit: Duration) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "no connection is taken for a moment");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            if timeout(limit, one(stream, answers)).await.is_err() {
                tracing::info!("a node's question took too long");
            }
            drop(place);
        });
    }
}

async fn one(stream: TcpStream, answers: Arc<dyn Answers>) {
    let Some(identity) = answers.identity() else { return };
    let Ok(config) = tls::answering(&identity) else { return };
    let stream = match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::info!(%error, "a caller was refused"),
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some(node) = leaf.and_then(|leaf| tls::node_of(leaf, &identity.trust_domain, &identity.site)) else {
        return;
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (answers, node) = (Arc::clone(&answers), node.clone());
        async move {
            let (status, body) = if request.method() == Method::GET {
                answers.answer(node, request.uri().path()).await
            } else {
                (StatusCode::METHOD_NOT_ALLOWED, b"only GET is taken".to_vec())
            };
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::info!(%error, "a node's question broke off");
    }
}
