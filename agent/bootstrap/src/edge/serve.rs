//! Answering the other nodes of the site: `GET`s over mTLS, few at a time, each within its limits.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_protocol::ids::Name;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::tls::{self, Identity};
use crate::settings::MATERIAL_PORT;

/// Connections at a time; a site asks in turns, and each is short.
const CONNECTIONS: usize = 16;
/// The longest head of a request, bytes: our own client's has a hundred.
const HEAD_BYTES: usize = 2 << 10;

/// An answer: an HTTP status and a body.
pub type Answer = (u16, Vec<u8>);

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
    let mut stream = match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::info!(%error, "a caller was refused"),
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some(node) = leaf.and_then(|leaf| tls::node_of(leaf, &identity.trust_domain, &identity.site)) else {
        return;
    };
    let answered = async {
        let (status, body) = match head(&mut stream).await?.as_deref().and_then(path) {
            Some(path) => answers.answer(node, path).await,
            None => (400, b"only GET is taken".to_vec()),
        };
        let head = format!(
            "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await
    };
    if let Err(error) = answered.await {
        tracing::info!(%error, "a node's question broke off");
    }
}

/// Reads a request's head; `None` for one that is too long. Each connection has one question, and a `GET` has no body: that
/// is all of HTTP that is spoken here.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    let mut buffer = [0; 512];
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..length]);
        if bytes.len() > HEAD_BYTES {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// The path of a `GET`'s head. Fuzz entry point.
pub fn path(head: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(head).ok()?.split("\r\n").next()?;
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("GET"), Some(path), Some("HTTP/1.1"), None) if path.starts_with('/') => Some(path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_get_has_a_path() {
        assert_eq!(path(b"GET /v1/worker HTTP/1.1\r\nhost: x\r\n\r\n"), Some("/v1/worker"));
        for bad in [
            &b"POST /v1/worker HTTP/1.1\r\n\r\n"[..],
            b"GET /a b HTTP/1.1\r\n\r\n",
            b"GET x HTTP/1.1\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"",
        ] {
            assert_eq!(path(bad), None);
        }
    }

    #[tokio::test]
    async fn a_head_without_an_end_is_not_read_for_ever() {
        assert_eq!(head(&mut &[b'a'; HEAD_BYTES + 1][..]).await.unwrap(), None);
        assert!(head(&mut &b"GET"[..]).await.is_err());
    }

    proptest! {
        #[test]
        fn any_head_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = path(&bytes);
        }
    }
}
