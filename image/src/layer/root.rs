//! Making the root that becomes a layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::recipe::Recipe;
use crate::error::{self, Error};
use crate::kernel::Kernel;
use crate::toolbox::{Toolbox, privileged, run};

/// What is done to a root before it is written.
pub(super) const FINISH: &str = include_str!("finish.sh");

/// One build at a time: two would fetch the same packages into the same files. Held until the answer is dropped.
pub(super) fn lock(cache: &Path, waiting: &dyn Fn()) -> Result<fs::File, Error> {
    let path = cache.join("lock");
    let lock = fs::File::create(&path).map_err(error::file("create", &path))?;
    if lock.try_lock().is_err() {
        waiting();
        lock.lock().map_err(error::file("lock", &path))?;
    }
    Ok(lock)
}

/// Moves a finished image to its place, durably.
pub(super) fn keep(fresh: &Path, image: &Path) -> Result<(), Error> {
    let home = image.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(home).map_err(error::file("create", home))?;
    fs::File::open(fresh).and_then(|f| f.sync_all()).map_err(error::file("sync", fresh))?;
    fs::rename(fresh, image).map_err(error::file("rename to", image))
}

/// A work directory in the cache, with a root's files in it, removed when dropped.
pub(super) struct Work(PathBuf);

impl Work {
    /// Makes one, and removes those whose makers were killed.
    pub(super) fn new(cache: &Path) -> Result<Self, Error> {
        for entry in fs::read_dir(cache).map_err(error::file("list", cache))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let maker =
                name.strip_prefix(".work-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove(&entry.path());
            }
        }
        for number in 0..u32::MAX {
            let path = cache.join(format!(".work-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(error::file("create", &path)(e)),
            }
        }
        Err(Error::unexpected("the layer cache", "is full of work directories"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Its files are root's.
fn remove(path: &Path) {
    let mut command = privileged("rm");
    command.args(["-rf", "--one-file-system", "--"]).arg(path).stderr(Stdio::null());
    // What is left is removed by the next build.
    let _ = command.status();
}

/// Runs mmdebstrap on `work/repo`, into `work/root`.
pub(super) fn bootstrap(
    toolbox: &Toolbox,
    recipe: &Recipe,
    work: &Path,
    progress: &dyn Fn(&str),
) -> Result<(), Error> {
    let layer = &recipe.layer;
    let mut command = toolbox.enter().bind(work).die_with_parent().command("mmdebstrap");
    command.env("SOURCE_DATE_EPOCH", layer.epoch.to_string()).env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["--mode=root", "--variant=essential", "--format=directory"]);
    // The checks of the root's surroundings are for other modes; the repository is ours, verified file by file.
    command.args(["--skip=check/empty", "--aptopt=APT::Install-Recommends \"false\""]);
    command.args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io"]);
    command.arg(format!("--include={}", layer.packages.join(",")));
    for path in &layer.exclude {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(&layer.suite).arg(work.join("root"));
    command.arg(format!("deb [trusted=yes] copy://{}/ ./", work.join("repo").display()));
    Ok(run(&mut command, "mmdebstrap", &|line| {
        if let Some(step) = line.strip_prefix("I: ") {
            progress(&format!("layer {}: {step}", layer.name));
        }
    })?)
}

/// Runs `finish.sh`.
pub(super) fn finish(toolbox: &Toolbox, work: &Path, epoch: u64, kernels: &[Kernel]) -> Result<(), Error> {
    let mut enter = toolbox.enter().bind(work);
    for kernel in kernels {
        enter = enter.bind_ro(kernel.modules());
    }
    let mut command = enter.command("sh");
    command.args(["-euc", FINISH, "finish.sh"]).arg(work).arg(epoch.to_string());
    Ok(run(&mut command, "finishing the root", &|_| {})?)
}
