//! What the controller signs, and how a node follows it back to the CA pin in its image.
//!
//! The pin names the CA's public key. The CA key signs a [`ControllerKeys`] statement that names the Ed25519 key with
//! which the controller signs everyday things (time, assignments, seeds). Each signature covers its [`Domain`], so a
//! signature for one use is worth nothing in another.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signer as _, SigningKey};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::ids::Sha256Digest;
use crate::limits;

/// What a signature is for; its text is signed in front of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// [`ControllerKeys`], by the CA's key.
    Keys,
    /// A [`TimeStatement`].
    Time,
    /// An [`crate::assignment::Assignment`].
    Assignment,
    /// A [`crate::seed::Seed`].
    Seed,
}

impl Domain {
    /// The bytes signed in front of the payload; the closing NUL keeps one from being a prefix of another.
    pub fn prefix(self) -> &'static [u8] {
        match self {
            Self::Keys => b"cairn-keys-v1\0",
            Self::Time => b"cairn-time-v1\0",
            Self::Assignment => b"cairn-assignment-v1\0",
            Self::Seed => b"cairn-seed-v1\0",
        }
    }

    /// The message that is signed for `payload`.
    pub fn message(self, payload: &[u8]) -> Vec<u8> {
        [self.prefix(), payload].concat()
    }
}

/// A payload and the controller's Ed25519 signature over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The JSON text that was signed, to the byte.
    pub payload: String,
    /// Ed25519 over the domain's prefix and the payload, base64.
    pub signature: String,
}

/// The key with which the controller signs, vouched for by the CA's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerKeys {
    /// The CA's public key: DER SubjectPublicKeyInfo of a P-256 key, base64. Its SHA-256 is the pin.
    pub ca_spki: String,
    /// The JSON text of a [`KeysStatement`].
    pub payload: String,
    /// ECDSA P-256 with SHA-256 (ASN.1 DER) by the CA's key over [`Domain::Keys`] and the payload, base64.
    pub signature: String,
}

/// What the CA says about the signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysStatement {
    /// The Ed25519 public key, 32 bytes as hexadecimal digits.
    pub signing_key: String,
}

/// The controller's answer about the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeStatement {
    /// The nonce of the question: 32 hexadecimal digits.
    pub nonce: String,
    /// Seconds since 1970-01-01 UTC.
    pub unix_seconds: u64,
}

/// What `GET /v1/time` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedTime {
    /// The controller's keys.
    pub keys: ControllerKeys,
    /// A [`TimeStatement`] under [`Domain::Time`].
    pub statement: Envelope,
}

/// Why a signed thing was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// The CA's key is not the pinned one.
    #[error(
        "the controller's CA key {found} is not the one pinned in this image ({pinned}): \
             this is another controller, or the image was built for another one"
    )]
    Pin {
        /// SHA-256 of the key that was presented.
        found: Sha256Digest,
        /// The pin.
        pinned: Sha256Digest,
    },
    /// A signature does not verify.
    #[error("the signature over {what} is not the controller's: it was forged or damaged on the way")]
    Signature {
        /// What was signed.
        what: &'static str,
    },
    /// The bytes are not what they should be.
    #[error("{what} cannot be read: {why}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// Why it was refused.
        why: String,
    },
    /// The answer is to another question.
    #[error("the signed time answers another question (nonce differs): it was replayed")]
    Nonce,
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] limits::TooLong),
}

/// The controller's signing key, proven to hang on the pinned CA key. Holding one is the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKeys {
    /// Ed25519. It is used by ring, as all that a node verifies: one implementation is loaded and trusted.
    key: [u8; 32],
}

