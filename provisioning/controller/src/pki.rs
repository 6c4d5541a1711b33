//! The controller's certificate authority and signing key.
//!
//! Keys are P-256, so that a TPM can hold a node's. A certificate says who it is in one SPIFFE URI; subjects are for
//! people only.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use cairn_protocol::ids::{self, Name, Sha256Digest};
use cairn_protocol::signed::{ControllerKeys, Domain, KeysStatement};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SerialNumber,
    SigningKey as _, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;

/// Life of the CA's own certificate, seconds: 30 years. Nodes pin its key and never judge this date; other tools do.
const CA_LIFE: u64 = 30 * 365 * 86_400;
/// Life of the server's certificate, seconds: 90 days. The server makes itself a new one at a third left.
pub const SERVER_LIFE: u64 = 90 * 86_400;
/// Life of an operator's certificate, seconds: one year.
pub const OPERATOR_LIFE: u64 = 365 * 86_400;
/// Life of a node's certificate with a software key, seconds: 24 hours.
pub const NODE_LIFE: u64 = 86_400;
/// Certificates are valid from this many seconds before they are made, for peers whose clock is a little behind.
const BACKDATE: u64 = 3_600;

/// Something of the PKI could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// rcgen refused.
    #[error("cannot make {what}: {source}")]
    Make {
        /// What.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// A key or certificate of ours cannot be read.
    #[error("{what} cannot be read: {why}; restore it from a backup")]
    Read {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
}

fn make(what: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}

fn unreadable(what: &'static str) -> impl FnOnce(&dyn std::fmt::Display) -> PkiError {
    move |why| PkiError::Read { what, why: why.to_string() }
}

/// A certificate that was just made.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, PEM.
    pub pem: String,
    /// Serial number, hexadecimal digits.
    pub serial: String,
    /// SHA-256 of its key's SubjectPublicKeyInfo.
    pub key: Sha256Digest,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
}

/// Who a certificate is for.
#[derive(Debug, Clone)]
pub enum Subject<'a> {
    /// The controller's own listener.
    Server {
        /// DNS names and addresses.
        names: &'a [String],
    },
    /// A node.
    Node {
        /// Its site.
        site: &'a Name,
        /// Its name.
        node: &'a Name,
    },
    /// An operator.
    Operator {
        /// Its name.
        name: &'a Name,
    },
}

/// The certificate authority.
pub struct Ca {
    /// Its certificate, PEM.
    pub pem: String,
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    not_before: u64,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

fn date(unix_seconds: u64) -> OffsetDateTime {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn params(common_name: &str, not_before: u64, not_after: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date(not_before);
    params.not_after = date(not_after);
    // RFC 5280 4.1.2.2: positive, at most 20 octets; CA/B forum: at least 64 random bits.
    let mut serial = crate::random::bytes::<16>();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params
}

impl Ca {
    /// Makes a new authority for `trust_domain`; answers it and its key, PEM.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn generate(trust_domain: &str, now: u64) -> Result<(Self, String), PkiError> {
        const WHAT: &str = "the CA";
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make(WHAT))?;
        let not_before = now.saturating_sub(BACKDATE);
        let mut params = params(&format!("Cairn CA of {trust_domain}"), not_before, now + CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).map_err(make(WHAT))?.pem();
        let key_pem = key.serialize_pem();
        Ok((Self::load(trust_domain, &pem, &key_pem)?, key_pem))
    }

