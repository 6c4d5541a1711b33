//! Two nodes of a site and whoever else tries: over real sockets, with certificates as central makes them.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_bootstrap::edge::peer;
use cairn_bootstrap::edge::serve::{self, Answer, Answers};
use cairn_bootstrap::edge::tls::Identity;
use cairn_protocol::ids::{Name, spiffe_node};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::net::TcpListener;

const DOMAIN: &str = "cairn.test";
const NOW: u64 = 1_800_000_000;
const LIMIT: Duration = Duration::from_secs(20);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

fn date(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap()
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date(NOW - 86_400);
        params.not_after = date(NOW + 864_000);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der }
    }

    /// As central issues it: for a client, with one SPIFFE id.
    fn node(&self, site: &str, node: &str) -> Identity {
        let (site, node) = (Name::new(site).unwrap(), Name::new(node).unwrap());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let id = spiffe_node(DOMAIN, &site, &node);
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_before = date(NOW - 3600);
        params.not_after = date(NOW + 86_400);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            site,
            node,
            trust_domain: DOMAIN.to_owned(),
            chain: vec![leaf.der().clone(), self.der.clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            now: NOW,
        }
    }
}

fn copy(identity: &Identity) -> Identity {
    Identity {
        site: identity.site.clone(),
        node: identity.node.clone(),
        trust_domain: identity.trust_domain.clone(),
        chain: identity.chain.clone(),
        key: identity.key.clone_key(),
        now: identity.now,
    }
}

/// Answers with the caller's name; `/flood` with more than anybody takes.
struct Echo(Identity);

impl Answers for Echo {
    fn answer<'a>(&'a self, node: Name, path: &'a str) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        let length = if path == "/flood" { 1 << 20 } else { 0 };
        let mut body = format!("{node} asks {path}").into_bytes();
        body.resize(body.len() + length, b'x');
        Box::pin(std::future::ready((200, body)))
    }

    fn identity(&self) -> Option<Identity> {
        Some(copy(&self.0))
    }
}

async fn serve(identity: Identity) -> (Ipv4Addr, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve::serve(listener, Arc::new(Echo(identity)), LIMIT));
    (Ipv4Addr::LOCALHOST, port)
}

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::new(name).unwrap()).collect()
}

#[tokio::test]
async fn nodes_of_one_site_talk_and_nobody_else() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let at = serve(ca.node("s1", "cp1")).await;
    let planes = names(&["cp1"]);
    let ask = async |identity: &Identity, planes: &[Name], path: &str| {
        peer::ask(identity, at, planes, path, LIMIT).await.map_err(|trouble| trouble.reason)
    };
    let worker = ca.node("s1", "w1");
    assert_eq!(ask(&worker, &planes, "/v1/worker").await.unwrap(), b"w1 asks /v1/worker");

    let elsewhere = ca.node("s2", "w1");
    assert!(ask(&elsewhere, &planes, "/v1/worker").await.is_err(), "another site's node");
    let stranger = foreign.node("s1", "w1");
    assert!(ask(&stranger, &planes, "/v1/worker").await.is_err(), "another CA's node");
    // It trusts our CA and shows a certificate of its own.
    let mut forged = foreign.node("s1", "w1");
    *forged.chain.last_mut().unwrap() = ca.der.clone();
    assert!(ask(&forged, &planes, "/v1/worker").await.is_err(), "a certificate that our CA did not sign");
    let late = Identity { now: NOW + 90_000, ..copy(&worker) };
    assert!(ask(&late, &planes, "/v1/worker").await.is_err(), "a server whose certificate has run out");

    let error = ask(&worker, &names(&["cp2"]), "/v1/worker").await.unwrap_err();
    assert!(error.contains("no TLS") || error.contains("no control plane"), "{error}");
    let error = ask(&worker, &planes, "/flood").await.unwrap_err();
    assert!(error.contains("longer than"), "{error}");
}

#[tokio::test]
async fn nobody_listens() {
    let identity = Ca::new().node("s1", "w1");
    // Port 1 of the loopback is nobody's.
    let error =
        peer::ask(&identity, (Ipv4Addr::LOCALHOST, 1), &names(&["cp1"]), "/", LIMIT).await.unwrap_err();
    assert!(error.reason.contains("no control plane answers at 127.0.0.1:1"), "{}", error.reason);
    assert!(!error.advice.is_empty());
}
