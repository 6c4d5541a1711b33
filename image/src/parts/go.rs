//! Programs built from Go modules, once for each set of inputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::gotool::{self, Toolchain};
use crate::elf;
use crate::error::{self, Error};
use crate::layer::stack::recipe::Go;
use crate::toolbox::{self, run};

/// Raise when programs are built in another way.
const FORMAT: u32 = 1;

/// A line of progress at most this often: a build compiles a thousand packages.
const PACE: Duration = Duration::from_secs(10);

/// A program that can be built, or was.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    toolchain: Toolchain,
    folder: PathBuf,
    part: Go,
    /// Hash of everything that its bytes depend on, hexadecimal.
    pub(crate) key: String,
}

impl Program {
    /// What `part` means, without building it. `home`: the recipe's folder.
    ///
    /// # Errors
    /// When the module is not there, or no Go is new enough for it.
    pub(crate) fn new(part: &Go, home: &Path, progress: &dyn Fn(&str)) -> Result<Self, Error> {
        let folder = home.join(&part.module);
        let go_mod = folder.join("go.mod");
        let text = fs::read_to_string(&go_mod).map_err(error::file("read", &go_mod))?;
        let minimum = gotool::minimum(&text)
            .ok_or_else(|| Error::unexpected(go_mod.display().to_string(), "names no Go version"))?;
        let toolchain = Toolchain::ensure(minimum, progress)?;
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(format!("cairn go {FORMAT} {}", toolchain.version).as_bytes());
        add(part.package.as_bytes());
        for flag in flags(part) {
            add(flag.as_bytes());
        }
        for path in sources(&folder)? {
            add(path.strip_prefix(&folder).unwrap_or(&path).to_string_lossy().as_bytes());
            add(&fs::read(&path).map_err(error::file("read", &path))?);
        }
        let key = hex::encode(hash.finalize());
        Ok(Self { toolchain, folder, part: part.clone(), key })
    }

    /// The program, built now if it is not in the cache: seconds to minutes each. Many processes may ask at once: one
    /// builds.
    ///
    /// # Errors
    /// When it cannot be built.
    pub(crate) fn ensure(&self, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
        let name = self.part.path.rsplit('/').next().unwrap_or_default();
        let cache = toolbox::cache_dir()?.join("go/programs");
        let done = cache.join(format!("{name}-{}", &self.key[..32]));
        if done.exists() {
            return Ok(done);
        }
        fs::create_dir_all(&cache).map_err(error::file("create", &cache))?;
        // One at a time: Go uses every core by itself, and two builds of the same program would do the same work.
        let lock_path = cache.join("lock");
        let lock = fs::File::create(&lock_path).map_err(error::file("create", &lock_path))?;
        if lock.try_lock().is_err() {
            progress(&format!("go: {name} waits for another process's build"));
            lock.lock().map_err(error::file("lock", &lock_path))?;
        }
        if done.exists() {
            return Ok(done);
        }
        let work = tempfile::Builder::new().prefix(".tmp-").tempdir_in(&cache);
        let work = work.map_err(error::file("create a directory in", &cache))?;
        let built = work.path().join(name);
        progress(&format!("go: building {name} with {}", self.toolchain.version));
        let begun = Instant::now();
        let mut command = self.toolchain.command()?;
        command.current_dir(&self.folder).args(["build", "-v"]).args(flags(&self.part));
        command.arg("-o").arg(&built).arg(&self.part.package);
        let told = std::cell::Cell::new((0_u32, begun));
        run(&mut command, &format!("go build {}", self.part.package), &|_| {
            let (count, last) = told.get();
            let due = last.elapsed() >= PACE;
            if due {
                progress(&format!(
                    "go: building {name}: {} packages compiled, {} s",
                    count + 1,
                    begun.elapsed().as_secs()
                ));
            }
            told.set((count + 1, if due { Instant::now() } else { last }));
        })?;
        let bytes = fs::read(&built).map_err(error::file("read", &built))?;
        elf::check_static(&bytes)
            .map_err(|e| Error::unexpected(built.display().to_string(), e.to_string()))?;
        fs::File::open(&built).and_then(|f| f.sync_all()).map_err(error::file("sync", &built))?;
        fs::rename(&built, &done).map_err(error::file("rename to", &done))?;
        progress(&format!(
            "go: {name} has {} MB, built in {} s",
            bytes.len() / 1_000_000,
            begun.elapsed().as_secs()
        ));
        Ok(done)
    }
}

/// `go build`'s flags. No path, no version control and no build id: the same bytes from any folder.
fn flags(part: &Go) -> Vec<String> {
    let mut linker = "-s -w -buildid=".to_owned();
    for (name, value) in &part.set {
        linker.push_str(&format!(" -X {name}={value}"));
    }
    let mut flags = vec!["-trimpath".to_owned(), "-buildvcs=false".to_owned(), "-ldflags".to_owned(), linker];
    if !part.tags.is_empty() {
        flags.push(format!("-tags={}", part.tags.join(",")));
    }
    flags
}

/// The module's own files: go.mod, go.sum, and sources where it has some. Sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).map_err(error::file("list", &dir))? {
            let path = entry.map_err(error::file("list", &dir))?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn part(dir: &Path) -> Go {
        fs::create_dir_all(dir.join("m")).unwrap();
        fs::write(dir.join("m/go.mod"), "module cairn.invalid/m\n\ngo 1.21\n").unwrap();
        fs::write(
            dir.join("m/main.go"),
            "package main\n\nvar version = \"none\"\n\nfunc main() { println(version) }\n",
        )
        .unwrap();
        Go {
            module: "m".to_owned(),
            package: "cairn.invalid/m".to_owned(),
            path: "/usr/bin/m".to_owned(),
            set: [("main.version".to_owned(), "v7".to_owned())].into(),
            tags: Vec::new(),
        }
    }

    #[test]
    fn flags_say_all_that_matters() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = part(dir.path());
        part.tags = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            flags(&part),
            ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version=v7", "-tags=a,b"]
        );
    }

    #[test]
    fn a_program_is_the_same_bytes_from_two_folders() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let build = |dir: &Path| {
            let program = Program::new(&part(dir), dir, &|_| {}).unwrap();
            let built = dir.join("built");
            let mut command = program.toolchain.command().unwrap();
            command
                .current_dir(&program.folder)
                .arg("build")
                .args(flags(&program.part))
                .arg("-o")
                .arg(&built);
            run(command.arg(&program.part.package), "go build", &|_| {}).unwrap();
            (program.key, fs::read(built).unwrap())
        };
        let (first, second) = (build(one.path()), build(two.path()));
        assert_eq!(first.0, second.0);
        assert!(first.1 == second.1);
        assert_eq!(elf::check_static(&first.1), Ok(()));
        let out = std::process::Command::new(one.path().join("built")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stderr), "v7\n");
    }

    #[test]
    fn every_input_changes_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let good = part(dir.path());
        let key = |part: &Go| Program::new(part, dir.path(), &|_| {}).unwrap().key;
        let first = key(&good);
        let mut other = good.clone();
        other.set.insert("main.version".to_owned(), "v8".to_owned());
        assert_ne!(key(&other), first);
        fs::write(dir.path().join("m/go.sum"), "").unwrap();
        assert_ne!(key(&good), first);
        fs::write(dir.path().join("m/go.mod"), "module cairn.invalid/m\n").unwrap();
        assert!(Program::new(&good, dir.path(), &|_| {}).unwrap_err().to_string().contains("no Go version"));
    }
}
