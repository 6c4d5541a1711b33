//! TLS between nodes of one site, and towards the cluster's API server.
//!
//! A node shows the certificate that central gave it, whichever side it is on. The other side must show one of the same
//! CA (the one whose key the image pins) for a node of the same site. The certificate is one of a client; two nodes have
//! no names of the web to check, so the SPIFFE id is what counts on both sides.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cairn_protocol::ids::{Name, Peer, parse_spiffe};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// Who this node is.
pub struct Identity {
    /// Its site.
    pub site: Name,
    /// Its name.
    pub node: Name,
    /// The trust domain of SPIFFE ids.
    pub trust_domain: String,
    /// Its certificate and, last, that of the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The trusted time, seconds since 1970.
    pub now: u64,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("site", &self.site).field("node", &self.node).finish_non_exhaustive()
    }
}

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The identity.
    #[error("the node's certificate cannot be used: {0}")]
    Identity(String),
    /// The cluster's credentials.
    #[error("the cluster's credentials cannot be used: {0}")]
    Credentials(String),
}

fn bad_identity(error: impl fmt::Display) -> TlsError {
    TlsError::Identity(error.to_string())
}

/// Judges a certificate of another node of the site.
#[derive(Debug)]
struct SiteVerifier {
    ca: CertificateDer<'static>,
    trust_domain: String,
    site: Name,
    /// The nodes that are taken; none takes any of the site.
    nodes: Option<Vec<Name>>,
    now: u64,
    provider: Arc<CryptoProvider>,
}

impl SiteVerifier {
    fn new(identity: &Identity, nodes: Option<Vec<Name>>) -> Result<Arc<Self>, TlsError> {
        let ca = identity.chain.last().filter(|_| identity.chain.len() > 1);
        Ok(Arc::new(Self {
            ca: ca.cloned().ok_or_else(|| bad_identity("its CA is not with it"))?,
            trust_domain: identity.trust_domain.clone(),
            site: identity.site.clone(),
            nodes,
            now: identity.now,
            provider: Arc::new(ring::default_provider()),
        }))
    }

    fn judge(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let refuse = |error: CertificateError| rustls::Error::InvalidCertificate(error);
        let judge = || {
            let leaf = EndEntityCert::try_from(end_entity)?;
            let anchors = [anchor_from_trusted_cert(&self.ca)?];
            let algorithms = self.provider.signature_verification_algorithms.all;
            let now = UnixTime::since_unix_epoch(Duration::from_secs(self.now));
            leaf.verify_for_usage(algorithms, &anchors, &[], now, KeyUsage::client_auth(), None, None)
                .map(drop)
        };
        judge().map_err(|error: webpki::Error| match error {
            webpki::Error::CertExpired { .. } => refuse(CertificateError::Expired),
            webpki::Error::CertNotValidYet { .. } => refuse(CertificateError::NotValidYet),
            webpki::Error::UnknownIssuer => refuse(CertificateError::UnknownIssuer),
            _ => refuse(CertificateError::BadEncoding),
        })?;
        let node = node_of(end_entity, &self.trust_domain, &self.site)
            .ok_or_else(|| refuse(CertificateError::ApplicationVerificationFailure))?;
        if self.nodes.as_ref().is_some_and(|nodes| !nodes.contains(&node)) {
            return Err(refuse(CertificateError::NotValidForName));
        }
        Ok(())
    }

    fn tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
}

/// The node of `site` that a certificate is for.
pub fn node_of(certificate: &CertificateDer<'_>, trust_domain: &str, site: &Name) -> Option<Name> {
    let leaf = EndEntityCert::try_from(certificate).ok()?;
    let mut names = leaf.valid_uri_names();
    match (names.next().and_then(|uri| parse_spiffe(trust_domain, uri)), names.next()) {
        (Some(Peer::Node { site: of, node }), None) if of == *site => Some(node),
        _ => None,
    }
}

impl ServerCertVerifier for SiteVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SiteVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// For asking a node of the site that is one of `nodes`.
///
/// # Errors
/// [`TlsError::Identity`].
pub fn towards(identity: &Identity, nodes: Vec<Name>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(bad_identity)?
        .dangerous()
        .with_custom_certificate_verifier(SiteVerifier::new(identity, Some(nodes))?)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(bad_identity)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For answering nodes of the site.
///
/// # Errors
/// [`TlsError::Identity`].
pub fn answering(identity: &Identity) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(bad_identity)?
        .with_client_cert_verifier(SiteVerifier::new(identity, None)?)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(bad_identity)?;
    Ok(Arc::new(config))
}

/// For asking the API server whose CA is `ca`, with a client's certificate and key.
///
/// # Errors
/// [`TlsError::Credentials`].
pub fn towards_api(
    ca: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let bad = |error: &dyn fmt::Display| TlsError::Credentials(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).map_err(|e| bad(&e))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| bad(&e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| bad(&e))?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
