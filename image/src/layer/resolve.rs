//! Which packages a recipe means today, and fetching them.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::lock::{self, Download, Lock};
use super::recipe::Recipe;
use crate::debian::capture;
use crate::error::{self, Error};
use crate::toolbox::{self, Toolbox, run};

/// What to do when the lock file names a version that the archive no longer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pinning {
    /// Stop.
    Strict,
    /// Take today's versions of all packages, and say so.
    #[default]
    Prefer,
    /// Take today's versions, whatever the lock file says.
    Update,
}

/// The packages of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// Sorted by name.
    pub(crate) downloads: Vec<Download>,
    /// What apt was asked for.
    wanted: Vec<String>,
}

impl Resolved {
    /// The packages' names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.downloads.iter().map(|download| download.package.name.clone()).collect()
    }
}

/// apt as if nothing were installed yet, with no recommends and no lock that a read-only view cannot have.
const APT: &[&str] = &[
    "-y",
    "-oDir::State::status=/dev/null",
    "-oAPT::Install-Recommends=false",
    "-oAPT::Sandbox::User=root",
    "-oAPT::Get::AllowUnauthenticated=false",
    "-oAcquire::ForceHash=SHA256",
    "-oAcquire::Retries=3",
    "-oDebug::NoLocking=1",
];

/// Every essential package belongs to a root.
pub(crate) const ESSENTIAL: &str = "?essential";

pub(super) fn resolve(
    toolbox: &Toolbox,
    recipe: &Recipe,
    lock: Option<&Lock>,
    pinning: Pinning,
) -> Result<Resolved, Error> {
    check_suite(&recipe.layer.suite)?;
    let today = || [ESSENTIAL.to_owned()].into_iter().chain(recipe.layer.packages.iter().cloned()).collect();
    if let Some(lock) = lock.filter(|_| pinning != Pinning::Update) {
        let pinned = lock.packages.iter().map(|p| format!("{}={}", p.name, p.version)).collect::<Vec<_>>();
        match ask(toolbox, pinned) {
            Ok(resolved) if is_locked(&resolved, lock) && has_wanted(&resolved, recipe) => {
                return Ok(resolved);
            }
            Ok(resolved) if pinning == Pinning::Strict => {
                let taken: Vec<_> = resolved.downloads.into_iter().map(|d| d.package).collect();
                let mut lines = lock::differences(lock, &taken);
                if lines.is_empty() {
                    lines.push("a package has another digest, or one of the recipe's is missing".to_owned());
                }
                return Err(Error::Argument(format!(
                    "the lock file does not fit the recipe: {}; write a new one with --update-lock",
                    lines.join("; ")
                )));
            }
            Err(error) if pinning == Pinning::Strict => {
                return Err(Error::Argument(format!(
                    "the archive does not have what the lock file names; use an archive that does, or write a new \
                     lock with --update-lock ({error})"
                )));
            }
            _ => {}
        }
    }
    ask(toolbox, today())
}

/// The toolbox's lists are of one suite.
pub(crate) fn check_suite(suite: &str) -> Result<(), Error> {
    if suite == toolbox::SUITE {
        return Ok(());
    }
    Err(Error::Argument(format!(
        "the recipe wants suite {suite}, and the toolbox knows {} only",
        toolbox::SUITE
    )))
}

fn is_locked(resolved: &Resolved, lock: &Lock) -> bool {
    resolved.downloads.iter().map(|d| &d.package).eq(lock.packages.iter())
}

fn has_wanted(resolved: &Resolved, recipe: &Recipe) -> bool {
    let names: Vec<&str> = resolved.downloads.iter().map(|d| d.package.name.as_str()).collect();
    recipe.layer.packages.iter().all(|package| names.contains(&package.as_str()))
}

/// What apt would fetch for these packages, from nothing.
pub(crate) fn ask(toolbox: &Toolbox, wanted: Vec<String>) -> Result<Resolved, Error> {
    let mut command = toolbox.command("apt-get");
    command.args(["install", "-qq", "--print-uris"]).args(APT).args(&wanted);
    let text = capture(&mut command, false)?;
    let downloads = lock::parse_uris(&text).map_err(|problem| Error::unexpected("apt-get", problem))?;
    if downloads.is_empty() {
        return Err(Error::unexpected("apt-get", "named no package at all"));
    }
    Ok(Resolved { downloads, wanted })
}

