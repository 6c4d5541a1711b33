//! Static programs built from our own crates, as the agent is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::elf;
use crate::error::{self, Error};
use crate::layer::stack::recipe::Cargo;
use crate::toolbox::{self, run};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the binary; cargo knows what is up to date. Answers with a file whose name has its digest, so that it stays as it is.
///
/// # Errors
/// When cargo fails, or what it makes needs a dynamic loader.
pub(crate) fn build(part: &Cargo, home: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    let folder = home.join(&part.folder);
    let folder = folder.canonicalize().map_err(error::file("find", &folder))?;
    let cache = toolbox::cache_dir()?.join("crates");
    std::fs::create_dir_all(&cache).map_err(error::file("create", &cache))?;
    progress(&format!("cargo: building {}", part.bin));
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(&folder).args([
        "build",
        "--quiet",
        "--locked",
        "--profile",
        "agent",
        "--target",
        TARGET,
    ]);
    command.args(["--bin", &part.bin]).env("CARGO_TARGET_DIR", cache.join("target"));
    // Panics name source files: neither the workspace's place nor the registry's is anybody's business.
    let workspace =
        folder.ancestors().filter(|dir| dir.join("Cargo.lock").is_file()).last().unwrap_or(&folder);
    let mut flags =
        format!("-C target-feature=+crt-static --remap-path-prefix={}=/build", workspace.display());
    if let Some(cargo) = cargo_home() {
        flags.push_str(&format!(" --remap-path-prefix={}=/cargo", cargo.display()));
    }
    command.env("RUSTFLAGS", flags).env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    run(&mut command, &format!("cargo build --bin {}", part.bin), &|_| {})?;
    let built = cache.join("target").join(TARGET).join("agent").join(&part.bin);
    let bytes = std::fs::read(&built).map_err(error::file("read", &built))?;
    elf::check_static(&bytes).map_err(|e| Error::unexpected(built.display().to_string(), e.to_string()))?;
    let kept = cache.join(format!("{}-{}", part.bin, &super::digest(&built)?[..32]));
    if !kept.exists() {
        let tmp = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&cache);
        let tmp = tmp.map_err(error::file("create a file in", &cache))?.into_temp_path();
        std::fs::copy(&built, &tmp).map_err(error::file("copy", &built))?;
        std::fs::rename(&tmp, &kept).map_err(error::file("rename to", &kept))?;
    }
    Ok(kept)
}

fn cargo_home() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CARGO_HOME").or_else(|| set("HOME").map(|home| home.join(".cargo")))
}
