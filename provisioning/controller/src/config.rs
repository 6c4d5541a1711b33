//! What a controller was made as: `init`, its settings file, and loading all of it for `serve`.

use std::path::Path;

use cairn_bundle::durable::{self, FileError};
use cairn_protocol::ids::{Name, Sha256Digest};
use cairn_protocol::signed::{ControllerKeys, Domain, Envelope};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::dir::{self, Dir};
use crate::pki::{self, Ca, Issued, PkiError, Subject};
use crate::store::{self, Store, StoreError};

/// The port that `serve` listens on unless it is told another.
pub const PORT: u16 = 8443;

/// `controller.json`: what `init` was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The format: 1.
    pub version: u32,
    /// The SPIFFE trust domain.
    pub trust_domain: String,
    /// DNS names and addresses under which nodes and operators reach the controller.
    pub names: Vec<String>,
}

/// Why a controller could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no controller, or half of one.
    #[error(
        "{0} is missing: this folder holds no whole controller; make one with cairn-controller init, \
         or give another --dir"
    )]
    NoController(String),
    /// Another process has it.
    #[error(
        "{0} is in use: another cairn-controller runs on this folder; stop it first, or give another --dir"
    )]
    InUse(String),
    /// Nobody of that name.
    #[error("operator {0} never had a certificate here: is the name spelt right?")]
    UnknownOperator(Name),
    /// The folder is taken.
    #[error("{0} exists already: a controller is made once; give another --dir, or go on with this one")]
    Exists(String),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `controller.json`.
    #[error("controller.json cannot be read: {0}; it is what `cairn-controller init` wrote")]
    Settings(String),
    /// A name that cannot be in a certificate.
    #[error(
        "{0:?} cannot be a trust domain or a name: use letters, digits, '.', '-' and, for addresses, ':'"
    )]
    BadName(String),
}

/// Keys and settings of a controller.
#[derive(Debug)]
pub struct Identity {
    /// What `init` was told.
    pub settings: Settings,
    /// The authority.
    pub ca: Ca,
    /// The statement that vouches for the signing key.
    pub keys: ControllerKeys,
    signing: SigningKey,
}

impl Identity {
    /// Signs `payload` for `domain`.
    pub fn sign(&self, domain: Domain, payload: String) -> Envelope {
        Envelope::sign(domain, payload, &self.signing)
    }

    /// What nodes pin.
    pub fn pin(&self) -> Sha256Digest {
        self.ca.pin()
    }
}

fn plain_name(text: &str) -> Result<(), ConfigError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-:".contains(&b);
    let fits = (1..=253).contains(&text.len()) && text.bytes().all(plain);
    if fits { Ok(()) } else { Err(ConfigError::BadName(cairn_protocol::limits::clean_text(text))) }
}

/// Holds a folder for one process, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it ends the lock")] std::fs::File);