    /// The authority from its files.
    ///
    /// # Errors
    /// [`PkiError::Read`].
    pub fn load(trust_domain: &str, cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| unreadable("ca.key")(&e))?;
        let (_, block) =
            x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(|e| unreadable("ca.crt")(&e))?;
        let cert = block.parse_x509().map_err(|e| unreadable("ca.crt")(&e))?;
        if cert.public_key().raw != key.subject_public_key_info() {
            return Err(unreadable("ca.crt")(&"it is not the certificate of ca.key"));
        }
        let not_before = u64::try_from(cert.validity().not_before.timestamp()).unwrap_or(0);
        let issuer =
            Issuer::from_ca_cert_der(&block.contents.clone().into(), key).map_err(make("the CA's issuer"))?;
        Ok(Self { pem: cert_pem.to_owned(), trust_domain: trust_domain.to_owned(), issuer, not_before })
    }

    /// The DER SubjectPublicKeyInfo of its key.
    pub fn spki(&self) -> Vec<u8> {
        self.issuer.key().subject_public_key_info()
    }

    /// What nodes pin: SHA-256 of [`Self::spki`].
    pub fn pin(&self) -> Sha256Digest {
        Sha256Digest::of(&self.spki())
    }

    /// From when it is valid, seconds since 1970: no honest clock is earlier.
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// Vouches for the signing key.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn vouch(&self, signing: &SigningKey) -> Result<ControllerKeys, PkiError> {
        let statement = KeysStatement { signing_key: hex::encode(signing.verifying_key().as_bytes()) };
        let payload = serde_json::to_string(&statement).map_err(|e| unreadable("the key statement")(&e))?;
        let message = Domain::Keys.message(payload.as_bytes());
        let signature = self.issuer.key().sign(&message).map_err(make("the key statement"))?;
        Ok(ControllerKeys {
            ca_spki: BASE64.encode(self.spki()),
            payload,
            signature: BASE64.encode(signature),
        })
    }

    /// Makes a certificate for the key in `spki` (DER SubjectPublicKeyInfo, P-256), valid for `life` seconds.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn issue(&self, subject: &Subject<'_>, spki: &[u8], now: u64, life: u64) -> Result<Issued, PkiError> {
        const WHAT: &str = "a certificate";
        let public = SubjectPublicKeyInfo::from_der(spki).map_err(make(WHAT))?;
        let (not_before, not_after) = (now.saturating_sub(BACKDATE), now + life);
        let mut params = params(&common_name(subject), not_before, not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![match subject {
            Subject::Server { .. } => ExtendedKeyUsagePurpose::ServerAuth,
            Subject::Node { .. } | Subject::Operator { .. } => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.subject_alt_names = self.alt_names(subject).map_err(make(WHAT))?;
        let serial = params.serial_number.as_ref().map(|s| hex::encode(s.to_bytes())).unwrap_or_default();
        let pem = params.signed_by(&public, &self.issuer).map_err(make(WHAT))?.pem();
        Ok(Issued { pem, serial, key: Sha256Digest::of(spki), not_before, not_after })
    }

    fn alt_names(&self, subject: &Subject<'_>) -> Result<Vec<SanType>, rcgen::Error> {
        let uri = |text: String| -> Result<_, rcgen::Error> { Ok(vec![SanType::URI(text.try_into()?)]) };
        match subject {
            Subject::Server { names } => names
                .iter()
                .map(|name| match name.parse() {
                    Ok(address) => Ok(SanType::IpAddress(address)),
                    Err(_) => Ok(SanType::DnsName(name.as_str().try_into()?)),
                })
                .collect(),
            Subject::Node { site, node } => uri(ids::spiffe_node(&self.trust_domain, site, node)),
            Subject::Operator { name } => uri(ids::spiffe_operator(&self.trust_domain, name)),
        }
    }
}

fn common_name(subject: &Subject<'_>) -> String {
    match subject {
        Subject::Server { .. } => "Cairn Edge Controller".to_owned(),
        Subject::Node { node, site } => format!("node {node} of {site}"),
        Subject::Operator { name } => format!("operator {name}"),
    }
}

/// A new P-256 key: PEM and DER SubjectPublicKeyInfo.
///
/// # Errors
/// [`PkiError`].
pub fn new_key() -> Result<(String, Vec<u8>), PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make("a key"))?;
    Ok((key.serialize_pem(), key.subject_public_key_info()))
}

/// A new Ed25519 signing key, PKCS#8 PEM.
///
/// # Errors
/// [`PkiError`].
pub fn new_signing_key() -> Result<(SigningKey, String), PkiError> {
    let key = SigningKey::from_bytes(&crate::random::bytes::<32>());
    let pem = key
        .to_pkcs8_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF)
        .map_err(|e| unreadable("the signing key")(&e))?;
    Ok((key, pem.to_string()))
}

/// The Ed25519 signing key from its file.
///
/// # Errors
/// [`PkiError::Read`].
pub fn load_signing_key(pem: &str) -> Result<SigningKey, PkiError> {
    SigningKey::from_pkcs8_pem(pem).map_err(|e| unreadable("signing.key")(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_reads_back_and_vouches() {
        let (ca, key) = Ca::generate("cairn.lab", 1_800_000_000).unwrap();
        let again = Ca::load("cairn.lab", &ca.pem, &key).unwrap();
        assert_eq!(ca.pin(), again.pin());
        let (signing, pem) = new_signing_key().unwrap();
        assert_eq!(load_signing_key(&pem).unwrap(), signing);
        assert!(again.vouch(&signing).unwrap().verify(ca.pin()).is_ok());
        let (other, other_key) = Ca::generate("cairn.lab", 1_800_000_000).unwrap();
        assert!(other.vouch(&signing).unwrap().verify(ca.pin()).is_err());
        assert!(
            Ca::load("cairn.lab", &ca.pem, &other_key).is_err(),
            "key and certificate of two authorities"
        );
    }

    #[test]
    fn certificates_say_who_they_are_for() {
        let (ca, _) = Ca::generate("cairn.lab", 1_800_000_000).unwrap();
        let (_, spki) = new_key().unwrap();
        let (site, node) = (Name::new("s1").unwrap(), Name::new("n1").unwrap());
        let names = ["controller.cairn.lab".to_owned(), "10.0.0.1".to_owned()];
        for (subject, expect) in [
            (Subject::Node { site: &site, node: &node }, "spiffe://cairn.lab/site/s1/node/n1"),
            (Subject::Operator { name: &node }, "spiffe://cairn.lab/operator/n1"),
            (Subject::Server { names: &names }, "controller.cairn.lab"),
        ] {
            let issued = ca.issue(&subject, &spki, 1_800_000_000, NODE_LIFE).unwrap();
            assert_eq!(issued.not_after, 1_800_086_400);
            let (_, block) = x509_parser::pem::parse_x509_pem(issued.pem.as_bytes()).unwrap();
            let cert = block.parse_x509().unwrap();
            assert_eq!(cert.public_key().raw, spki);
            assert_eq!(hex::encode(cert.raw_serial()), issued.serial);
            let names = cert.subject_alternative_name().unwrap().unwrap();
            assert!(format!("{:?}", names.value).contains(expect), "{:?}", names.value);
        }
    }
}
