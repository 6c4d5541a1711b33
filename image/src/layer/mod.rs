//! Layers: erofs images of Debian packages, the same bytes whenever they are built from the same inputs.
//!
//! 1. [`resolve`]: apt (in the toolbox, against its signed lists) names every package with its digest; a lock file
//!    pins them. The kernel's modules come from the very package that the boot image uses.
//! 2. The hash of recipe, packages, tools and this code names the result in the cache: built once, found again.
//! 3. mmdebstrap makes a root from exactly those files; `finish.sh` removes what differs from build to build.
//! 4. [`erofs`]: `mkfs.erofs --chunksize=65536` with fixed times, UUID and one worker.

pub mod erofs;
pub mod lock;
pub mod recipe;
pub(crate) mod resolve;
mod root;
pub mod stack;

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{self, Error};
use crate::initramfs::modules::{Dependencies, name_of};
use crate::kernel::{self, Kernel};
use crate::toolbox::{self, Toolbox};
use lock::{Lock, LockedPackage};
use recipe::Recipe;

pub use resolve::Pinning;

/// Raise when the way layers are built changes in a way that no input shows.
const FORMAT: u32 = 1;

/// A built layer. It lies in the cache and is complete.
#[derive(Debug, Clone)]
pub struct Built {
    /// The erofs image.
    pub image: PathBuf,
    /// Hash of the inputs, hexadecimal: the cache's key.
    pub inputs: String,
    /// Length of the image in bytes.
    pub length: u64,
    /// What it was built from.
    pub lock: Lock,
    /// Where that is not what the lock file said, one line each.
    pub differences: Vec<String>,
    /// Whether it was in the cache already.
    pub cached: bool,
    /// `uname -r` of the kernels whose modules are in it.
    pub kernels: Vec<String>,
}

/// How to build.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The recipe's lock file, where there is one.
    pub lock: Option<Lock>,
    /// What to do when the archive has moved on.
    pub pinning: Pinning,
    /// Builds even if the cache has it, and leaves the cache alone: the image goes to this directory.
    pub fresh: Option<PathBuf>,
}

/// Builds the layer of `recipe`, or finds it in the cache. About a minute with a near mirror, then nothing.
/// `progress` gets one line per step.
///
/// # Errors
/// See [`Error`]; a failed build leaves nothing in the cache.
pub fn build(
    toolbox: &Toolbox,
    recipe: &Recipe,
    options: &Options,
    progress: &dyn Fn(&str),
) -> Result<Built, Error> {
    let layer = &recipe.layer;
    let kernels = ensure_kernels(toolbox, recipe, progress)?;
    progress(&format!("layer {}: resolving {} packages", layer.name, layer.packages.len()));
    let resolved = resolve::resolve(toolbox, recipe, options.lock.as_ref(), options.pinning)?;
    let taken: Vec<LockedPackage> = resolved.downloads.iter().map(|d| d.package.clone()).collect();
    let differences = options.lock.as_ref().map(|lock| lock::differences(lock, &taken)).unwrap_or_default();
    let inputs = hash_inputs(recipe, &taken, &kernels)?;
    let cache = toolbox::cache_dir()?.join("layers");
    let home = options.fresh.clone().unwrap_or_else(|| cache.join(&inputs[..32]));
    let image = home.join(format!("{}.erofs", layer.name));
    let mut built = Built {
        image: image.clone(),
        inputs: inputs.clone(),
        length: 0,
        lock: Lock { format: 1, packages: taken },
        differences,
        cached: false,
        kernels: kernels.iter().map(|kernel| kernel.release.clone()).collect(),
    };
    fs::create_dir_all(&cache).map_err(error::file("create", &cache))?;
    let waiting = || progress(&format!("layer {}: another process builds a layer, waiting", layer.name));
    let _lock = root::lock(&cache, &waiting)?;
    if options.fresh.is_none()
        && let Ok(found) = fs::metadata(&image)
    {
        progress(&format!("layer {}: in the cache, {}", layer.name, image.display()));
        return Ok(Built { length: found.len(), cached: true, ..built });
    }
    let work = root::Work::new(&cache)?;
    resolve::download(toolbox, recipe, &resolved, work.path(), progress)?;
    write_parts(work.path(), recipe, &kernels)?;
    root::bootstrap(toolbox, recipe, work.path(), progress)?;
    progress(&format!("layer {}: taking out what differs from build to build", layer.name));
    root::finish(toolbox, work.path(), layer.epoch, &kernels)?;
    progress(&format!("layer {}: writing erofs", layer.name));
    let fresh = work.path().join("layer.erofs");
    erofs::write(toolbox, &work.path().join("root"), &fresh, layer.epoch, &erofs::uuid_of(&inputs))?;
    root::keep(&fresh, &image)?;
    built.length = fs::metadata(&image).map_err(error::file("find", &image))?.len();
    progress(&format!("layer {}: {} MB in {}", layer.name, built.length / 1_000_000, image.display()));
    Ok(built)
}

