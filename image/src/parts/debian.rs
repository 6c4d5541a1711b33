//! Debian packages as files: unpacked, their scripts not run, so that they go on any base.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Tools;
use super::tree::{Node, Source, Tree};
use crate::error::{self, Error};
use crate::layer::lock::{Lock, LockedPackage};
use crate::layer::recipe;
use crate::layer::resolve::{self, ESSENTIAL, Pinning, Resolved};
use crate::layer::stack::recipe::Debian;
use crate::toolbox::run;

/// Packages of one owner, with their versions.
#[derive(Debug)]
pub(crate) struct Packages<'a> {
    part: &'a Debian,
    resolved: Resolved,
}

/// Which packages `part` means: all that apt would install, without what the root of `beyond` has. `home`: the recipe's folder.
///
/// # Errors
/// When apt does not know them, or not at the locked versions and `pinning` is strict.
pub(crate) fn resolve<'a>(
    tools: &Tools<'_>,
    part: &'a Debian,
    home: &Path,
    lock: Option<&Lock>,
    pinning: Pinning,
) -> Result<Packages<'a>, Error> {
    resolve::check_suite(&part.suite)?;
    let below = match &part.beyond {
        None => Vec::new(),
        Some(other) => {
            let path = home.join(other);
            let text = fs::read_to_string(&path).map_err(error::file("read", &path))?;
            let base = recipe::parse(&text).map_err(|e| {
                Error::Argument(format!("{} is no recipe of a whole root: {e}", path.display()))
            })?;
            std::iter::once(ESSENTIAL.to_owned()).chain(base.layer.packages).collect()
        }
    };
    let there: Vec<String> =
        if below.is_empty() { Vec::new() } else { resolve::ask(tools.toolbox, below.clone())?.names() };
    let beyond = |mut resolved: Resolved| {
        resolved.downloads.retain(|download| !there.contains(&download.package.name));
        resolved
    };
    let today = resolve::ask(tools.toolbox, below.iter().chain(&part.packages).cloned().collect())?;
    let Some(lock) = lock.filter(|_| pinning != Pinning::Update) else {
        return Ok(Packages { part, resolved: beyond(today) });
    };
    // What both name is asked for at its locked version; the rest follows.
    let pinned = |name: String| {
        let locked = lock.packages.iter().find(|package| package.name == name);
        locked.map_or(name.clone(), |package| format!("{name}={}", package.version))
    };
    let wanted: Vec<String> = beyond(today.clone()).names().into_iter().map(pinned).collect();
    match resolve::ask(tools.toolbox, below.into_iter().chain(wanted).collect()) {
        Ok(resolved) => {
            let resolved = beyond(resolved);
            let other = resolved.downloads.iter().find(|download| !lock.packages.contains(&download.package));
            match other.filter(|_| pinning == Pinning::Strict) {
                Some(other) => Err(Error::Argument(format!(
                    "the lock file does not have {} {} with this digest; write a new one with --update-lock",
                    other.package.name, other.package.version
                ))),
                None => Ok(Packages { part, resolved }),
            }
        }
        Err(error) if pinning == Pinning::Strict => Err(Error::Argument(format!(
            "the archive does not have what the lock file names; use an archive that does, or write a new lock with \
             --update-lock ({error})"
        ))),
        Err(_) => Ok(Packages { part, resolved: beyond(today) }),
    }
}

impl Packages<'_> {
    /// The packages, sorted by name.
    pub(crate) fn locked(&self) -> impl Iterator<Item = &LockedPackage> {
        self.resolved.downloads.iter().map(|download| &download.package)
    }

    /// Fetches and unpacks them below `work`, and puts their files into `tree`.
    pub(crate) fn gather(
        &self,
        tools: &Tools<'_>,
        owner: &str,
        work: &Path,
        tree: &mut Tree,
    ) -> Result<(), Error> {
        let cache = resolve::fetch(tools.toolbox, owner, &self.resolved, tools.progress)?;
        for download in &self.resolved.downloads {
            let root = work.join("debs").join(&download.package.sha256[..32]);
            if !root.exists() {
                fs::create_dir_all(&root).map_err(error::file("create", &root))?;
                let mut command = tools.toolbox.enter().bind(&root).bind_ro(&cache).command("dpkg-deb");
                command.arg("-x").arg(cache.join(&download.file)).arg(&root);
                run(&mut command, &format!("unpacking {}", download.package.name), &|_| {})?;
            }
            let failed = |e| Error::unexpected(&download.package.name, format!("{e}"));
            put(&root, "", &self.part.exclude, tree).map_err(failed)?;
        }
        Ok(())
    }
}

/// Adds what is in `root/inside` to the tree. Empty directories are left out: what a package needs of them its units make.
fn put(root: &Path, inside: &str, exclude: &[String], tree: &mut Tree) -> Result<(), Error> {
    let dir = root.join(inside.trim_start_matches('/'));
    for entry in fs::read_dir(&dir).map_err(error::file("list", &dir))? {
        let entry = entry.map_err(error::file("list", &dir))?;
        let host = entry.path();
        let name = entry.file_name().into_string();
        let path = format!(
            "{inside}/{}",
            name.map_err(|name| Error::unexpected("a file's name", name.display().to_string()))?
        );
        if exclude.iter().any(|pattern| cairn_protocol::select::glob(pattern, &path)) {
            continue;
        }
        let meta = fs::symlink_metadata(&host).map_err(error::file("find", &host))?;
        if meta.is_dir() {
            put(root, &path, exclude, tree)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&host).map_err(error::file("read", &host))?;
            tree.insert(&path, Node::Link(target.to_string_lossy().into_owned()))?;
        } else if meta.is_file() {
            tree.insert(&path, Node::File { source: Source::Path(host), mode: meta.mode() & 0o7777 })?;
        } else {
            return Err(Error::unexpected(path, "is neither a file nor a directory nor a link"));
        }
    }
    Ok(())
}
