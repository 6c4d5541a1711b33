//! The node's key and certificate: made once, kept for the boot below /run, and on STATE once there is one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_protocol::ids::{Name, Sha256Digest};
use cairn_protocol::limits;
use cairn_protocol::signed::{ControllerKeys, SignedError, TrustedKeys};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::paths::Paths;

/// What rustls shows to the controller.
#[derive(Debug)]
pub struct Credential {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

/// What the controller said about this node: `node.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The site.
    pub site: Name,
    /// The node.
    pub node: Name,
    /// How strongly the key is bound to the machine.
    pub assurance: String,
}

/// Why the identity could not be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error("{} cannot be {doing}: {source}", path.display())]
    File {
        /// `read`, `written`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key.
    #[error("the node's key cannot be {doing}: {why}")]
    Key {
        /// `made`, `used`.
        doing: &'static str,
        /// Why; never the key itself.
        why: String,
    },
    /// The certificate.
    #[error("the node's certificate cannot be used: {0}")]
    Certificate(String),
}

/// The node's identity.
#[derive(Debug)]
pub struct Identity {
    key: KeyPair,
    /// The directories it is kept in; the first is the most lasting.
    dirs: Vec<PathBuf>,
    /// Who the node is, once enrolled.
    pub member: Option<Member>,
    /// The certificates, PEM, once enrolled.
    certificates: Option<String>,
    /// The controller's keys, once enrolled.
    pub keys: Option<ControllerKeys>,
    /// Keys that were there and could not be read: kept under these names for whoever looks for the cause.
    pub set_aside: Vec<PathBuf>,
}

/// The key in `dir`; one that cannot be read is set aside, and its new name put into `set_aside`.
fn read_key(dir: &Path, set_aside: &mut Vec<PathBuf>) -> Option<KeyPair> {
    let path = dir.join("key.pem");
    if !path.exists() {
        return None;
    }
    let key = read(&path).and_then(|pem| KeyPair::from_pem(&pem).ok());
    if key.is_none() {
        let aside = dir.join("key.pem.damaged");
        let _ = fs::rename(&path, &aside);
        set_aside.push(aside);
    }
    key
}

/// The most bytes of one of these files.
const FILE_LIMIT: u64 = limits::ANSWER_BYTES as u64;

fn read(path: &Path) -> Option<String> {
    if fs::metadata(path).ok()?.len() > FILE_LIMIT {
        return None;
    }
    fs::read_to_string(path).ok()
}

