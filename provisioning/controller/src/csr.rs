//! Certificate requests from outside: who asks, and does it hold the key.

use cairn_protocol::limits;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// Longest request read, bytes of PEM. A P-256 request with a few attributes takes under 1 KiB.
const CSR_BYTES: usize = 16 << 10;

/// `id-ecPublicKey` with `prime256v1` (RFC 5480) and the head of the bit string: the first bytes of any P-256
/// SubjectPublicKeyInfo with an uncompressed point.
const P256_HEADER: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// Why a certificate request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] limits::TooLong),
    /// Not PEM of a PKCS#10 request.
    #[error("the certificate request cannot be read: {0}")]
    Malformed(String),
    /// Another kind of key.
    #[error("the certificate request is for another key than P-256 with an uncompressed point")]
    KeyKind,
    /// The requester does not hold the key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

/// The public key (DER SubjectPublicKeyInfo, P-256) of a PEM PKCS#10 request whose own signature verifies. Subject and
/// extensions are ignored: what a certificate says is decided here.
///
/// # Errors
/// [`CsrError`].
pub fn key_of(pem: &str) -> Result<Vec<u8>, CsrError> {
    limits::check("the certificate request", pem.as_bytes(), CSR_BYTES)?;
    let malformed = |why: &dyn std::fmt::Display| CsrError::Malformed(limits::clean_text(&why.to_string()));
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| malformed(&e))?;
    if !matches!(block.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(malformed(&"the PEM block is not a CERTIFICATE REQUEST"));
    }
    let (rest, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| malformed(&e))?;
    if !rest.is_empty() {
        return Err(malformed(&"bytes follow the request"));
    }
    let spki = request.certification_request_info.subject_pki.raw;
    if spki.len() != 91 || !spki.starts_with(&P256_HEADER) {
        return Err(CsrError::KeyKind);
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(spki.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData as _};

    use super::*;

    fn csr() -> (KeyPair, String) {
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::new(vec!["evil.example".to_owned()])
            .unwrap()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        (key, pem)
    }

    #[test]
    fn a_request_gives_its_key() {
        let (key, pem) = csr();
        assert_eq!(key_of(&pem).unwrap(), key.subject_public_key_info());
    }

    #[test]
    fn other_keys_forged_and_foreign_requests_are_refused() {
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let pem = CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
        assert_eq!(key_of(&pem), Err(CsrError::KeyKind));
        // Another key in place of the one that signed.
        let ((a, pem), (b, _)) = (csr(), csr());
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let mut der = block.contents;
        let at = der.windows(65).position(|w| w == a.der_bytes()).unwrap();
        der[at..at + 65].copy_from_slice(b.der_bytes());
        let forged = to_pem(&der);
        assert_eq!(key_of(&forged), Err(CsrError::Signature));
        assert!(matches!(key_of(""), Err(CsrError::Malformed(_))));
        assert!(matches!(key_of(&"x".repeat(CSR_BYTES + 1)), Err(CsrError::TooLong(_))));
        assert!(matches!(key_of(&pem.replace(" REQUEST", "")), Err(CsrError::Malformed(_))));
    }

    fn to_pem(der: &[u8]) -> String {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            STANDARD.encode(der)
        )
    }

    proptest! {
        #[test]
        fn damaged_requests_never_panic(flips in proptest::collection::vec((0_usize..400, any::<u8>()), 1..8)) {
            let (_, pem) = csr();
            let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
            let mut der = block.contents;
            for (at, byte) in flips {
                let at = at % der.len();
                der[at] = byte;
            }
            let _ = key_of(&to_pem(&der));
        }

        #[test]
        fn any_text_is_answered(text: String) {
            prop_assert!(key_of(&text).is_err());
        }
    }
}
