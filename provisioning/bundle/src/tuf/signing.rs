//! Private keys, their files, and adding a signature to a metadata file that goes from holder to holder.

use std::path::{Path, PathBuf};

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::{KeyId, PublicKey};
use super::metadata::{Header, Signature};
use super::{canonical, json};
use crate::durable::{self, FileError};

/// The most bytes of a key file that are read.
const MAX_KEY_FILE: u64 = 16 << 10;

/// Why a key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its file is there already.
    #[error("{0} is there already: a key is never overwritten")]
    Exists(PathBuf),
    /// There is none.
    #[error("there is no key file {0}")]
    Missing(PathBuf),
    /// Others may read it.
    #[error("{0} can be read by others: chmod 600 it, or make a new key if others may have read it")]
    Exposed(PathBuf),
    /// Not a key.
    #[error("{0} is not an Ed25519 private key in PKCS#8 PEM")]
    Malformed(PathBuf),
    /// The system has no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// What was to be signed is no metadata.
    #[error("this is not a metadata file: {0}")]
    NotMetadata(String),
}

/// An Ed25519 private key. Not shown by `{:?}`; wiped when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(KeyError::Random)?;
        Ok(Self::from_seed(&secret))
    }

    /// The key that these 32 secret bytes are (RFC 8032, 5.1.5).
    pub fn from_seed(secret: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// Reads a key file: PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` makes it too, readable by its owner alone.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        use std::os::unix::fs::PermissionsExt as _;
        let bytes = durable::read(path, MAX_KEY_FILE)?.ok_or_else(|| KeyError::Missing(path.to_owned()))?;
        let mode = std::fs::metadata(path).map_err(FileError::at("read", path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed(path.to_owned()));
        }
        let malformed = || KeyError::Malformed(path.to_owned());
        let pem = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
        ed25519_dalek::SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| malformed())
    }

    /// Writes a new key file, mode 0600.
    ///
    /// # Errors
    /// [`KeyError::Exists`] rather than overwrite; [`KeyError::File`].
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        if path.exists() {
            return Err(KeyError::Exists(path.to_owned()));
        }
        // Version 1 of PKCS#8, without the public part: older OpenSSL reads no other.
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = pair.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::Malformed(path.to_owned()))?;
        Ok(durable::write_mode(path, pem.as_bytes(), 0o600)?)
    }

    /// Its public part.
    pub fn public(&self) -> PublicKey {
        PublicKey::ed25519(&self.0.verifying_key())
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.public().id()
    }

    /// Signs canonical bytes.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature { keyid: self.id(), sig: hex::encode(self.0.sign(message).to_bytes()) }
    }
}

/// A metadata file as it is signed and passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Who signed.
    pub signatures: Vec<Signature>,
    /// What.
    pub signed: Value,
}

impl Document {
    /// Reads a metadata file.
    ///
    /// # Errors
    /// [`KeyError::NotMetadata`].
    pub fn read(bytes: &[u8]) -> Result<Self, KeyError> {
        let value = json::parse(bytes).and_then(serde_json::from_value);
        value.map_err(|error| KeyError::NotMetadata(error.to_string()))
    }

    /// The file.
    ///
    /// # Panics
    /// Never: it is plain JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("metadata is plain JSON");
        bytes.push(b'\n');
        bytes
    }

    /// What is signed.
    ///
    /// # Errors
    /// [`KeyError::NotMetadata`] where there is a fraction in it.
    pub fn canonical(&self) -> Result<Vec<u8>, KeyError> {
        canonical::encode(&self.signed).map_err(|error| KeyError::NotMetadata(error.to_string()))
    }

    /// What every role has: what a holder should look at before signing.
    ///
    /// # Errors
    /// [`KeyError::NotMetadata`].
    pub fn header(&self) -> Result<Header, KeyError> {
        Header::deserialize(&self.signed).map_err(|error| KeyError::NotMetadata(error.to_string()))
    }

    /// Adds, or replaces, the key's signature.
    ///
    /// # Errors
    /// [`KeyError::NotMetadata`].
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), KeyError> {
        let signature = key.sign(&self.canonical()?);
        self.add(signature);
        Ok(())
    }

    /// Takes the signatures of another holder's copy of the same file.
    ///
    /// # Errors
    /// [`KeyError::NotMetadata`] when the copy says something else.
    pub fn merge(&mut self, other: Self) -> Result<(), KeyError> {
        if self.canonical()? != other.canonical()? {
            return Err(KeyError::NotMetadata("the signed part of the two copies differs".to_owned()));
        }
        other.signatures.into_iter().for_each(|signature| self.add(signature));
        Ok(())
    }

    fn add(&mut self, signature: Signature) {
        self.signatures.retain(|other| other.keyid != signature.keyid);
        self.signatures.push(signature);
        self.signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root-1.pem");
        let key = SigningKey::generate().unwrap();
        key.save(&path).unwrap();
        assert!(matches!(key.save(&path).unwrap_err(), KeyError::Exists(_)));
        assert_eq!(SigningKey::load(&path).unwrap().id(), key.id());
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));

        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SigningKey::load(&path).unwrap_err(), KeyError::Exposed(_)));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "junk").unwrap();
        assert!(matches!(SigningKey::load(&path).unwrap_err(), KeyError::Malformed(_)));
        assert!(matches!(SigningKey::load(&dir.path().join("none")).unwrap_err(), KeyError::Missing(_)));
    }

    #[test]
    fn the_key_id_is_what_python_tuf_computes() {
        // securesystemslib 1.4: SSlibKey of the public key of seed 32 * 0x07, `_get_keyid`.
        let key = SigningKey::from_seed(&[7; 32]);
        assert_eq!(
            key.public().object().keyval.public,
            "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"
        );
        assert_eq!(key.id(), "bfe1a83869e5bf574e3ff3acbb83f840de84a990d10059f3096f0bf4f2b90c10");
    }

    #[test]
    fn copies_of_two_holders_are_merged() {
        let (a, b) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let blank = Document { signatures: Vec::new(), signed: serde_json::json!({"version": 1}) };
        let (mut one, mut two) = (blank.clone(), Document::read(&blank.to_bytes()).unwrap());
        one.sign(&a).unwrap();
        one.sign(&a).unwrap();
        two.sign(&b).unwrap();
        one.merge(two).unwrap();
        assert_eq!(one.signatures.len(), 2);
        let other = Document { signatures: Vec::new(), signed: serde_json::json!({"version": 2}) };
        assert!(one.merge(other).is_err());
    }
}
