//! Who may call a route. Having one of these extractors in a handler's arguments is the proof.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use cairn_protocol::ids::{Name, Peer};

use super::problem::Failure;
use crate::app::App;
use crate::server::Connection;

/// The caller is this node, with a certificate that is valid now.
#[derive(Debug, Clone)]
pub struct NodeCaller {
    /// Its site.
    pub site: Name,
    /// Its name.
    pub node: Name,
}

/// The caller is this operator.
#[derive(Debug, Clone)]
pub struct OperatorCaller {
    /// Its name.
    pub name: Name,
}

/// The caller is a node or an operator.
#[derive(Debug, Clone)]
pub struct AnyCaller;

fn connection(parts: &Parts) -> Result<Arc<Connection>, Failure> {
    parts.extensions.get::<Arc<Connection>>().cloned().ok_or_else(|| Failure::internal(&"no connection"))
}

async fn caller(parts: &Parts, app: &App) -> Result<Peer, Failure> {
    let connection = connection(parts)?;
    let Some(client) = &connection.client else {
        return Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "certificate-required",
            "this needs a client certificate of this controller: a node enrols for one, \
             an operator gets one by cairn-controller operator",
        ));
    };
    let now = app.clock.now();
    let refusal = if app.is_revoked(&client.serial) {
        Some((
            "certificate-revoked",
            "this certificate was revoked: the node was released or has enrolled again",
        ))
    } else if now > client.not_after {
        Some((
            "certificate-expired",
            "this certificate has run out: a node enrols again, an operator gets another",
        ))
    } else if now < client.not_before {
        Some((
            "certificate-not-yet-valid",
            "this certificate is not valid yet: the controller's clock went back",
        ))
    } else {
        None
    };
    if let Some((code, detail)) = refusal {
        let who = client.peer.as_ref().map(|peer| format!("{peer:?}")).unwrap_or_default();
        app.refused(code, "", connection.address, &format!("{detail} ({who})")).await;
        return Err(Failure::forbidden(code, detail));
    }
    client.peer.clone().ok_or_else(|| wrong("a node or an operator"))
}

fn wrong(wanted: &str) -> Failure {
    Failure::forbidden("wrong-certificate", format!("this needs the certificate of {wanted}"))
}

impl FromRequestParts<Arc<App>> for NodeCaller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        match caller(parts, app).await? {
            Peer::Node { site, node } => Ok(Self { site, node }),
            Peer::Operator { .. } => Err(wrong("a node")),
        }
    }
}

impl FromRequestParts<Arc<App>> for OperatorCaller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        match caller(parts, app).await? {
            Peer::Operator { name } => Ok(Self { name }),
            Peer::Node { .. } => Err(wrong("an operator")),
        }
    }
}

impl FromRequestParts<Arc<App>> for AnyCaller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        caller(parts, app).await.map(|_| Self)
    }
}

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Address(pub std::net::SocketAddr);

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Ok(Self(connection(parts)?.address))
    }
}
