//! One Debian root with every foreign tool Cairn uses, the same versions on every machine.
//!
//! It is made by mmdebstrap once, kept in the user's cache under the hash of what it consists of, and never written
//! to afterwards: programs run in a throw-away overlay of it ([`Enter`]). Its apt lists stay inside, so that whatever
//! else is taken from Debian later (the kernel, firmware) comes from the same state of the archive.

mod enter;
mod mirror;
mod packages;
mod turn;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

pub use enter::Enter;
pub use mirror::{MIRROR_VARIABLE, Mirrors, SECURITY_VARIABLE};
pub use packages::{EXCLUDED_PATHS, FORMAT, PACKAGES, SUITE};
pub use turn::Turn;

/// Keyring that Debian's `debian-archive-keyring` installs; on bookworm it knows trixie's keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What can go wrong with the toolbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's apt knows no Debian archive.
    #[error(
        "no Debian archive in the host's apt configuration; add one, or set {MIRROR_VARIABLE} \
         (and {SECURITY_VARIABLE}) to a mirror's address"
    )]
    NoMirror,
    /// Neither root nor password-less sudo.
    #[error("the toolbox needs root: run as root, or allow `sudo -n` for this user")]
    NotRoot,
    /// No place for the cache.
    #[error("no cache directory: set XDG_CACHE_HOME or HOME")]
    NoCache,
    /// A program could not be started.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("{what} failed ({status}): {tail}")]
    Failed {
        /// What was being done.
        what: String,
        /// Exit status.
        status: String,
        /// The last lines it wrote.
        tail: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn file_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::File { action, path: path.to_owned(), source }
}

/// Cairn's cache: `${XDG_CACHE_HOME:-~/.cache}/cairn`.
///
/// # Errors
/// When neither variable is set.
pub fn cache_dir() -> Result<PathBuf, Error> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.ok_or(Error::NoCache)?.join("cairn"))
}

/// A command that runs as root: directly when we are root, through `sudo -n` when not.
pub(crate) fn privileged(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "-E", "--", program]);
    command
}

/// Effective uid 0, read from procfs: std has no call for it and this crate has no unsafe code.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// A usable toolbox. Holding one proves that its root was built completely.
#[derive(Debug, Clone)]
pub struct Toolbox {
    dir: PathBuf,
}

impl Toolbox {
    /// Hash of everything the root's content depends on, as far as we decide it.
    #[must_use]
    pub fn key() -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{FORMAT}\n{SUITE}\n"));
        for word in PACKAGES.iter().chain(EXCLUDED_PATHS) {
            hash.update(word);
            hash.update("\n");
        }
        hex::encode(&hash.finalize()[..8])
    }

    /// Where [`Toolbox::ensure`] keeps this version of the toolbox.
    ///
    /// # Errors
    /// When there is no place for a cache.
    pub fn location() -> Result<PathBuf, Error> {
        Ok(cache_dir()?.join("toolbox").join(Self::key()))
    }

    /// The toolbox, built now if it is not in the cache (about half a minute and 450 MB with a near mirror).
    /// `progress` gets one line per step. Safe to call from many processes at once: one builds, the others wait.
    ///
    /// # Errors
    /// See [`Error`]; a failed build leaves nothing that counts.
    pub fn ensure(progress: &dyn Fn(&str)) -> Result<Self, Error> {
        let dir = Self::location()?;
        if dir.join("root").is_dir() {
            return Ok(Self { dir });
        }
        let parent = dir.parent().map(Path::to_owned).unwrap_or_default();
        fs::create_dir_all(&parent).map_err(file_error("create", &parent))?;
        let lock_path = parent.join("lock");
        let lock = File::create(&lock_path).map_err(file_error("create", &lock_path))?;
        if lock.try_lock().is_err() {
            progress("toolbox: another process is building it, waiting");
            lock.lock().map_err(file_error("lock", &lock_path))?;
        }
        if dir.join("root").is_dir() {
            return Ok(Self { dir });
        }
        if !privileged("true").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        {
            return Err(Error::NotRoot);
        }
        remove_stale(&parent, progress)?;
        build(&dir, progress)?;
        Ok(Self { dir })
    }

    /// The root directory. Read only: programs that must write run through [`Toolbox::enter`].
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Describes a run inside the toolbox: binds, working directory.
    #[must_use]
    pub fn enter(&self) -> Enter<'_> {
        Enter::new(self)
    }

    /// A program in the toolbox that needs no host files. With some: [`Toolbox::enter`].
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.enter().command(program)
    }
}