/// Fetches what the cache lacks; answers with the cache, where each file has its [`Download::file`] name. `owner` is for messages.
pub(crate) fn fetch(
    toolbox: &Toolbox,
    owner: &str,
    resolved: &Resolved,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, Error> {
    let cache = toolbox::cache_dir()?.join("debs");
    for dir in [&cache, &cache.join("partial")] {
        fs::create_dir_all(dir).map_err(error::file("create", dir))?;
    }
    let missing: u64 = lacking(&cache, resolved)?.iter().map(|d| d.length).sum();
    if missing > 0 {
        progress(&format!("{owner}: fetching {} MB of packages", missing.div_ceil(1_000_000)));
        let mut command = toolbox.enter().bind(&cache).command("sh");
        command.args(["-euc", FETCH, "sh"]).arg(&cache).args(APT).arg("--").args(&resolved.wanted);
        run(&mut command, "fetching packages", &|_| {})?;
    }
    if let Some(lost) = lacking(&cache, resolved)?.first() {
        return Err(Error::unexpected("apt-get", format!("did not fetch {} as announced", lost.file)));
    }
    Ok(cache)
}

/// Fetches what the cache lacks, and lays `work/repo` out as an archive of exactly these packages.
pub(super) fn download(
    toolbox: &Toolbox,
    recipe: &Recipe,
    resolved: &Resolved,
    work: &Path,
    progress: &dyn Fn(&str),
) -> Result<(), Error> {
    let cache = fetch(toolbox, &format!("layer {}", recipe.layer.name), resolved, progress)?;
    let repo = work.join("repo");
    fs::create_dir_all(&repo).map_err(error::file("create", &repo))?;
    for download in &resolved.downloads {
        let (from, to) = (cache.join(&download.file), repo.join(&download.file));
        // Linking files of root's is not everybody's right.
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(|_| ()))
            .map_err(error::file("copy", &from))?;
    }
    let names = resolved.downloads.iter().map(|d| format!("{}={}", d.package.name, d.package.version));
    let stanzas = capture(toolbox.command("apt-cache").arg("show").args(names), false)?;
    let packages = index(&stanzas, &resolved.downloads)?;
    for (name, text) in [("Release", release(&recipe.layer.suite, &packages)), ("Packages", packages)] {
        let path = repo.join(name);
        fs::write(&path, text).map_err(error::file("write", &path))?;
    }
    Ok(())
}

/// The archive's description; mmdebstrap finds essential packages by the suite that it names.
fn release(suite: &str, packages: &str) -> String {
    let digest = hex::encode(Sha256::digest(packages));
    format!("Suite: {suite}\nCodename: {suite}\nSHA256:\n {digest} {} Packages\n", packages.len())
}

/// Lists that are older than the mirror name files which it no longer has: try again with fresh ones.
const FETCH: &str = r#"
cache=$1; shift
options=; while [ "$1" != -- ]; do options="$options $1"; shift; done; shift
get() { apt-get install -q --download-only $options -oDir::Cache::archives="$cache" "$@"; }
get "$@" || { apt-get -q update; get "$@"; }
"#;

/// Downloads whose file is not in the cache with the right digest.
fn lacking<'a>(cache: &Path, resolved: &'a Resolved) -> Result<Vec<&'a Download>, Error> {
    let mut lacking = Vec::new();
    for download in &resolved.downloads {
        let path = cache.join(&download.file);
        match fs::read(&path) {
            Ok(bytes) if hex::encode(Sha256::digest(&bytes)) == download.package.sha256 => {}
            Ok(_) => {
                fs::remove_file(&path).map_err(error::file("remove the damaged", &path))?;
                lacking.push(download);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => lacking.push(download),
            Err(e) => return Err(error::file("read", &PathBuf::from(&path))(e)),
        }
    }
    Ok(lacking)
}

/// A `Packages` file from `apt-cache show`'s stanzas, each naming its file in our directory.
fn index(stanzas: &str, downloads: &[Download]) -> Result<String, Error> {
    let mut text = String::new();
    for download in downloads {
        let digest = format!("SHA256: {}", download.package.sha256);
        let found = stanzas.split("\n\n").find(|stanza| stanza.lines().any(|line| line == digest));
        let found = found.ok_or_else(|| {
            Error::unexpected("apt-cache show", format!("{} is not in the lists", download.package.name))
        })?;
        for line in found.lines().filter(|line| !line.is_empty()) {
            if line.starts_with("Filename: ") {
                text.push_str(&format!("Filename: ./{}\n", download.file));
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::lock::LockedPackage;
    use super::*;

    #[test]
    fn the_index_names_our_files() {
        let sha256 = "ab".repeat(32);
        let stanzas =
            format!("Package: a\nFilename: pool/a.deb\nSHA256: {sha256}\n\nPackage: b\nSHA256: x\n");
        let download = Download {
            package: LockedPackage { name: "a".to_owned(), version: "1".to_owned(), sha256: sha256.clone() },
            file: "a_1_all.deb".to_owned(),
            length: 1,
        };
        let text = index(&stanzas, std::slice::from_ref(&download)).unwrap();
        assert_eq!(text, format!("Package: a\nFilename: ./a_1_all.deb\nSHA256: {sha256}\n\n"));
        assert!(index("", &[download]).is_err());
    }
}
