//! Public keys and what they verify.

use std::collections::BTreeMap;
use std::fmt;

use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::canonical;
use super::metadata::{RoleKeys, Signature};

/// Keys in one list; 3-of-5 needs five.
pub const MAX_KEYS: usize = 1024;

/// A key's id: the SHA-256, in hexadecimal, of the canonical form of its whole JSON object.
pub type KeyId = String;

/// A key as metadata has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyObject {
    /// `ed25519`, `ecdsa`, `rsa`.
    pub keytype: String,
    /// `ed25519`, `ecdsa-sha2-nistp256`, `rsassa-pss-sha256`.
    pub scheme: String,
    /// The public part.
    pub keyval: KeyValue,
}

/// The public part of a [`KeyObject`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// Hexadecimal for Ed25519, PEM for others.
    pub public: String,
}

/// A key that can verify.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    object: KeyObject,
    verifier: Verifier,
}

#[derive(Clone, PartialEq, Eq)]
enum Verifier {
    Ed25519([u8; 32]),
    #[cfg(feature = "conformance")]
    EcdsaP256(Vec<u8>),
    #[cfg(feature = "conformance")]
    RsaPss(Vec<u8>),
    /// A scheme that this build does not know: it verifies nothing.
    Unknown,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {}", self.object.scheme, self.object.keyval.public)
    }
}

impl PublicKey {
    /// Reads a key. A scheme this build does not know gives a key that verifies nothing, so that others' metadata can be
    /// read as long as enough other keys sign it.
    ///
    /// # Errors
    /// A word on what is wrong with a key of a known scheme.
    pub fn new(object: KeyObject) -> Result<Self, &'static str> {
        let verifier = match (object.keytype.as_str(), object.scheme.as_str()) {
            ("ed25519", "ed25519") => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(&object.keyval.public, &mut bytes)
                    .map_err(|_| "an ed25519 key is 64 hexadecimal digits")?;
                // A key that is no point of the curve verifies nothing.
                Verifier::Ed25519(bytes)
            }
            #[cfg(feature = "conformance")]
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => {
                Verifier::EcdsaP256(foreign::subject_public_key(&object.keyval.public)?)
            }
            #[cfg(feature = "conformance")]
            ("rsa", "rsassa-pss-sha256") => {
                Verifier::RsaPss(foreign::subject_public_key(&object.keyval.public)?)
            }
            _ => Verifier::Unknown,
        };
        Ok(Self { object, verifier })
    }

    /// An Ed25519 key.
    pub fn ed25519(key: &ed25519_dalek::VerifyingKey) -> Self {
        let object = KeyObject {
            keytype: "ed25519".to_owned(),
            scheme: "ed25519".to_owned(),
            keyval: KeyValue { public: hex::encode(key.as_bytes()) },
        };
        Self { object, verifier: Verifier::Ed25519(key.to_bytes()) }
    }

    /// The key as metadata has it.
    pub fn object(&self) -> &KeyObject {
        &self.object
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        serde_json::to_value(&self.object).ok().and_then(|value| id_of(&value)).unwrap_or_default()
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
            #[cfg(feature = "conformance")]
            Verifier::EcdsaP256(key) => foreign::verify_ecdsa(key, message, signature),
            #[cfg(feature = "conformance")]
            Verifier::RsaPss(key) => foreign::verify_rsa(key, message, signature),
            Verifier::Unknown => false,
        }
    }
}

fn id_of(key: &Value) -> Option<KeyId> {
    canonical::encode(key).ok().map(|bytes| hex::encode(Sha256::digest(bytes)))
}

/// The keys of one metadata file, by id, each id checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing(BTreeMap<KeyId, PublicKey>);

impl KeyRing {
    /// Reads the `keys` of a metadata file. Every id is computed again (specification, 4.3).
    ///
    /// # Errors
    /// A word on what is wrong.
    pub fn read(keys: &BTreeMap<KeyId, Value>) -> Result<Self, String> {
        if keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys, more than {MAX_KEYS}", keys.len()));
        }
        let mut ring = BTreeMap::new();
        for (id, value) in keys {
            if id_of(value).as_ref() != Some(id) {
                return Err(format!("key {id:.80} is not the key that its id says"));
            }
            let object = KeyObject::deserialize(value).map_err(|error| format!("key {id:.16}: {error}"))?;
            let key = PublicKey::new(object).map_err(|problem| format!("key {id:.16}: {problem}"))?;
            ring.insert(id.clone(), key);
        }
        Ok(Self(ring))
    }

    /// A key by its id.
    pub fn get(&self, id: &str) -> Option<&PublicKey> {
        self.0.get(id)
    }

    /// How many keys of `role` signed `message`. A key counts once, whatever ids it goes by and however often it signed.
    pub fn count(&self, role: &RoleKeys, message: &[u8], signatures: &[Signature]) -> u32 {
        let mut counted: Vec<&KeyObject> = Vec::new();
        for Signature { keyid, sig } in signatures {
            let Some(key) = role.keyids.contains(keyid).then(|| self.get(keyid)).flatten() else { continue };
            let same = |other: &&KeyObject| other.keyval == key.object.keyval;
            if counted.iter().any(same) {
                continue;
            }
            if hex::decode(sig).is_ok_and(|sig| key.verify(message, &sig)) {
                counted.push(&key.object);
            }
        }
        u32::try_from(counted.len()).unwrap_or(u32::MAX)
    }
}

/// Keys of other people's repositories.
#[cfg(feature = "conformance")]
mod foreign {
    use super::UnparsedPublicKey;
    use base64::Engine as _;
    use ring::signature;

    pub(super) fn verify_ecdsa(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
    }

    /// At least 2048 bits, as the specification asks; a salt as long as the digest.
    pub(super) fn verify_rsa(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::RSA_PSS_2048_8192_SHA256, key).verify(message, signature).is_ok()
    }

    /// The bits of a `SubjectPublicKeyInfo` (RFC 5280, 4.1): the point of an EC key, the `RSAPublicKey` of an RSA key.
    pub(super) fn subject_public_key(pem: &str) -> Result<Vec<u8>, &'static str> {
        const PROBLEM: &str = "a public key is not PEM of a SubjectPublicKeyInfo";
        let body = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----").ok_or(PROBLEM)?;
        let body = body.strip_suffix("-----END PUBLIC KEY-----").ok_or(PROBLEM)?;
        let text: String = body.split_ascii_whitespace().collect();
        let der = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| PROBLEM)?;
        bits(&der).map(<[u8]>::to_vec).ok_or(PROBLEM)
    }

    fn bits(der: &[u8]) -> Option<&[u8]> {
        let (0x30, info, []) = element(der)? else { return None };
        let (0x30, _algorithm, rest) = element(info)? else { return None };
        let (0x03, [0, bits @ ..], []) = element(rest)? else { return None };
        Some(bits)
    }

    /// The first DER element: its tag, its content, what follows it.
    fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
        let (tag, rest) = der.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81 | 0x82 => {
                let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        Some((*tag, content, rest))
    }
}
