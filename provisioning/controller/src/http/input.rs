//! Reading requests: measured first, then parsed; what cannot be read is answered with a problem.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::{Bytes, BytesMut};
use cairn_protocol::ids::{Name, Sha256Digest};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use super::auth::Standing;
use super::problem::Failure;
use crate::patience::{self, Patience};
use crate::server::Connection;

/// Bytes of a body that is too long that are thrown away before the answer; several times what honest peers get wrong.
const DRAIN: usize = 8 << 20;
/// How long they may take, and a pause between them.
const DRAIN_TIME: Duration = Duration::from_secs(10);
const DRAIN_IDLE: Duration = Duration::from_secs(2);

/// A request body of at most `MAX` bytes. Where the route asks who calls, the caller was still allowed to when the last
/// byte had come.
#[derive(Debug)]
pub struct Limited<const MAX: usize>(pub Bytes);

impl<const MAX: usize, S: Send + Sync> FromRequest<S> for Limited<MAX> {
    type Rejection = Failure;
    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let standing = request.extensions().get::<Standing>().cloned();
        let connection = request.extensions().get::<Arc<Connection>>();
        let patience = connection.ok_or_else(|| Failure::internal(&"no connection"))?.patience;
        let mut stream = request.into_body().into_data_stream();
        if announced.is_some_and(|length| length > MAX as u64) {
            drain(&mut stream).await;
            return Err(too_long(MAX));
        }
        let Some(standing) = standing else { return read(&mut stream, MAX, patience).await.map(Self) };
        let bytes = tokio::select! {
            bytes = read(&mut stream, MAX, patience) => bytes?,
            failure = standing.lost() => return Err(failure),
        };
        standing.check().await?;
        Ok(Self(bytes))
    }
}

fn too_long(max: usize) -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-long",
        format!("the request's body has more than the {max} bytes allowed: it was not read"),
    )
}

/// Throws away a little of what still comes: a peer that is still sending when its connection is closed never sees why.
async fn drain(stream: &mut BodyDataStream) {
    let (mut left, begun) = (DRAIN, Instant::now());
    while left > 0
        && begun.elapsed() < DRAIN_TIME
        && let Ok(Some(Ok(piece))) = tokio::time::timeout(DRAIN_IDLE, stream.next()).await
    {
        left = left.saturating_sub(piece.len());
    }
}

async fn read(stream: &mut BodyDataStream, max: usize, patience: Patience) -> Result<Bytes, Failure> {
    let (mut bytes, begun) = (BytesMut::new(), Instant::now());
    loop {
        let now = Instant::now();
        let until = patience.deadline(begun, now, bytes.len() as u64).min(now + patience.slow);
        match tokio::time::timeout_at(until.into(), stream.next()).await {
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Ok(piece))) if bytes.len() + piece.len() <= max => bytes.extend_from_slice(&piece),
            Ok(Some(Ok(_))) => {
                drain(stream).await;
                return Err(too_long(max));
            }
            Ok(Some(Err(_))) => return Err(Failure::bad("cut", "the request's body was cut short")),
            Err(_) => {
                return Err(Failure::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "too-slow",
                    format!(
                        "the request's body stopped arriving, or came with less than {} bytes a second",
                        patience::SLOWEST
                    ),
                ));
            }
        }
    }
}

/// Reads a JSON body; `what` names it in the answer.
///
/// # Errors
/// A 400 that says where the text is wrong.
pub fn json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|e| Failure::bad("malformed", format!("{what} cannot be read: {e}")))
}

/// Reads a name from a path.
///
/// # Errors
/// A 400.
pub fn name(what: &str, text: &str) -> Result<Name, Failure> {
    Name::new(text).map_err(|e| Failure::bad("bad-name", format!("{what}: {e}")))
}

/// Reads a digest.
///
/// # Errors
/// A 400.
pub fn digest(text: &str) -> Result<Sha256Digest, Failure> {
    text.parse().map_err(|e| Failure::bad("bad-digest", format!("{e}")))
}

/// Parameters of a path; a wrong one is a 400 with a problem.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::bad("bad-path", error.body_text())),
        }
    }
}

/// Parameters of a query; a wrong one is a 400 with a problem.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::bad("bad-query", error.body_text())),
        }
    }
}