/// Removes what killed builds left behind. Called under the lock, so nobody is building there.
fn remove_stale(parent: &Path, progress: &dyn Fn(&str)) -> Result<(), Error> {
    for entry in fs::read_dir(parent).map_err(file_error("list", parent))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "tmp") {
            progress(&format!("toolbox: removing the remains of an interrupted build, {}", path.display()));
            run(privileged("rm").args(["-rf", "--one-file-system", "--"]).arg(&path), "rm", &|_| {})?;
        }
    }
    Ok(())
}

fn build(dir: &Path, progress: &dyn Fn(&str)) -> Result<(), Error> {
    install_mmdebstrap(progress)?;
    let mirrors = Mirrors::from_host()?;
    progress(&format!(
        "toolbox: building {} packages of Debian {SUITE} from {}",
        PACKAGES.len(),
        mirrors.main
    ));
    let tmp = dir.with_extension("tmp");
    for path in [&tmp, &tmp.join("mnt")] {
        fs::create_dir_all(path).map_err(file_error("create", path))?;
    }
    // In its own pid and mount namespace that dies with us: a killed build must not go on under a free lock, and
    // what it mounted must not be in the way of removing it.
    let mut command = privileged("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.args(["mmdebstrap", "--mode=root", "--variant=minbase", "--skip=cleanup/apt/lists"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    command.arg("--aptopt=Acquire::Languages \"none\"");
    command.arg("--aptopt=Acquire::GzipIndexes \"true\"");
    for option in &mirrors.options {
        command.arg(format!("--aptopt={option}"));
    }
    for path in EXCLUDED_PATHS {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(format!("--keyring={KEYRING}"));
    command.arg(SUITE).arg(tmp.join("root"));
    for line in mirrors.sources(SUITE, "main non-free-firmware") {
        command.arg(line);
    }
    command.env("LC_ALL", "C.UTF-8");
    run(&mut command, "mmdebstrap", &|line| {
        if let Some(step) = line.strip_prefix("I: ") {
            progress(&format!("toolbox: {step}"));
        }
    })?;
    run(privileged("sync").arg("-f").arg(&tmp), "sync", &|_| {})?;
    fs::rename(&tmp, dir).map_err(file_error("rename", &tmp))?;
    progress(&format!("toolbox: ready in {}", dir.display()));
    Ok(())
}

fn install_mmdebstrap(progress: &dyn Fn(&str)) -> Result<(), Error> {
    let there = Command::new("mmdebstrap").arg("--version").stdout(Stdio::null()).status();
    if there.is_ok_and(|s| s.success()) {
        return Ok(());
    }
    progress("toolbox: installing mmdebstrap on this host");
    for arguments in [&["update"][..], &["install", "-y", "--no-install-recommends", "mmdebstrap"][..]] {
        let mut command = privileged("apt-get");
        command.arg("-q").args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command, "apt-get", &|_| {})?;
    }
    Ok(())
}

/// Lines of a failed program's output that its error carries.
const TAIL_LINES: usize = 12;

/// Runs a program to its end, handing every line of its output to `line`; on failure the last lines are the error.
pub(crate) fn run(command: &mut Command, what: &str, line: &dyn Fn(&str)) -> Result<(), Error> {
    let start = |source| Error::Run { program: what.to_owned(), source };
    let (reader, writer) = std::io::pipe().map_err(start)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(start)?).stderr(writer);
    let mut child = command.spawn().map_err(start)?;
    // The command keeps the pipe's writing end; without this the reader would wait for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = std::collections::VecDeque::new();
    for text in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&text).into_owned();
        line(&text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
    let status = child.wait().map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { what: what.to_owned(), status: status.to_string(), tail: Vec::from(tail).join("\n") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_key_is_stable_and_short() {
        assert_eq!(Toolbox::key(), Toolbox::key());
        assert_eq!(Toolbox::key().len(), 16);
    }

    #[test]
    fn a_failed_program_shows_its_last_lines() {
        let error = run(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]), "try", &|_| {});
        let text = error.unwrap_err().to_string();
        assert!(text.contains("try failed") && text.contains("one") && text.contains("two"), "{text}");
    }
}
