//! What an image has to trust: the repository's root, the controller's CA pin, and whom to call.

use std::path::Path;

use cairn_bundle::durable;
use cairn_bundle::tuf::Role;
use cairn_bundle::tuf::metadata::{Parsed, Root};
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::settings::ImageSettings;
use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use crate::args::{Global, Trust};
use crate::client::{controller_url, credentials};
use crate::error::{Error, read_limited};
use crate::output::Output;
use crate::{keys, repo};

/// A certificate file is a few KiB.
const CERTIFICATE_BYTES: u64 = 64 << 10;

#[derive(Debug, Serialize)]
struct Exported {
    ca_pin: String,
    root_version: u64,
    settings: ImageSettings,
}

pub(crate) fn run(command: Trust, global: &Global, out: &Output) -> Result<(), Error> {
    let Trust::Export { repo, keys, image_version, build_time, out: dir } = command;
    let credentials = credentials(global)?;
    let controllers = vec![controller_url(global, credentials)?];
    let repository = repo::open(&repo.repo)?;
    let root = repository.root().map_err(repo::failed)?;
    let parsed: Parsed<Root> = Parsed::parse(&Role::Root, &root).map_err(Error::failed)?;
    if let Some(keys) = keys {
        check_holders(&keys, &parsed)?;
    }
    let pin = ca_pin(&credentials.join("ca.crt"))?;
    let settings = ImageSettings {
        version: 1,
        image_version,
        build_time: build_time.unwrap_or_else(|| default_build_time(global)),
        controllers,
        trust_domain: trust_domain(&credentials.join("client.crt"))?,
    };
    let image = serde_json::to_vec_pretty(&settings).map_err(Error::failed)?;
    std::fs::create_dir_all(&dir)
        .map_err(|e| Error::Failed(format!("cannot create {}: {e}", dir.display())))?;
    for (name, bytes) in
        [("root.json", root), ("ca.pin", format!("{pin}\n").into_bytes()), ("image.json", image)]
    {
        durable::write(&dir.join(name), &bytes).map_err(Error::failed)?;
    }
    let exported = Exported { ca_pin: pin.to_string(), root_version: parsed.header.version, settings };
    out.print(&exported, |e| {
        format!(
            "{}: CA pin {}, root {}, image {}",
            dir.display(),
            e.ca_pin,
            e.root_version,
            e.settings.image_version
        )
    })
}

fn default_build_time(global: &Global) -> u64 {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    epoch.unwrap_or_else(|| repo::now(global).0)
}

fn check_holders(dir: &Path, root: &Parsed<Root>) -> Result<(), Error> {
    let ours: Vec<String> = keys::load_all(dir)?
        .into_iter()
        .filter(|(role, ..)| role == "root")
        .map(|(_, _, key)| key.id())
        .collect();
    let holders = root.body.role(&Role::Root).map(|role| role.keyids.clone()).unwrap_or_default();
    if holders.is_empty() || !holders.iter().all(|id| ours.contains(id)) {
        return Err(Error::input(
            dir,
            "the repository's root has keys that are not in this folder: another repository?",
        ));
    }
    Ok(())
}

/// SHA-256 of the public key (DER SubjectPublicKeyInfo) in a CA's certificate.
fn ca_pin(path: &Path) -> Result<Sha256Digest, Error> {
    with_certificate(path, |certificate| Some(Sha256Digest::of(certificate.public_key().raw)))
}

/// The SPIFFE trust domain of an operator's certificate.
fn trust_domain(path: &Path) -> Result<String, Error> {
    with_certificate(path, |certificate| {
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => {
                let (domain, _) = uri.strip_prefix("spiffe://")?.split_once('/')?;
                Some(domain.to_owned())
            }
            _ => None,
        })
    })
}

fn with_certificate<T>(
    path: &Path,
    read: impl FnOnce(&X509Certificate<'_>) -> Option<T>,
) -> Result<T, Error> {
    let bytes = read_limited(path, CERTIFICATE_BYTES)?;
    let bad = || {
        Error::input(path, "is not an operator's or CA's certificate; get one from cairn-controller operator")
    };
    let pem = Pem::iter_from_buffer(&bytes).next().ok_or_else(bad)?.map_err(|_| bad())?;
    let certificate = pem.parse_x509().map_err(|_| bad())?;
    read(&certificate).ok_or_else(bad)
}
