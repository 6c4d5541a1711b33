//! The release repository: a folder with `metadata/`, `targets/`, `indexes/`, `chunks.castr/` and `staged/`.

use std::path::Path;

use cairn_bundle::durable;
use cairn_bundle::tuf::repository::{Lifetimes, Repository, RepositoryError};
use cairn_bundle::tuf::signing::SigningKey;
use cairn_bundle::tuf::{Date, Role};
use serde::{Deserialize, Serialize};

use crate::args::{Global, Repo};
use crate::error::{Error, read_limited};
use crate::keys;
use crate::output::{Output, table};

/// Days of life, kept beside the repository so that every later signature has the same.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Days {
    root: u64,
    targets: u64,
    snapshot: u64,
    timestamp: u64,
}

const DAYS_FILE: &str = "lifetimes.json";

/// What a repository is waiting for, and what it offers.
#[derive(Debug, Serialize)]
struct Status {
    /// Staged files.
    staged: Vec<StagedView>,
    /// When the timestamp ends, seconds since 1970.
    timestamp_expires: Option<u64>,
    /// Target paths of published bundles.
    targets: Vec<String>,
}

#[derive(Debug, Serialize)]
struct StagedView {
    role: String,
    version: u64,
    complete: bool,
    /// One line for each authority that has not enough signatures.
    missing: Vec<String>,
    /// Ids of the keys that may sign yet.
    may_sign: Vec<String>,
}

pub(crate) fn now(global: &Global) -> Date {
    global.now.map_or_else(Date::now, Date)
}

pub(crate) fn open(dir: &Path) -> Result<Repository, Error> {
    let path = dir.join(DAYS_FILE);
    let lifetimes = match durable::read(&path, 4096).map_err(|e| Error::input(&path, e))? {
        Some(bytes) => {
            let Days { root, targets, snapshot, timestamp } =
                serde_json::from_slice(&bytes).map_err(|e| Error::input(&path, e))?;
            Lifetimes { root, targets, snapshot, timestamp }
        }
        None => return Err(Error::input(dir, "holds no repository; make one with: cairnctl repo init")),
    };
    Ok(Repository::at(dir, lifetimes))
}

pub(crate) fn run(command: Repo, global: &Global, out: &Output) -> Result<(), Error> {
    let now = now(global);
    match command {
        Repo::Init { keys, repo, root_days, targets_days, snapshot_days, timestamp_days } => {
            let days = Days {
                root: root_days,
                targets: targets_days,
                snapshot: snapshot_days,
                timestamp: timestamp_days,
            };
            init(&keys.keys, &repo.repo, days, now, out)
        }
        Repo::Refresh { keys, repo } => {
            let (snapshot, timestamp) = online(&keys.keys)?;
            let written = open(&repo.repo)?.refresh(Some(&snapshot), &timestamp, now).map_err(failed)?;
            done(out, "refreshed", &written)
        }
        Repo::RotateRoot { keys, new_keys, repo } => rotate(&keys.keys, &new_keys, &repo.repo, now, out),
        Repo::Status { repo } => status(&repo.repo, out),
        Repo::Sign { key, repo } => {
            let key = SigningKey::load(&key).map_err(|e| Error::input(&key, e))?;
            let roles = open(&repo.repo)?.sign(&key).map_err(failed)?;
            let names: Vec<String> = roles.iter().map(|role| role.name().to_owned()).collect();
            done(out, "signed", &names)
        }
        Repo::Commit { keys, repo } => {
            let written = commit(&open(&repo.repo)?, &keys.keys, now)?;
            done(out, "published", &written)
        }
        Repo::Check { repo } => {
            open(&repo.repo)?.check(now).map_err(failed)?;
            done(out, "accepted by a new node's client", &[])
        }
    }
}

fn init(keys: &Path, dir: &Path, days: Days, now: Date, out: &Output) -> Result<(), Error> {
    let Days { root, targets, snapshot, timestamp } = days;
    let lifetimes = Lifetimes { root, targets, snapshot, timestamp };
    let policy = keys::policy(keys, lifetimes)?;
    let repository = Repository::at(dir, lifetimes);
    repository.init(&policy, now).map_err(failed)?;
    for part in ["indexes", "chunks.castr"] {
        let path = dir.join(part);
        std::fs::create_dir_all(&path)
            .map_err(|e| Error::Failed(format!("cannot create {}: {e}", path.display())))?;
    }
    let text = serde_json::to_vec_pretty(&days).map_err(Error::failed)?;
    durable::write(&dir.join(DAYS_FILE), &text).map_err(Error::failed)?;
    let written = sign_and_commit(&repository, keys, now)?.unwrap_or_default();
    done(out, "made a repository", &written)
}

