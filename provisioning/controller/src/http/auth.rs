//! Who may call a route. Having one of these extractors in a handler's arguments is the proof, for the moment at which
//! the request's head was read. What takes longer looks again: a body that is read ([`super::input`]), a watch, a file
//! that is sent, a wait for another upload. A certificate that was revoked meanwhile ends them.

use std::sync::Arc;
use std::time::Duration;

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
    /// For what outlasts the request's head.
    pub standing: Standing,
}

/// The caller is this operator.
#[derive(Debug, Clone)]
pub struct OperatorCaller {
    /// Its name.
    pub name: Name,
    /// For what outlasts the request's head.
    pub standing: Standing,
}

/// The caller is a node or an operator.
#[derive(Debug, Clone)]
pub struct AnyCaller(pub Standing);

/// How often a certificate's end is looked for while a request runs. A revocation is seen at once.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

fn connection(parts: &Parts) -> Result<Arc<Connection>, Failure> {
    parts.extensions.get::<Arc<Connection>>().cloned().ok_or_else(|| Failure::internal(&"no connection"))
}

/// The right of a caller to go on, which may end while its request runs. An extension of every request whose caller
/// was asked for.
#[derive(Debug, Clone)]
pub struct Standing {
    connection: Arc<Connection>,
    app: Arc<App>,
}

impl Standing {
    /// Code and line of why the certificate counts no more.
    fn refusal(&self) -> Option<(&'static str, &'static str)> {
        let client = self.connection.client.as_ref()?;
        let now = self.app.clock.now();
        if self.app.is_revoked(&client.serial) {
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
        }
    }

    /// Serial number of the certificate.
    pub fn serial(&self) -> String {
        self.connection.client.as_ref().map(|client| client.serial.clone()).unwrap_or_default()
    }

    /// Looks again.
    ///
    /// # Errors
    /// A 403 that says why the caller may call no more; it is noted as a refusal.
    pub async fn check(&self) -> Result<(), Failure> {
        let Some((code, detail)) = self.refusal() else { return Ok(()) };
        let peer = self.connection.client.as_ref().and_then(|client| client.peer.as_ref());
        let who = peer.map(|peer| format!("{peer:?}")).unwrap_or_default();
        self.app.refused(code, "", self.connection.address, &format!("{detail} ({who})")).await;
        Err(Failure::forbidden(code, detail))
    }

    /// Waits until the caller may call no more; answers why.
    pub async fn lost(&self) -> Failure {
        let mut revocations = self.app.revocations();
        loop {
            if let Err(failure) = self.check().await {
                return failure;
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, revocations.changed()).await;
        }
    }
}

async fn caller(parts: &mut Parts, app: &Arc<App>) -> Result<(Peer, Standing), Failure> {
    let standing = Standing { connection: connection(parts)?, app: app.clone() };
    let Some(client) = &standing.connection.client else {
        return Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "certificate-required",
            "this needs a client certificate of this controller: a node enrols for one, \
             an operator gets one by cairn-controller operator",
        ));
    };
    standing.check().await?;
    let peer = client.peer.clone().ok_or_else(|| wrong("a node or an operator"))?;
    // Who reads the body finds it there.
    parts.extensions.insert(standing.clone());
    Ok((peer, standing))
}

fn wrong(wanted: &str) -> Failure {
    Failure::forbidden("wrong-certificate", format!("this needs the certificate of {wanted}"))
}

impl FromRequestParts<Arc<App>> for NodeCaller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        match caller(parts, app).await? {
            (Peer::Node { site, node }, standing) => Ok(Self { site, node, standing }),
            (Peer::Operator { .. }, _) => Err(wrong("a node")),
        }
    }
}

impl FromRequestParts<Arc<App>> for OperatorCaller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        match caller(parts, app).await? {
            (Peer::Operator { name }, standing) => Ok(Self { name, standing }),
            (Peer::Node { .. }, _) => Err(wrong("an operator")),
        }
    }
}

impl FromRequestParts<Arc<App>> for AnyCaller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        caller(parts, app).await.map(|(_, standing)| Self(standing))
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