fn malformed(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> SignedError {
    move |why| SignedError::Malformed { what, why: limits::clean_text(&why.to_string()) }
}

impl ControllerKeys {
    /// Follows the statement back to `pin`.
    ///
    /// # Errors
    /// [`SignedError::Pin`] for another CA, [`SignedError::Signature`] for a forged statement.
    pub fn verify(&self, pin: Sha256Digest) -> Result<TrustedKeys, SignedError> {
        const WHAT: &str = "the controller's keys";
        let bad = malformed(WHAT);
        let spki = BASE64.decode(&self.ca_spki).map_err(|e| bad(&e))?;
        let found = Sha256Digest::of(&spki);
        if found != pin {
            return Err(SignedError::Pin { found, pinned: pin });
        }
        let point = p256_point(&spki).ok_or_else(|| bad(&"the CA key is not a P-256 key"))?;
        let signature = BASE64.decode(&self.signature).map_err(|e| bad(&e))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(&Domain::Keys.message(self.payload.as_bytes()), &signature)
            .map_err(|_| SignedError::Signature { what: WHAT })?;
        let statement: KeysStatement = serde_json::from_str(&self.payload).map_err(|e| bad(&e))?;
        let mut key = [0; 32];
        hex::decode_to_slice(&statement.signing_key, &mut key).map_err(|e| bad(&e))?;
        Ok(TrustedKeys { key })
    }
}

/// The uncompressed point inside a P-256 SubjectPublicKeyInfo (RFC 5480): the fixed 26-byte header names the curve.
fn p256_point(spki: &[u8]) -> Option<&[u8]> {
    const HEADER: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    spki.strip_prefix(&HEADER).filter(|point| point.len() == 65)
}

impl Envelope {
    /// Signs `payload` for `domain`.
    pub fn sign(domain: Domain, payload: String, key: &SigningKey) -> Self {
        let signature = key.sign(&domain.message(payload.as_bytes()));
        Self { signature: BASE64.encode(signature.to_bytes()), payload }
    }

    /// The payload, proven to be the controller's; `what` names it in errors.
    ///
    /// # Errors
    /// [`SignedError::Signature`] when it is not.
    pub fn open(&self, domain: Domain, keys: &TrustedKeys, what: &'static str) -> Result<&str, SignedError> {
        let bad = malformed(what);
        let raw = BASE64.decode(&self.signature).map_err(|e| bad(&e))?;
        UnparsedPublicKey::new(&ED25519, keys.key)
            .verify(&domain.message(self.payload.as_bytes()), &raw)
            .map_err(|_| SignedError::Signature { what })?;
        Ok(&self.payload)
    }

    /// The payload read as `T`, proven to be the controller's.
    ///
    /// # Errors
    /// As [`Envelope::open`], and [`SignedError::Malformed`] when it is not a `T`.
    pub fn read<T: for<'a> Deserialize<'a>>(
        &self,
        domain: Domain,
        keys: &TrustedKeys,
        what: &'static str,
    ) -> Result<T, SignedError> {
        serde_json::from_str(self.open(domain, keys, what)?).map_err(|e| malformed(what)(&e))
    }
}

impl SignedTime {
    /// The time, proven to be the controller's answer to `nonce`.
    ///
    /// # Errors
    /// [`SignedError::Pin`], [`SignedError::Signature`] or [`SignedError::Nonce`].
    pub fn verify(&self, pin: Sha256Digest, nonce: &str) -> Result<(u64, TrustedKeys), SignedError> {
        let keys = self.keys.verify(pin)?;
        let statement: TimeStatement = self.statement.read(Domain::Time, &keys, "the signed time")?;
        if statement.nonce != nonce {
            return Err(SignedError::Nonce);
        }
        Ok((statement.unix_seconds, keys))
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    fn keys() -> (ControllerKeys, SigningKey, Sha256Digest) {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &rng).unwrap();
        let ca = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &rng).unwrap();
        let mut spki = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        spki.extend_from_slice(ca.public_key().as_ref());
        let signing = SigningKey::from_bytes(&[7; 32]);
        let payload = serde_json::to_string(&KeysStatement {
            signing_key: hex::encode(signing.verifying_key().as_bytes()),
        })
        .unwrap();
        let signature = ca.sign(&rng, &Domain::Keys.message(payload.as_bytes())).unwrap();
        let keys = ControllerKeys {
            ca_spki: BASE64.encode(&spki),
            payload,
            signature: BASE64.encode(signature.as_ref()),
        };
        (keys, signing, Sha256Digest::of(&spki))
    }

    fn time(nonce: &str) -> (SignedTime, Sha256Digest) {
        let (keys, signing, pin) = keys();
        let payload =
            serde_json::to_string(&TimeStatement { nonce: nonce.to_owned(), unix_seconds: 1_700_000_000 })
                .unwrap();
        (SignedTime { keys, statement: Envelope::sign(Domain::Time, payload, &signing) }, pin)
    }

    #[test]
    fn a_signed_time_is_followed_back_to_the_pin() {
        let (signed, pin) = time("00ff");
        assert_eq!(signed.verify(pin, "00ff").unwrap().0, 1_700_000_000);
    }

    #[test]
    fn another_ca_nonce_domain_or_byte_is_refused() {
        let (signed, pin) = time("00ff");
        assert!(matches!(signed.verify(Sha256Digest::of(b"x"), "00ff"), Err(SignedError::Pin { .. })));
        assert_eq!(signed.verify(pin, "00fe"), Err(SignedError::Nonce));
        let mut changed = signed.clone();
        changed.statement.payload = changed.statement.payload.replace("17", "18");
        assert!(matches!(changed.verify(pin, "00ff"), Err(SignedError::Signature { .. })));
        let mut keys = signed.keys.clone();
        keys.payload = keys.payload.replacen(':', ": ", 1);
        assert!(matches!(keys.verify(pin), Err(SignedError::Signature { .. })));
        let (_, trusted) = signed.verify(pin, "00ff").unwrap();
        assert!(matches!(
            signed.statement.open(Domain::Assignment, &trusted, "an assignment"),
            Err(SignedError::Signature { .. })
        ));
    }
}