/// Takes the folder `dir` for this process.
///
/// # Errors
/// [`ConfigError::InUse`], [`ConfigError::File`].
pub fn lock(dir: &Dir) -> Result<Lock, ConfigError> {
    let path = dir.file("controller.lock");
    let file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(FileError::at("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(ConfigError::InUse(dir.root().display().to_string())),
        Err(std::fs::TryLockError::Error(error)) => Err(FileError::at("lock", &path)(error).into()),
    }
}

/// Makes a controller in the new folder `dir`: authority, keys, server certificate, an operator named `admin`,
/// the database and an empty repository. It is made beside its place and renamed: an interrupted one leaves no half
/// controller, and is swept away by the next.
///
/// # Errors
/// [`ConfigError`]; there is no folder `dir` then.
pub fn init(dir: &Dir, trust_domain: &str, names: &[String], now: u64) -> Result<Sha256Digest, ConfigError> {
    plain_name(trust_domain)?;
    names.iter().try_for_each(|name| plain_name(name))?;
    let root = dir.root();
    if root.exists() {
        return Err(ConfigError::Exists(root.display().to_string()));
    }
    let name = root.file_name().ok_or_else(|| ConfigError::Exists(root.display().to_string()))?;
    let beside = Dir::at(root.with_file_name(format!(".{}.init", name.to_string_lossy())));
    dir::make_dir(beside.root())?;
    let held = lock(&beside)?;
    let failed = |e| FileError::at("clear", beside.root())(e);
    for left in std::fs::read_dir(beside.root()).map_err(failed)? {
        let left = left.map_err(failed)?;
        if left.file_name() != "controller.lock" {
            let path = left.path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(FileError::at("remove", &path))?;
        }
    }
    let pin = make(&beside, trust_domain, names, now)?;
    durable::rename(beside.root(), root)?;
    drop(held);
    Ok(pin)
}

/// All of a controller, in a folder that has nothing yet.
fn make(dir: &Dir, trust_domain: &str, names: &[String], now: u64) -> Result<Sha256Digest, ConfigError> {
    dir.ensure_repo()?;
    let (ca, ca_key) = Ca::generate(trust_domain, now)?;
    let (signing, signing_pem) = pki::new_signing_key()?;
    let keys = ca.vouch(&signing)?;
    let settings = Settings { version: 1, trust_domain: trust_domain.to_owned(), names: names.to_vec() };
    let json =
        |value: Result<String, serde_json::Error>| value.map_err(|e| ConfigError::Settings(e.to_string()));
    let put = |name: &str, text: &str, mode| durable::write_mode(&dir.file(name), text.as_bytes(), mode);
    put("ca.key", &ca_key, 0o600)?;
    put("ca.crt", &ca.pem, 0o644)?;
    put("ca.pin", &format!("{}\n", ca.pin()), 0o644)?;
    put("signing.key", &signing_pem, 0o600)?;
    put("keys.json", &json(serde_json::to_string_pretty(&keys))?, 0o644)?;
    put("controller.json", &json(serde_json::to_string_pretty(&settings))?, 0o644)?;
    renew_server(dir, &ca, &settings, now)?;
    Store::create(&dir.database())?;
    let admin = Name::new("admin").map_err(|e| ConfigError::BadName(e.text))?;
    operator(dir, &ca, names, &admin, &dir.file("operator"), now)?;
    Ok(ca.pin())
}

/// Makes the server a new key and certificate.
///
/// # Errors
/// [`ConfigError`].
pub fn renew_server(dir: &Dir, ca: &Ca, settings: &Settings, now: u64) -> Result<Issued, ConfigError> {
    let (key, spki) = pki::new_key()?;
    let issued = ca.issue(&Subject::Server { names: &settings.names }, &spki, now, pki::SERVER_LIFE)?;
    // A crash between the two leaves a pair that does not match; `serve` then makes another.
    durable::write_mode(&dir.file("tls.key"), key.as_bytes(), 0o600)?;
    durable::write_mode(&dir.file("tls.crt"), format!("{}{}", issued.pem, ca.pem).as_bytes(), 0o644)?;
    Ok(issued)
}

/// Makes the credential of operator `name` in the folder `out`: `ca.crt`, `client.crt`, `client.key`, and
/// `controller.url` from the first of the controller's `names`.
///
/// # Errors
/// [`ConfigError`]; [`ConfigError::Exists`] when there is a credential already.
pub fn operator(
    dir: &Dir,
    ca: &Ca,
    names: &[String],
    name: &Name,
    out: &Path,
    now: u64,
) -> Result<Issued, ConfigError> {
    let key_file = out.join("client.key");
    if key_file.exists() {
        return Err(ConfigError::Exists(key_file.display().to_string()));
    }
    let (key, spki) = pki::new_key()?;
    let issued = ca.issue(&Subject::Operator { name }, &spki, now, pki::OPERATOR_LIFE)?;
    let store = Store::open(&dir.database())?;
    store.write_blocking({
        let (name, issued) = (name.clone(), issued.clone());
        move |tx| store::certs::insert(tx, &store::certs::Holder::Operator(name), &issued)
    })?;
    dir::make_dir(out)?;
    durable::write_mode(&out.join("ca.crt"), ca.pem.as_bytes(), 0o644)?;
    durable::write_mode(&out.join("client.crt"), issued.pem.as_bytes(), 0o644)?;
    if let Some(name) = names.first() {
        // An IPv6 address stands in brackets in a URL (RFC 3986, 3.2.2).
        let host = if name.contains(':') { format!("[{name}]") } else { name.clone() };
        durable::write_mode(
            &out.join("controller.url"),
            format!("https://{host}:{PORT}\n").as_bytes(),
            0o644,
        )?;
    }
    durable::write_mode(&key_file, key.as_bytes(), 0o600)?;
    Ok(issued)
}

/// Revokes all certificates of operator `name`; answers how many that were not revoked yet.
///
/// # Errors
/// [`ConfigError`]; [`ConfigError::UnknownOperator`] for a name that nobody has.
pub fn revoke_operator(dir: &Dir, name: &Name, now: u64) -> Result<usize, ConfigError> {
    let holder = store::certs::Holder::Operator(name.clone());
    let store = Store::open(&dir.database())?;
    let revoked = store.write_blocking(move |tx| {
        let known = store::certs::is_known(tx, &holder)?;
        known.then(|| store::certs::revoke(tx, &holder, None, now)).transpose()
    })?;
    revoked.ok_or_else(|| ConfigError::UnknownOperator(name.clone()))
}

/// Loads a controller's keys and settings.
///
/// # Errors
/// [`ConfigError`].
pub fn load(dir: &Dir) -> Result<Identity, ConfigError> {
    let path = dir.file("controller.json");
    if !path.exists() {
        return Err(ConfigError::NoController(path.display().to_string()));
    }
    let settings: Settings =
        serde_json::from_str(&dir::read(&path)?).map_err(|e| ConfigError::Settings(e.to_string()))?;
    if settings.version != 1 {
        return Err(ConfigError::Settings(format!("version {} is not 1", settings.version)));
    }
    let cert = dir::read(&dir.file("ca.crt"))?;
    let ca = Ca::load(&settings.trust_domain, &cert, &dir::read(&dir.file("ca.key"))?)?;
    let signing = pki::load_signing_key(&dir::read(&dir.file("signing.key"))?)?;
    let keys = ca.vouch(&signing)?;
    Ok(Identity { settings, ca, keys, signing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_made_once_and_loads() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::at(tmp.path().join("controller"));
        let names = ["controller.cairn.lab".to_owned(), "127.0.0.1".to_owned()];
        let pin = init(&dir, "cairn.lab", &names, 1_800_000_000).unwrap();
        assert_eq!(dir::read(&dir.file("ca.pin")).unwrap(), format!("{pin}\n"));
        let identity = load(&dir).unwrap();
        assert_eq!(identity.pin(), pin);
        assert!(identity.keys.verify(pin).is_ok());
        let keys: ControllerKeys = serde_json::from_str(&dir::read(&dir.file("keys.json")).unwrap()).unwrap();
        assert!(keys.verify(pin).is_ok());
        assert!(matches!(init(&dir, "cairn.lab", &names, 0), Err(ConfigError::Exists(_))));
        let name = Name::new("alice").unwrap();
        assert!(
            operator(&dir, &identity.ca, &names, &name, &tmp.path().join("alice"), 1_800_000_000).is_ok()
        );
        assert!(
            operator(&dir, &identity.ca, &names, &name, &tmp.path().join("alice"), 1_800_000_000).is_err()
        );
        let dir = Dir::at(tmp.path().join("other"));
        assert!(matches!(init(&dir, "bad domain", &names, 0), Err(ConfigError::BadName(_))));
    }
}
