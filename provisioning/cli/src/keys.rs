//! Release keys: PEM files, 0600, in a folder that belongs on a machine without a network.
//!
//! `root-1.pem` … `root-5.pem`, `targets-1.pem` … `-3`, `os-1.pem` … `-3` and so on for each kind of bundle,
//! `snapshot.pem`, `timestamp.pem`.

use std::collections::BTreeMap;
use std::path::Path;

use cairn_bundle::manifest::Kind;
use cairn_bundle::tuf::keys::PublicKey;
use cairn_bundle::tuf::repository::{Holders, Lifetimes, Policy};
use cairn_bundle::tuf::signing::SigningKey;
use serde::Serialize;

use crate::args::Keys;
use crate::error::Error;
use crate::output::{Output, table};

/// Root: 3 of 5 must sign.
const ROOT: (usize, u32) = (5, 3);
/// Targets, and each kind of bundle: 2 of 3.
const TARGETS: (usize, u32) = (3, 2);

/// A key of a folder.
#[derive(Debug, Serialize)]
struct KeyView {
    role: String,
    file: String,
    id: String,
}

pub(crate) fn run(command: Keys, out: &Output) -> Result<(), Error> {
    match command {
        Keys::Init { dir } => init(&dir, out),
        Keys::List { dir } => show(&dir, out),
    }
}

fn init(dir: &Path, out: &Output) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    if dir.exists() {
        return Err(Error::Failed(format!("{} is there already; keys are never overwritten", dir.display())));
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::Failed(format!("cannot create {}: {e}", dir.display())))?;
    for (_, file) in files() {
        SigningKey::generate().and_then(|key| key.save(&dir.join(file))).map_err(Error::failed)?;
    }
    eprintln!(
        "These keys can put software on every node. Move {} to a machine without a network, give the root keys to\n\
         five people and the others to three, and keep copies: nobody can make them again. Only snapshot.pem and\n\
         timestamp.pem may go to the controller (cairn-controller serve --online-keys).",
        dir.display()
    );
    show(dir, out)
}

fn show(dir: &Path, out: &Output) -> Result<(), Error> {
    let views: Vec<KeyView> = load_all(dir)?
        .into_iter()
        .map(|(role, file, key)| KeyView { role, file, id: key.id().to_string() })
        .collect();
    if views.is_empty() {
        return Err(Error::input(dir, "holds no release key; make some with: cairnctl keys init"));
    }
    out.print(&views, |views| {
        let rows: Vec<_> = views.iter().map(|v| vec![v.role.clone(), v.file.clone(), v.id.clone()]).collect();
        table(&["ROLE", "FILE", "ID"], &rows)
    })
}

/// Roles and file names of a full set.
fn files() -> Vec<(String, String)> {
    let numbered = |role: &str, count: usize| {
        (1..=count).map(move |n| (role.to_owned(), format!("{role}-{n}.pem"))).collect::<Vec<_>>()
    };
    let mut files = numbered("root", ROOT.0);
    files.extend(numbered("targets", TARGETS.0));
    files.extend(Kind::ALL.iter().flat_map(|kind| numbered(kind.as_str(), TARGETS.0)));
    files.extend(["snapshot", "timestamp"].map(|role| (role.to_owned(), format!("{role}.pem"))));
    files
}

/// The keys that a folder has; a holder's folder has some.
pub(crate) fn load_all(dir: &Path) -> Result<Vec<(String, String, SigningKey)>, Error> {
    if !dir.is_dir() {
        return Err(Error::input(dir, "is not a folder of keys; make one with: cairnctl keys init"));
    }
    let there = files().into_iter().filter(|(_, file)| dir.join(file).exists());
    there
        .map(|(role, file)| {
            let path = dir.join(&file);
            let key = SigningKey::load(&path)
                .map_err(|e| Error::Input { path: path.display().to_string(), why: e.to_string() })?;
            Ok((role, file, key))
        })
        .collect()
}

/// One key of a folder by its file's name.
pub(crate) fn load(dir: &Path, file: &str) -> Result<SigningKey, Error> {
    let path = dir.join(file);
    SigningKey::load(&path).map_err(|e| Error::input(&path, e))
}

/// Who holds which role, from the public halves of a full set.
pub(crate) fn policy(dir: &Path, lifetimes: Lifetimes) -> Result<Policy, Error> {
    let mut by_role: BTreeMap<String, Vec<PublicKey>> = BTreeMap::new();
    for (role, _, key) in load_all(dir)? {
        by_role.entry(role).or_default().push(key.public());
    }
    let mut holders = |role: &str, threshold: u32| {
        let keys = by_role.remove(role).unwrap_or_default();
        if keys.len() < threshold as usize {
            return Err(Error::input(dir, format!("has {} {role} keys, {threshold} are needed", keys.len())));
        }
        Ok(Holders { keys, threshold })
    };
    Ok(Policy {
        root: holders("root", ROOT.1)?,
        targets: holders("targets", TARGETS.1)?,
        snapshot: holders("snapshot", 1)?,
        timestamp: holders("timestamp", 1)?,
        delegations: Kind::ALL
            .into_iter()
            .map(|kind| Ok((kind, holders(kind.as_str(), TARGETS.1)?)))
            .collect::<Result<_, Error>>()?,
        lifetimes,
    })
}