/// Signs with every key of the folder that has a part, and publishes when that is enough; else `None`.
pub(crate) fn sign_and_commit(
    repository: &Repository,
    keys: &Path,
    now: Date,
) -> Result<Option<Vec<String>>, Error> {
    for (_, _, key) in keys::load_all(keys)? {
        match repository.sign(&key) {
            Ok(_) | Err(RepositoryError::WrongKey(_)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let complete = repository
        .staged()
        .map_err(failed)?
        .iter()
        .all(|staged| staged.needs.iter().all(|need| need.is_met()));
    let online = ["snapshot.pem", "timestamp.pem"].iter().all(|file| keys.join(file).exists());
    if complete && online { commit(repository, keys, now).map(Some) } else { Ok(None) }
}

fn commit(repository: &Repository, keys: &Path, now: Date) -> Result<Vec<String>, Error> {
    let (snapshot, timestamp) = online(keys)?;
    repository.publish(&snapshot, &timestamp, now).map_err(failed)
}

pub(crate) fn online(keys: &Path) -> Result<(SigningKey, SigningKey), Error> {
    Ok((keys::load(keys, "snapshot.pem")?, keys::load(keys, "timestamp.pem")?))
}

fn rotate(old: &Path, new: &Path, dir: &Path, now: Date, out: &Output) -> Result<(), Error> {
    let repository = open(dir)?;
    let policy = keys::policy(new, Lifetimes::default())?;
    let change =
        [(Role::Root, policy.root), (Role::Snapshot, policy.snapshot), (Role::Timestamp, policy.timestamp)];
    repository.stage_root(&change, now).map_err(failed)?;
    let mut signers = keys::load_all(old)?;
    signers.extend(keys::load_all(new)?);
    for (_, _, key) in signers.into_iter().filter(|(role, ..)| role == "root") {
        match repository.sign(&key) {
            Ok(_) | Err(RepositoryError::WrongKey(_)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let written = commit(&repository, new, now)?;
    done(out, "published a new root", &written)
}

fn status(dir: &Path, out: &Output) -> Result<(), Error> {
    let repository = open(dir)?;
    let staged = repository.staged().map_err(failed)?.into_iter().map(|staged| StagedView {
        role: staged.role.name().to_owned(),
        version: staged.version,
        complete: staged.needs.iter().all(|need| need.is_met()),
        missing: staged
            .needs
            .iter()
            .filter(|need| !need.is_met())
            .map(|need| format!("{} of {} that {} asks", need.signed.len(), need.threshold, need.authority))
            .collect(),
        may_sign: staged.needs.iter().flat_map(|need| &need.unsigned).map(ToString::to_string).collect(),
    });
    let status = Status {
        staged: staged.collect(),
        timestamp_expires: match repository.timestamp_expires() {
            Err(RepositoryError::NoRepository(_)) => None,
            date => Some(date.map_err(failed)?.0),
        },
        targets: targets(&repository)?,
    };
    out.print(&status, |status| {
        let mut text = String::new();
        if !status.staged.is_empty() {
            let rows: Vec<_> = status
                .staged
                .iter()
                .map(|s| {
                    let waits = if s.complete { "complete".to_owned() } else { s.missing.join(", ") };
                    vec![s.role.clone(), s.version.to_string(), waits]
                })
                .collect();
            text.push_str(&table(&["STAGED", "VERSION", "SIGNATURES"], &rows));
        }
        if let Some(end) = status.timestamp_expires {
            text.push_str(&format!("timestamp good until {}\n", Date(end)));
        }
        let count = status.targets.len();
        let bundles = if count == 1 { "bundle" } else { "bundles" };
        text.push_str(&format!("{count} {bundles} published\n"));
        status.targets.iter().for_each(|target| text.push_str(&format!("  {target}\n")));
        text
    })
}

/// Target paths of published bundles, sorted.
pub(crate) fn targets(repository: &Repository) -> Result<Vec<String>, Error> {
    let mut targets: Vec<String> = match repository.targets() {
        Ok(list) => list.into_iter().map(|(_, path, _)| path).collect(),
        Err(RepositoryError::NoRepository(_)) => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    targets.sort();
    Ok(targets)
}

/// One published target's bytes.
pub(crate) fn target_bytes(dir: &Path, path: &str, sha256: &str) -> Result<(String, Vec<u8>), Error> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let place = format!("{folder}/{sha256}.{file}");
    let bytes = read_limited(&dir.join("targets").join(&place), cairn_bundle::manifest::MAX_MANIFEST_BYTES)?;
    Ok((place, bytes))
}

pub(crate) fn failed(error: RepositoryError) -> Error {
    match error {
        RepositoryError::Damaged { path, why } => Error::input(
            &path,
            format!("{why}; the repository is damaged, restore the file from a copy of it"),
        ),
        error => Error::failed(error),
    }
}

fn done(out: &Output, what: &str, files: &[String]) -> Result<(), Error> {
    out.print(&serde_json::json!({ "done": what, "files": files }), |_| {
        if files.is_empty() { what.to_owned() } else { format!("{what}: {}", files.join(", ")) }
    })
}