fn ensure_kernels(toolbox: &Toolbox, recipe: &Recipe, progress: &dyn Fn(&str)) -> Result<Vec<Kernel>, Error> {
    let flavours = recipe.layer.kernel.iter().flat_map(|kernel| kernel.flavours.iter());
    let flavour = |flavour: &recipe::Flavour| match flavour {
        recipe::Flavour::Generic => kernel::Flavour::Generic,
        recipe::Flavour::Cloud => kernel::Flavour::Cloud,
    };
    flavours.map(|wanted| Kernel::ensure(toolbox, flavour(wanted), progress)).collect()
}

/// Everything that the image's bytes depend on, as far as we decide it.
fn hash_inputs(recipe: &Recipe, packages: &[LockedPackage], kernels: &[Kernel]) -> Result<String, Error> {
    let text = serde_json::to_string(recipe)
        .map_err(|e| Error::unexpected("the recipe", format!("cannot be written as JSON: {e}")))?;
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    part(&format!("cairn layer {FORMAT}"));
    part(&Toolbox::key());
    part(root::FINISH);
    part(&text);
    for package in packages {
        part(&package.name);
        part(&package.sha256);
    }
    for kernel in kernels {
        part(&kernel.release);
        part(&kernel.package.sha256);
        for name in crate::drivers::names() {
            part(name);
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// Writes the recipe's parts to where `finish.sh` reads them.
fn write_parts(work: &Path, recipe: &Recipe, kernels: &[Kernel]) -> Result<(), Error> {
    let layer = &recipe.layer;
    let put = |name: &str, bytes: &str| {
        let path = work.join(name);
        fs::write(&path, bytes).map_err(error::file("write", &path))
    };
    let lines = |list: &mut dyn Iterator<Item = String>| list.map(|line| line + "\n").collect::<String>();
    put("remove", &lines(&mut layer.remove.iter().cloned()))?;
    put("directories", &lines(&mut layer.directories.iter().cloned()))?;
    let files = work.join("files");
    fs::create_dir_all(&files).map_err(error::file("create", &files))?;
    for (number, file) in layer.files.iter().enumerate() {
        // TOML's multi-line strings start on the line after the quotes in a recipe that is nice to read.
        put(&format!("files/{}", number + 1), file.content.trim_start_matches('\n'))?;
    }
    put("files/list", &lines(&mut layer.files.iter().map(|file| format!("{} {}", file.mode, file.path))))?;
    let null = |dir: &str, name: &String| format!("/etc/systemd/{dir}/{name} /dev/null");
    let masks = layer.mask.iter().map(|unit| null("system", unit));
    let generators = layer.mask_generators.iter().map(|name| null("system-generators", name));
    let links = layer.links.iter().map(|link| format!("{} {}", link.path, link.target));
    put("links", &lines(&mut links.chain(masks).chain(generators)))?;
    let mut names = String::new();
    for kernel in kernels {
        names.push_str(&format!("{} {}\n", kernel.release, kernel.modules().display()));
        let chosen = choose_modules(recipe, kernel)?;
        put(&format!("modules-{}", kernel.release), &lines(&mut chosen.into_iter()))?;
    }
    put("kernels", &names)
}

/// Module files of one kernel: the recipe's, the initramfs' and all they depend on.
fn choose_modules(recipe: &Recipe, kernel: &Kernel) -> Result<Vec<String>, Error> {
    let Some(wanted) = &recipe.layer.kernel else { return Ok(Vec::new()) };
    let read = |name: &str| {
        let path = kernel.modules().join(name);
        fs::read_to_string(&path).map_err(error::file("read", &path))
    };
    let mut names = expand(&read("modules.dep")?, &wanted.modules);
    if wanted.initramfs_drivers {
        names.extend(crate::drivers::names().map(ToOwned::to_owned));
    }
    let selection = Dependencies::parse(&read("modules.dep")?)
        .select(names.iter().map(String::as_str), &read("modules.softdep")?);
    Ok(selection.paths.into_iter().collect())
}

/// Names of the modules in `modules.dep` that the patterns mean. One without `/` is a name and is kept as it is.
fn expand(modules_dep: &str, patterns: &[String]) -> Vec<String> {
    let paths: Vec<&str> =
        modules_dep.lines().filter_map(|line| line.split_once(':')).map(|(path, _)| path).collect();
    let mut names = Vec::new();
    for pattern in patterns {
        if pattern.contains('/') {
            let fits = |path: &&&str| cairn_protocol::select::glob(pattern, path);
            names.extend(paths.iter().filter(fits).map(|path| name_of(path)));
        } else {
            names.push(pattern.clone());
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_module_names() {
        let dep = "kernel/net/netfilter/nf-tables.ko.xz: kernel/lib/x.ko.xz\nkernel/net/sched/sch_fq.ko.xz:\nkernel/fs/ext4/ext4.ko.xz:\n";
        let patterns = ["kernel/net/*", "tun", "kernel/none/*"].map(str::to_owned);
        assert_eq!(expand(dep, &patterns), ["nf_tables", "sch_fq", "tun"]);
    }
}
