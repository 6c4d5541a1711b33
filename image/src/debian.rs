//! Packages of the toolbox's Debian: looking them up, fetching and unpacking them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{self, Error};
use crate::toolbox::{self, Toolbox, run};

/// A binary package at one version, as the archive's signed lists name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// Source package.
    pub source: String,
    /// SHA-256 of the `.deb` file, hex.
    pub sha256: String,
    /// Names in `Depends`, without versions; of alternatives the first.
    #[serde(skip)]
    pub depends: Vec<String>,
}

impl Package {
    /// Reads one stanza of `apt-cache show`. `None` when a field that we need is missing.
    #[must_use]
    pub fn parse(stanza: &str) -> Option<Self> {
        let field = |name: &str| {
            stanza
                .lines()
                .take_while(|line| !line.is_empty())
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let first_word = |text: &str| text.split([' ', '(']).next().unwrap_or_default().to_owned();
        let name = field("Package")?.to_owned();
        let depends = field("Depends").unwrap_or_default().split(", ");
        Some(Self {
            version: field("Version")?.to_owned(),
            source: field("Source").map_or_else(|| name.clone(), first_word),
            sha256: field("SHA256").filter(|s| s.len() == 64)?.to_owned(),
            depends: depends.map(first_word).filter(|s| !s.is_empty()).collect(),
            name,
        })
    }

    /// Looks a package up in the toolbox's lists, the newest version.
    ///
    /// # Errors
    /// When apt does not know it.
    pub fn find(toolbox: &Toolbox, name: &str) -> Result<Self, Error> {
        let mut found = Self::find_all(toolbox, &[name])?;
        found.pop().ok_or_else(|| Error::unexpected("apt-cache show", format!("no package {name}")))
    }

    /// Looks several packages up, in apt's order; those that apt does not know are left out.
    ///
    /// # Errors
    /// When apt cannot be run.
    pub fn find_all(toolbox: &Toolbox, names: &[&str]) -> Result<Vec<Self>, Error> {
        let text =
            capture(toolbox.command("apt-cache").args(["show", "--no-all-versions"]).args(names), true)?;
        Ok(text.split("\n\n").filter_map(Self::parse).collect())
    }

    /// The unpacked package in the cache, fetched if it is not there. apt checks the file against its signed lists.
    ///
    /// # Errors
    /// When it cannot be fetched: most likely the mirror has dropped this version since the toolbox was built.
    pub fn unpacked(&self, toolbox: &Toolbox, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
        self.unpacked_with(toolbox, "true", progress)
    }

    /// As [`Package::unpacked`]; `finish` is a shell command run once in the unpacked tree.
    pub(crate) fn unpacked_with(
        &self,
        toolbox: &Toolbox,
        finish: &str,
        progress: &dyn Fn(&str),
    ) -> Result<PathBuf, Error> {
        let parent = toolbox::cache_dir()?.join("packages");
        let dir = parent.join(format!("{}_{}", self.name, &self.sha256[..16]));
        let root = dir.join("root");
        if root.is_dir() {
            return Ok(root);
        }
        progress(&format!("debian: fetching {} {}", self.name, self.version));
        fs::create_dir_all(&parent).map_err(error::file("create", &parent))?;
        let tmp = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempdir_in(&parent)
            .map_err(error::file("create a directory in", &parent))?;
        let mut command = toolbox.enter().bind(tmp.path()).cwd(tmp.path()).command("sh");
        command.args(["-euc", FETCH, "sh"]).arg(format!("{}={}", self.name, self.version)).arg(finish);
        run(&mut command, &format!("fetching {} {}", self.name, self.version), &|_| {})?;
        // The directory that is renamed is ours also where what it holds is root's, by sudo.
        let tmp = tmp.keep();
        match fs::rename(&tmp, &dir) {
            // Somebody else was faster; theirs is the same.
            Err(_) if root.is_dir() => {
                let _ = toolbox::privileged("rm").args(["-rf", "--"]).arg(&tmp).status();
                Ok(root)
            }
            result => result.map(|()| root).map_err(error::file("rename to", &dir)),
        }
    }
}

/// The toolbox's lists may be older than the mirror: a package that is not found is tried again with fresh lists.
const FETCH: &str = r#"
get() { apt-get -q -o APT::Sandbox::User=root download "$1"; }
get "$1" || { apt-get -q update; get "$1"; }
dpkg-deb -x *.deb root
rm *.deb
cd root
sh -euc "$2"
"#;

/// Runs a command and returns what it wrote. `partial`: a failure with some output is a success.
pub(crate) fn capture(command: &mut std::process::Command, partial: bool) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|source| toolbox::Error::Run { program: name, source })?;
    let answered = out.status.success() || (partial && !out.stdout.is_empty());
    if !answered {
        // In the toolbox the program is what follows the launcher's `--`.
        let inner =
            command.get_args().skip_while(|a| *a != "cairn-toolbox").skip_while(|a| *a != "--").nth(1);
        return Err(toolbox::Error::Failed {
            what: inner.unwrap_or_else(|| command.get_program()).to_string_lossy().into_owned(),
            status: out.status.to_string(),
            tail: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        }
        .into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Which packages of the toolbox own these files (paths inside the root, any spelling that dpkg knows).
///
/// # Errors
/// When dpkg or apt cannot be run, or a file belongs to no package.
pub fn owners(toolbox: &Toolbox, paths: &[String]) -> Result<Vec<Package>, Error> {
    let mut command = toolbox.command("dpkg-query");
    command.arg("--search");
    // Debian's dpkg database knows some files under / and some under /usr; ask for both.
    for path in paths {
        command.arg(path);
        match path.strip_prefix("/usr") {
            Some(short) => command.arg(short),
            None => command.arg(format!("/usr{path}")),
        };
    }
    let text = capture(&mut command, true)?;
    let mut names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .flat_map(|(owners, _)| owners.split(", "))
        .map(|owner| owner.split(':').next().unwrap_or(owner))
        .filter(|owner| !owner.starts_with("diversion "))
        .collect();
    names.sort_unstable();
    names.dedup();
    let found = Package::find_all(toolbox, &names)?;
    if found.len() != names.len() {
        return Err(Error::unexpected("apt-cache show", format!("not all of {names:?} are in the lists")));
    }
    Ok(found)
}

/// Reads a file of a Debian root, following symbolic links inside that root (absolute ones too).
///
/// # Errors
/// When it cannot be read.
pub fn read_in_root(root: &Path, path: &str) -> Result<Vec<u8>, Error> {
    let resolved = resolve(root, path)?;
    fs::read(&resolved).map_err(error::file("read", &resolved))
}

/// More links than any Debian file needs; ends a loop.
const MAX_LINKS: u32 = 16;

/// Where a path inside `root` really is.
pub(crate) fn resolve(root: &Path, path: &str) -> Result<PathBuf, Error> {
    let mut left: Vec<String> = path.split('/').rev().map(ToOwned::to_owned).collect();
    let mut done = PathBuf::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => done.push(&part),
        }
        let here = root.join(&done);
        if let Ok(target) = fs::read_link(&here) {
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::unexpected(path, "too many symbolic links"));
            }
            done.pop();
            let target = target.to_string_lossy().into_owned();
            if target.starts_with('/') {
                done = PathBuf::new();
            }
            left.extend(target.split('/').rev().map(ToOwned::to_owned));
        }
    }
    Ok(root.join(done))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stanza_is_read() {
        let sha256 = "ab".repeat(32);
        let text = format!(
            "Package: linux-image-amd64\nSource: linux-signed-amd64 (6.12.1+1)\nVersion: 6.12.1-1\n\
             Depends: linux-image-6.12.1-amd64 (= 6.12.1-1), a | b\nSHA256: {sha256}\n\nPackage: other\n"
        );
        let package = Package::parse(&text).unwrap();
        assert_eq!(package.source, "linux-signed-amd64");
        assert_eq!(package.depends, ["linux-image-6.12.1-amd64", "a"]);
        assert_eq!(Package::parse("Package: x\nVersion: 1\n"), None);
    }

    #[test]
    fn links_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        fs::write(dir.path().join("usr/lib/real"), "x").unwrap();
        std::os::unix::fs::symlink("usr/lib", dir.path().join("lib")).unwrap();
        std::os::unix::fs::symlink("/lib/real", dir.path().join("usr/lib/name")).unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert_eq!(read_in_root(dir.path(), "/lib/name").unwrap(), b"x");
        assert!(resolve(dir.path(), "loop").is_err());
    }
}
