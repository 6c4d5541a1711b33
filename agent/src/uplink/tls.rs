//! TLS towards the controller: a server is accepted iff its chain holds the CA whose key is pinned, and its own
//! certificate chains to that CA alone, for the name that was asked for.

use std::sync::Arc;
use std::time::Duration;

use cairn_protocol::ids::Sha256Digest;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::UplinkError;
use crate::clock::Clock;
use crate::identity::Credential;

/// Whether the validity dates of certificates are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dates {
    /// By the trusted time.
    Judged,
    /// Not yet: this is the question for the time itself, whose answer is signed over our nonce.
    Ignored,
}

/// The server's CA is another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the controller's CA key {} is not the one pinned in this image ({pinned})",
    found.map_or_else(|| "(none was sent)".to_owned(), |found| found.to_string())
)]
pub struct PinMismatch {
    /// SHA-256 of the last certificate's key in the chain.
    pub found: Option<Sha256Digest>,
    /// The pin.
    pub pinned: Sha256Digest,
}

/// The verifier after the contract of the house.
#[derive(Debug)]
struct PinVerifier {
    pin: Sha256Digest,
    clock: Arc<Clock>,
    dates: Dates,
    provider: Arc<CryptoProvider>,
}

/// A client configuration for one connection.
pub(super) fn config(
    pin: Sha256Digest,
    clock: Arc<Clock>,
    dates: Dates,
    credential: Option<&Credential>,
    url: &str,
) -> Result<Arc<ClientConfig>, UplinkError> {
    let bad = |e: rustls::Error| UplinkError::Tls { url: url.to_owned(), why: e.to_string() };
    let provider = Arc::new(ring::default_provider());
    let verifier = PinVerifier { pin, clock, dates, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(bad)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credential {
        Some(credential) => builder
            .with_client_auth_cert(credential.chain.clone(), credential.key.clone_key())
            .map_err(bad)?,
        None => builder.with_no_client_auth(),
    };
    // A resumed session would show the old certificate after a renewal.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Whether a chain that was accepted without its dates, leaf first, is valid now for `host` as well.
pub(super) fn is_valid_now(
    pin: Sha256Digest,
    clock: &Arc<Clock>,
    chain: &[CertificateDer<'_>],
    host: &ServerName<'_>,
) -> bool {
    let provider = Arc::new(ring::default_provider());
    let verifier = PinVerifier { pin, clock: Arc::clone(clock), dates: Dates::Judged, provider };
    chain.split_first().is_some_and(|(leaf, rest)| verifier.judge(leaf, rest, host).is_ok())
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, DER.
fn key_digest(certificate: &CertificateDer<'_>) -> Option<Sha256Digest> {
    let anchor = anchor_from_trusted_cert(certificate).ok()?;
    Some(Sha256Digest::of(&sequence(&anchor.subject_public_key_info)))
}

/// DER SEQUENCE around `content` (X.690 8.1): webpki hands out the content alone.
fn sequence(content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![0x30];
    if length < 0x80 {
        der.push(u8::try_from(length).unwrap_or(0));
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        der.push(0x80 | u8::try_from(bytes.len()).unwrap_or(0));
        der.extend(bytes);
    }
    der.extend_from_slice(content);
    der
}

impl PinVerifier {
    /// Whether the chain is the pinned CA's, for this name, and, where dates are judged, valid now.
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        let digests: Vec<_> =
            intermediates.iter().map(|certificate| (key_digest(certificate), certificate)).collect();
        let Some((_, ca)) = digests.iter().find(|(digest, _)| *digest == Some(self.pin)) else {
            let found = digests.last().map_or_else(|| key_digest(end_entity), |(digest, _)| *digest);
            let mismatch = PinMismatch { found, pinned: self.pin };
            return Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into());
        };
        let judge = |now: UnixTime| {
            let leaf = EndEntityCert::try_from(end_entity)?;
            let anchors = [anchor_from_trusted_cert(ca)?];
            let algorithms = self.provider.signature_verification_algorithms.all;
            leaf.verify_for_usage(algorithms, &anchors, &[], now, KeyUsage::server_auth(), None, None)?;
            leaf.verify_is_valid_for_subject_name(server_name)
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.clock.now()));
        let verdict = match judge(now) {
            // Everything but the dates is judged at a moment when the certificate is valid.
            Err(webpki::Error::CertExpired { not_after, .. }) if self.dates == Dates::Ignored => {
                judge(not_after)
            }
            Err(webpki::Error::CertNotValidYet { not_before, .. }) if self.dates == Dates::Ignored => {
                judge(not_before)
            }
            verdict => verdict,
        };
        verdict.map_err(|error| match error {
            webpki::Error::CertExpired { time, not_after } => {
                CertificateError::ExpiredContext { time, not_after }.into()
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                CertificateError::NotValidYetContext { time, not_before }.into()
            }
            webpki::Error::CertNotValidForName(_) => CertificateError::NotValidForName.into(),
            webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
            other => rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))),
        })
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Only TLS 1.3 is offered.
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The pin mismatch inside an error of the handshake, where that was the reason.
pub(super) fn pin_mismatch(error: &std::io::Error) -> Option<PinMismatch> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            other.downcast_ref::<PinMismatch>().cloned()
        }
        _ => None,
    }
}

/// From when to when the leaf of `chain` is valid, seconds since 1970; `None` where it does not chain to its last
/// certificate. (webpki tells the dates only by refusing a time outside of them.)
pub fn validity(chain: &[CertificateDer<'static>]) -> Option<(u64, u64)> {
    let (leaf, ca) = (chain.first()?, chain.last()?);
    let judge = |seconds: u64| {
        let leaf = EndEntityCert::try_from(leaf)?;
        let anchors = [anchor_from_trusted_cert(ca)?];
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        leaf.verify_for_usage(algorithms, &anchors, &[], time, KeyUsage::client_auth(), None, None).map(drop)
    };
    // Seconds of the years 1970 and 9999, the ends of X.509's calendar.
    let before = match judge(0) {
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
        _ => return None,
    };
    match judge(253_402_300_799) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some((before, not_after.as_secs())),
        _ => None,
    }
}
