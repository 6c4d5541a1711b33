//! The listeners: connections accepted, limited, served, and let finish. Nobody holds a place without using it
//! ([`crate::patience`]).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::http::problem::Failure;
use crate::patience::{Crowd, Patience, Pulse, Verdict};
use crate::tls::{self, Client};

/// A handshake takes three packets; a node behind a bad line gets this long for them.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// An HTTP/2 peer that answers no ping for this long is gone.
const PING: Duration = Duration::from_secs(20);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 32 << 10;
/// Requests at once on one HTTP/2 connection: a node fetches chunks this wide.
const STREAMS: u32 = 64;
/// A connection that was told to end has this long to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// After an accept failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The connection that a request came by; an extension of every request.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The peer's address.
    pub address: SocketAddr,
    /// Its certificate, if it showed one.
    pub client: Option<Client>,
    /// How long its bodies may take.
    pub patience: Patience,
}

/// Called with the peer's address, a code and a line when a handshake was refused.
pub type OnRefusal = Arc<dyn Fn(SocketAddr, &'static str, String) + Send + Sync>;

/// How a listener speaks.
#[derive(Clone)]
pub enum Transport {
    /// Plain HTTP/1.1.
    Plain,
    /// TLS.
    Tls {
        /// The configuration.
        acceptor: TlsAcceptor,
        /// The trust domain of client certificates.
        trust_domain: Arc<str>,
        /// Told about refused handshakes.
        on_refusal: OnRefusal,
    },
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls { .. } => "Tls",
        })
    }
}

/// Waits until the controller is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves `router` on `listener` until `stop` turns true, then lets running requests finish within `grace`.
pub async fn serve(
    listener: TcpListener,
    transport: Transport,
    router: Router,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) {
    let permits = Arc::new(Semaphore::new(patience.connections));
    let crowd = Crowd::default();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        // All places may be taken when the end comes.
        let accept = async { (permits.clone().acquire_owned().await, listener.accept().await) };
        let (permit, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = stopped(&mut stop) => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = crowd.enter(address.ip(), patience.per_address) else {
            tracing::debug!(%address, "an address has all the connections it may have");
            continue;
        };
        let (transport, router, stop) = (transport.clone(), router.clone(), stop.clone());
        tasks.spawn(async move {
            connection(stream, address, transport, router, patience, stop).await;
            drop((permit, place));
        });
        while tasks.try_join_next().is_some() {}
    }
    drop(listener);
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, finish).await.is_err() {
        tracing::warn!(connections = tasks.len(), "stopping with requests unfinished");
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    transport: Transport,
    router: Router,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    // The kernel buffers some MiB for a peer that reads nothing; it gives up for us.
    let millis = u32::try_from(patience.slow.as_millis()).unwrap_or(u32::MAX);
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &millis);
    let Transport::Tls { acceptor, trust_domain, on_refusal } = transport else {
        return http(stream, false, Connection { address, client: None, patience }, router, stop).await;
    };
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => handshake,
        () = stopped(&mut stop) => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            match tls::refusal_of(&error) {
                Some((code, line)) => on_refusal(address, code, line),
                None => tracing::debug!(%address, %error, "a peer went away in its handshake"),
            }
            return;
        }
        Err(_) => return tracing::debug!(%address, "a peer took too long for its handshake"),
    };
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let client = leaf.and_then(|der| tls::client_of(&trust_domain, der));
    let h2 = session.alpn_protocol() == Some(b"h2");
    http(stream, h2, Connection { address, client, patience }, router, stop).await;
}

/// A bug in one request's handling ends that request alone.
async fn answer(router: Router, request: hyper::Request<Body>) -> Response {
    match AssertUnwindSafe(router.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => Failure::internal(&"the handling of a request panicked").into_response(),
    }
}

/// What a connection of either version of HTTP can be told.
trait Served: Future<Output = hyper::Result<()>> {
    fn say_goodbye(self: Pin<&mut Self>);
}

type Version1<I, S> = hyper::server::conn::http1::Connection<I, S>;
type Version2<I, S> = hyper::server::conn::http2::Connection<I, S, TokioExecutor>;

macro_rules! served {
    ($version:ident) => {
        impl<I, S> Served for $version<TokioIo<I>, S>
        where
            I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
            S: hyper::service::Service<hyper::Request<Incoming>, Response = Response, Error = Infallible>,
            S::Future: Send + 'static,
        {
            fn say_goodbye(self: Pin<&mut Self>) {
                self.graceful_shutdown();
            }
        }
    };
}
served!(Version1);
served!(Version2);

async fn http<S>(stream: S, h2: bool, from: Connection, router: Router, stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (address, patience) = (from.address, from.patience);
    let from = Arc::new(from);
    let pulse = Pulse::new(patience, Instant::now());
    let beat = pulse.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, from, exchange) = (router.clone(), from.clone(), beat.exchange());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(from);
            Ok::<_, Infallible>(exchange.answer(answer(router, request).await))
        }
    });
    let io = TokioIo::new(stream);
    let result = if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES as u32)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        watch_over(builder.serve_connection(io, service), &pulse, patience, stop).await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(patience.idle).max_buf_size(HEAD_BYTES);
        watch_over(builder.serve_connection(io, service), &pulse, patience, stop).await
    };
    match result {
        Ok(Verdict::Fine) => {}
        Ok(verdict) => tracing::debug!(%address, ?verdict, "a connection lost its place"),
        Err(error) => tracing::debug!(%address, %error, "a connection ended early"),
    }
}

/// Drives a connection to its end: its own, the controller's, or that of our patience.
async fn watch_over(
    connection: impl Served,
    pulse: &Pulse,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<Verdict> {
    let mut connection = std::pin::pin!(connection);
    let mut look = tokio::time::interval(patience.look());
    let (mut stopping, mut idle) = (false, None::<Instant>);
    loop {
        tokio::select! {
            result = connection.as_mut() => return result.map(|()| Verdict::Fine),
            () = stopped(&mut stop), if !stopping => {
                stopping = true;
                connection.as_mut().say_goodbye();
            }
            _ = look.tick() => match pulse.verdict(Instant::now()) {
                Verdict::Fine => {}
                Verdict::Stuck => return Ok(Verdict::Stuck),
                Verdict::Idle => match idle {
                    None => {
                        idle = Some(Instant::now());
                        connection.as_mut().say_goodbye();
                    }
                    Some(since) if since.elapsed() > GOODBYE => return Ok(Verdict::Idle),
                    Some(_) => {}
                },
            },
        }
    }
}
