//! Running a program inside the toolbox.
//!
//! Each run sees the toolbox through its own overlay in its own mount namespace: whatever it writes outside the bound
//! host directories is gone when it ends, nothing is left mounted, and runs cannot disturb one another. Every step
//! `exec`s the next, so the pid the caller gets *is* the program's and signals reach it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Toolbox, privileged};

/// Sets up the view and becomes the program. Arguments: toolbox directory, working directory, "die" or "stay",
/// host path pairs (`rw|ro` path), `--`, program, arguments.
const SCRIPT: &str = r#"
set -eu
box=$1; cwd=$2; die=$3; shift 3
m=$box/mnt
mount -t tmpfs -o mode=0755,size=75% cairn-toolbox "$m"
mkdir "$m/up" "$m/work" "$m/root"
mount -t overlay overlay -o "lowerdir=$box/root,upperdir=$m/up,workdir=$m/work" "$m/root"
r=$m/root
for d in dev proc sys; do mount --rbind "/$d" "$r/$d"; done
for f in /etc/resolv.conf /etc/hosts; do
  if [ -e "$f" ]; then rm -f "$r$f"; cat "$f" >"$r$f"; fi
done
while [ "$1" != -- ]; do
  mode=$1; p=$2; shift 2
  if [ -d "$p" ]; then mkdir -p "$r$p"; else mkdir -p "$r${p%/*}"; : >>"$r$p"; fi
  mount --rbind "$p" "$r$p"
  if [ "$mode" = ro ]; then mount -o remount,bind,ro "$r$p"; fi
done
shift
if [ "$die" = die ]; then set -- setpriv --pdeathsig KILL "$@"; fi
exec chroot "$r" env -C "$cwd" "$@"
"#;

/// How a program is to run in the toolbox; made by [`Toolbox::enter`].
#[derive(Debug, Clone)]
pub struct Enter<'a> {
    toolbox: &'a Toolbox,
    binds: Vec<(bool, PathBuf)>,
    cwd: PathBuf,
    die_with_parent: bool,
}

impl<'a> Enter<'a> {
    pub(super) fn new(toolbox: &'a Toolbox) -> Self {
        Self { toolbox, binds: Vec::new(), cwd: PathBuf::from("/"), die_with_parent: false }
    }

    /// Shows an existing host file or directory (with what is mounted below it) at its own absolute path, writable.
    #[must_use]
    pub fn bind(mut self, path: impl AsRef<Path>) -> Self {
        self.binds.push((true, absolute(path.as_ref())));
        self
    }

    /// As [`Enter::bind`], read-only at the top mount.
    #[must_use]
    pub fn bind_ro(mut self, path: impl AsRef<Path>) -> Self {
        self.binds.push((false, absolute(path.as_ref())));
        self
    }

    /// Working directory inside the toolbox (default `/`); it must exist there, so bind it if it is the host's.
    #[must_use]
    pub fn cwd(mut self, path: impl AsRef<Path>) -> Self {
        self.cwd = absolute(path.as_ref());
        self
    }

    /// Kills the program when the *thread* that started it ends (`PR_SET_PDEATHSIG`). Start it from a thread that
    /// lives as long as the program should: a tokio worker thread may not.
    #[must_use]
    pub fn die_with_parent(mut self) -> Self {
        self.die_with_parent = true;
        self
    }

    /// The command. Its arguments, environment and standard streams can be set as usual; `current_dir` cannot, use
    /// [`Enter::cwd`].
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = privileged("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", SCRIPT, "cairn-toolbox"]);
        command.arg(&self.toolbox.dir).arg(&self.cwd);
        command.arg(if self.die_with_parent { "die" } else { "stay" });
        for (writable, path) in &self.binds {
            command.arg(if *writable { "rw" } else { "ro" }).arg(path);
        }
        command.arg("--").arg(OsString::from(program.as_ref()));
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8");
        command
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
