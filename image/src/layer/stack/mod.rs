//! Layers that stack on any base: static programs, container images, and unpacked Debian packages beyond the base.
//!
//! 1. [`recipe`]: what is wanted. [`crate::parts`] finds out what each part is.
//! 2. The hash of recipe, parts, tools and this code names the result in the cache.
//! 3. Parts are built, fetched and unpacked; images become [`crate::oci`] archives beside a list that names them.
//! 4. `mkfs.erofs`, as for a base.

mod check;
mod index;
pub mod recipe;

use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::lock::{self, Lock, LockedPackage};
use super::root::Work;
use super::{Built, Options, erofs, root};
use crate::error::{self, Error};
use crate::oci;
use crate::parts::tree::{Node, Source};
use crate::parts::{Plan, Tools, debian};
use crate::toolbox::{self, Toolbox};
use index::Entry;
use recipe::Recipe;

/// Raise when the way these layers are built changes in a way that no input shows.
const FORMAT: u32 = 1;

/// Where archives lie in the layer.
const ARCHIVES: &str = "/usr/lib/cairn/images";

/// Builds the layer of `recipe`, or finds it in the cache. `home`: the recipe's folder, to which its paths are relative.
/// Go programs take minutes the first time, each. `progress` gets one line per step.
///
/// # Errors
/// See [`Error`]; a failed build leaves nothing in the cache but the parts that were done.
pub fn build(
    toolbox: &Toolbox,
    recipe: &Recipe,
    home: &Path,
    options: &Options,
    progress: &dyn Fn(&str),
) -> Result<Built, Error> {
    let name = format!("layer {}", recipe.layer.name);
    let tools = Tools { toolbox, progress };
    progress(&format!("{name}: finding out what its parts are"));
    let mut plans = Vec::new();
    let mut taken: Vec<LockedPackage> = Vec::new();
    for parts in recipe.parts() {
        let resolve = |part| debian::resolve(&tools, part, home, options.lock.as_ref(), options.pinning);
        let packages = parts.debian.map(resolve).transpose()?;
        taken.extend(packages.iter().flat_map(debian::Packages::locked).cloned());
        plans.push(Plan::new(&tools, parts, home, packages)?);
    }
    taken.sort();
    taken.dedup();
    let differences = options.lock.as_ref().map(|lock| lock::differences(lock, &taken)).unwrap_or_default();
    let inputs = hash_inputs(recipe, &plans)?;
    let cache = toolbox::cache_dir()?.join("layers");
    let kept = options.fresh.clone().unwrap_or_else(|| cache.join(&inputs[..32]));
    let image = kept.join(format!("{}.erofs", recipe.layer.name));
    let mut built = Built {
        image: image.clone(),
        inputs: inputs.clone(),
        length: 0,
        lock: Lock { format: 1, packages: taken },
        differences,
        cached: false,
        kernels: Vec::new(),
    };
    fs::create_dir_all(&cache).map_err(error::file("create", &cache))?;
    if options.fresh.is_some() || !image.exists() {
        plans.iter().try_for_each(|plan| plan.prepare(&tools))?;
    }
    let _lock =
        root::lock(&cache, &|| progress(&format!("{name}: another process builds a layer, waiting")))?;
    if options.fresh.is_none()
        && let Ok(found) = fs::metadata(&image)
    {
        progress(&format!("{name}: in the cache, {}", image.display()));
        return Ok(Built { length: found.len(), cached: true, ..built });
    }
    let work = Work::new(&cache)?;
    let (own, images) = plans.split_first().ok_or_else(|| Error::unexpected("the recipe", "has no layer"))?;
    let mut tree = own.gather(&tools, work.path())?;
    let mut entries = Vec::new();
    for (image, plan) in recipe.image.iter().zip(images) {
        progress(&format!("{name}: image {}", image.reference));
        let archive = work.path().join(&image.archive);
        let digest = write_image(image, plan, &tools, work.path(), &archive)?;
        tree.insert(
            &format!("{ARCHIVES}/{}", image.archive),
            Node::File { source: Source::Path(archive), mode: 0o644 },
        )?;
        entries.push(Entry {
            reference: &image.reference,
            archive: &image.archive,
            digest,
            role: image.role,
        });
    }
    if !entries.is_empty() {
        let text = index::write(&recipe.images.facts, &entries)?;
        tree.insert(&recipe.image_index(), Node::File { source: Source::Bytes(text), mode: 0o644 })?;
    }
    let files = work.path().join("root");
    fs::create_dir(&files).map_err(error::file("create", &files))?;
    tree.write(&files)?;
    progress(&format!("{name}: writing erofs"));
    let fresh = work.path().join("layer.erofs");
    erofs::write_as_root(toolbox, &files, &fresh, recipe.layer.epoch, &erofs::uuid_of(&inputs))?;
    root::keep(&fresh, &image)?;
    built.length = fs::metadata(&image).map_err(error::file("find", &image))?.len();
    progress(&format!("{name}: {} MB in {}", built.length / 1_000_000, image.display()));
    Ok(built)
}

fn write_image(
    image: &recipe::Image,
    plan: &Plan<'_>,
    tools: &Tools<'_>,
    work: &Path,
    archive: &Path,
) -> Result<String, Error> {
    let tree = plan.gather(tools, work)?;
    let what = oci::Image {
        reference: &image.reference,
        entrypoint: &image.entrypoint,
        env: &image.env,
        user: image.user.as_deref(),
    };
    let scratch = work.join("image-layer");
    let digest = oci::write(&what, &tree, archive, &scratch)?;
    fs::remove_file(&scratch).map_err(error::file("remove", &scratch))?;
    Ok(digest)
}

/// Everything that the image's bytes depend on, as far as we decide it.
fn hash_inputs(recipe: &Recipe, plans: &[Plan<'_>]) -> Result<String, Error> {
    // The bundle's version is the manifest's business.
    let text = serde_json::to_string(&(&recipe.layer, &recipe.images, &recipe.image, recipe.image_index()))
        .map_err(|e| Error::unexpected("the recipe", format!("cannot be written as JSON: {e}")))?;
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    part(&format!("cairn stacked layer {FORMAT}"));
    part(&Toolbox::key());
    part(&text);
    for plan in plans {
        part(&plan.inputs().len().to_string());
        plan.inputs().iter().for_each(|input| part(input));
    }
    Ok(hex::encode(hash.finalize()))
}