impl Identity {
    /// Takes up the identity of STATE, else the one of this boot, else makes a key. `state` says whether STATE is there.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(paths: &Paths, state: bool) -> Result<Self, IdentityError> {
        let volatile = paths.in_run("identity");
        let lasting = paths.state().join("identity");
        let dirs = if state { vec![lasting, volatile] } else { vec![volatile] };
        let mut set_aside = Vec::new();
        let found = dirs.iter().find_map(|dir| Some((read_key(dir, &mut set_aside)?, dir.clone())));
        let (key, from) = match found {
            Some((key, dir)) => (key, Some(dir)),
            None => {
                let bad = |e: rcgen::Error| IdentityError::Key { doing: "made", why: e.to_string() };
                (KeyPair::generate().map_err(bad)?, None)
            }
        };
        let json = |name: &str| from.as_ref().and_then(|dir| read(&dir.join(name)));
        let mut identity = Self {
            key,
            member: json("node.json").and_then(|text| serde_json::from_str(&text).ok()),
            certificates: json("cert.pem"),
            keys: json("keys.json").and_then(|text| serde_json::from_str(&text).ok()),
            dirs,
            set_aside,
        };
        // A certificate for another key, or half of the files, is no membership.
        if identity.credential().is_err() || identity.keys.is_none() {
            (identity.member, identity.certificates) = (None, None);
        }
        identity.save()?;
        Ok(identity)
    }

    /// Keeps it on STATE as well from now on.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn keep_on(&mut self, state: &Path) -> Result<(), IdentityError> {
        let dir = state.join("identity");
        if self.dirs.first() != Some(&dir) {
            self.dirs.insert(0, dir);
        }
        self.save()
    }

    /// The certificate request, PEM.
    ///
    /// # Errors
    /// [`IdentityError::Key`].
    pub fn request(&self) -> Result<String, IdentityError> {
        let bad = |e: rcgen::Error| IdentityError::Key { doing: "used", why: e.to_string() };
        CertificateParams::default().serialize_request(&self.key).and_then(|csr| csr.pem()).map_err(bad)
    }

    /// The words by which a person compares this key.
    pub fn words(&self) -> String {
        cairn_protocol::words::of_key(&self.key.subject_public_key_info())
    }

    /// The node is a member now.
    ///
    /// # Errors
    /// [`IdentityError`], and nothing is changed.
    pub fn enrolled(
        &mut self,
        member: Member,
        certificates: String,
        keys: ControllerKeys,
    ) -> Result<(), IdentityError> {
        chain(&certificates)?;
        (self.member, self.certificates, self.keys) = (Some(member), Some(certificates), Some(keys));
        self.save()
    }

    /// The certificate was renewed.
    ///
    /// # Errors
    /// [`IdentityError`], and nothing is changed.
    pub fn renewed(&mut self, certificates: String) -> Result<(), IdentityError> {
        chain(&certificates)?;
        self.certificates = Some(certificates);
        self.save()
    }

    /// The controller does not know this node any more; the key stays.
    pub fn forget_membership(&mut self) {
        (self.member, self.certificates) = (None, None);
        for dir in &self.dirs {
            for name in ["node.json", "cert.pem"] {
                let _ = fs::remove_file(dir.join(name));
            }
        }
    }

    /// What to show to the controller.
    ///
    /// # Errors
    /// [`IdentityError`] while not enrolled.
    pub fn credential(&self) -> Result<Arc<Credential>, IdentityError> {
        let pem = self
            .certificates
            .as_deref()
            .ok_or_else(|| IdentityError::Certificate("there is none".to_owned()))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.serialize_pem().as_bytes())
            .map_err(|_| IdentityError::Key { doing: "used", why: "it is no PKCS#8 key".to_owned() })?;
        Ok(Arc::new(Credential { chain: chain(pem)?, key }))
    }

    /// From when to when the certificate is valid, seconds since 1970.
    pub fn validity(&self) -> Option<(u64, u64)> {
        crate::uplink::validity(&chain(self.certificates.as_deref()?).ok()?)
    }

    /// The controller's signing key, followed back to `pin`.
    ///
    /// # Errors
    /// [`SignedError`].
    pub fn trusted_keys(&self, pin: Sha256Digest) -> Result<Option<TrustedKeys>, SignedError> {
        self.keys.as_ref().map(|keys| keys.verify(pin)).transpose()
    }

    /// Writes everything; the key last in nothing, first in everything: a certificate without its key is worth nothing.
    fn save(&self) -> Result<(), IdentityError> {
        for dir in &self.dirs {
            let at = |path: PathBuf| move |source| IdentityError::File { doing: "written", path, source };
            fs::create_dir_all(dir).map_err(at(dir.clone()))?;
            let put = |name: &str, text: &str| {
                let path = dir.join(name);
                if read(&path).as_deref() == Some(text) {
                    return Ok(());
                }
                durable::write_secret(&path, text.as_bytes()).map_err(at(path))
            };
            put("key.pem", &self.key.serialize_pem())?;
            if let (Some(member), Some(certificates), Some(keys)) =
                (&self.member, &self.certificates, &self.keys)
            {
                let json = |value: Result<String, serde_json::Error>| {
                    value.map_err(|e| IdentityError::Certificate(e.to_string()))
                };
                put("keys.json", &json(serde_json::to_string(keys))?)?;
                put("cert.pem", certificates)?;
                put("node.json", &json(serde_json::to_string(member))?)?;
            }
        }
        Ok(())
    }
}

/// The certificates of a PEM text, leaf first: at least the leaf and its CA.
fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(chain) if (2..=4).contains(&chain.len()) => Ok(chain),
        Ok(chain) => Err(IdentityError::Certificate(format!("it has {} certificates, not 2", chain.len()))),
        Err(error) => Err(IdentityError::Certificate(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_stays_the_same_in_a_boot_and_moves_to_state() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let words = Identity::open(&paths, false).unwrap().words();
        let mut identity = Identity::open(&paths, false).unwrap();
        assert_eq!(identity.words(), words);
        assert!(identity.request().unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
        identity.keep_on(&paths.state()).unwrap();
        let key = paths.state().join("identity/key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(paths.in_run("identity")).unwrap();
        assert_eq!(Identity::open(&paths, true).unwrap().words(), words);
    }

    #[test]
    fn a_damaged_key_is_kept_aside_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let words = Identity::open(&paths, true).unwrap().words();
        let state = paths.state().join("identity");
        fs::write(state.join("key.pem"), "half a k").unwrap();
        // The copy of this boot is whole.
        let identity = Identity::open(&paths, true).unwrap();
        assert_eq!(
            (identity.words(), identity.set_aside),
            (words.clone(), vec![state.join("key.pem.damaged")])
        );
        assert_eq!(fs::read(state.join("key.pem.damaged")).unwrap(), b"half a k");
        assert!(Identity::open(&paths, true).unwrap().set_aside.is_empty());
        for dir in [&state, &paths.in_run("identity")] {
            fs::write(dir.join("key.pem"), "half a k").unwrap();
        }
        let identity = Identity::open(&paths, true).unwrap();
        assert!(identity.words() != words && identity.set_aside.len() == 2);
    }

    #[test]
    fn what_is_no_chain_is_refused() {
        for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "text"] {
            assert!(chain(bad).is_err(), "{bad:?}");
        }
    }
}
