//! TLS: who may connect, and who they are.
//!
//! A client certificate is asked for and not demanded. One of another authority ends the handshake; one of ours that
//! has run out does not: its holder gets a clear answer by HTTP instead of an alert (see [`crate::http::auth`]).

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use cairn_protocol::ids::{self, Peer};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::clock::Clock;

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file of ours.
    #[error("{what} cannot be read: {why}")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// rustls.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
    /// The verifier.
    #[error("client certificates cannot be verified: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The certificate of a connected client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Who it speaks for; `None` when it names nobody of this trust domain.
    pub peer: Option<Peer>,
    /// Serial number, hexadecimal digits.
    pub serial: String,
    /// Not valid before, seconds since 1970.
    pub not_before: u64,
    /// Not valid after.
    pub not_after: u64,
}

/// Reads a client certificate; `None` when it is not X.509. Its signature is the handshake's to judge.
pub fn client_of(trust_domain: &str, der: &[u8]) -> Option<Client> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let names = cert.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // X.509-SVID 2: exactly one URI.
    let peer = match (uris.next(), uris.next()) {
        (Some(uri), None) => ids::parse_spiffe(trust_domain, uri),
        _ => None,
    };
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Some(Client {
        peer,
        serial: hex::encode(cert.raw_serial()),
        not_before: seconds(cert.validity().not_before),
        not_after: seconds(cert.validity().not_after),
    })
}

/// The server's certificate, replaceable while it runs.
#[derive(Debug)]
pub struct ServerCert(RwLock<Arc<CertifiedKey>>);

impl ServerCert {
    /// Reads `tls.crt` (leaf and CA) and `tls.key`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(chain: &str, key: &str) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(Arc::new(certified(chain, key)?))))
    }

    /// Takes another certificate for connections from now on.
    ///
    /// # Errors
    /// [`TlsError`]; the old one stays then.
    pub fn replace(&self, chain: &str, key: &str) -> Result<(), TlsError> {
        let new = Arc::new(certified(chain, key)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl ResolvesServerCert for ServerCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certs(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError::Pem { what, why: e.to_string() })
}

fn certified(chain: &str, key: &str) -> Result<CertifiedKey, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|e| TlsError::Pem { what: "tls.key", why: e.to_string() })?;
    let key = CertifiedKey::from_der(certs("tls.crt", chain)?, key, &provider())?;
    key.keys_match()?;
    Ok(key)
}

/// Whether the text of `tls.key` or `tls.crt` can be read, each on its own.
///
/// # Errors
/// [`TlsError::Pem`].
pub fn check_pem(what: &'static str, text: &str) -> Result<(), TlsError> {
    let bad = |why: String| TlsError::Pem { what, why };
    if what == "tls.key" {
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| bad(e.to_string()))?;
        provider().key_provider.load_private_key(key).map_err(|e| bad(e.to_string()))?;
        return Ok(());
    }
    let chain = certs(what, text)?;
    let leaf = chain.first().ok_or_else(|| bad("there is no certificate in it".to_owned()))?;
    X509Certificate::from_der(leaf).map(drop).map_err(|e| bad(e.to_string()))
}

/// Until when the server certificate at `path` is valid, seconds since 1970; `None` when there is none to read.
pub fn valid_until(path: &Path) -> Option<u64> {
    let chain = certs("tls.crt", &std::fs::read_to_string(path).ok()?).ok()?;
    let (_, cert) = X509Certificate::from_der(chain.first()?).ok()?;
    u64::try_from(cert.validity().not_after.timestamp()).ok()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The listener's configuration: HTTP/2 and HTTP/1.1, client certificates of the authority `ca` (PEM).
///
/// # Errors
/// [`TlsError`].
pub fn server_config(ca: &str, cert: Arc<ServerCert>, clock: Clock) -> Result<ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for der in certs("ca.crt", ca)? {
        roots.add(der)?;
    }
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(Clients { inner, clock }))
        .with_cert_resolver(cert);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Verifies client certificates by webpki, dates left to the request.
#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    clock: Clock,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let now = at(self.clock.now());
        match self.inner.verify_client_cert(end_entity, intermediates, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            )) => {
                let client = client_of("", end_entity)
                    .ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
                self.inner.verify_client_cert(end_entity, intermediates, at(client.not_after))
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Why a handshake failed, as a refusal's code and line; `None` for what is nobody's fault (a peer that went away).
pub fn refusal_of(error: &std::io::Error) -> Option<(&'static str, String)> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match inner {
        rustls::Error::AlertReceived(
            // The agent's own verifier; webpki: another issuer; another key of the same name.
            AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => Some((
            "ca-pin",
            format!(
                "the peer does not take this controller's CA ({inner}): its image pins another one; \
                 build its image with this controller's trust (cairnctl trust export)"
            ),
        )),
        rustls::Error::AlertReceived(AlertDescription::BadCertificate) => Some((
            "server-name",
            format!(
                "the peer calls this controller by a name that its certificate does not have ({inner}): \
                 use a name given to cairn-controller init"
            ),
        )),
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => Some((
            "server-certificate-expired",
            format!("the peer says this controller's certificate has run out ({inner}): compare both clocks"),
        )),
        rustls::Error::InvalidCertificate(_) => Some((
            "client-certificate",
            format!("the peer showed a certificate that is not this controller's ({inner})"),
        )),
        _ => Some(("tls", format!("the TLS handshake failed: {inner}"))),
    }
}
