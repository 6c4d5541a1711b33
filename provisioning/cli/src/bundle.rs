//! Bundles: a recipe becomes a manifest, chunks and an index; a built bundle becomes a signed target.

use std::path::{Path, PathBuf};

use cairn_bundle::durable;
use cairn_bundle::manifest::{
    self, Component, ComponentKind, Kind, Layer, Manifest, Persist, StacksOn, Uki, VerityParams,
};
use cairn_bundle::publish::{self, Options};
use cairn_bundle::store::Store;
use cairn_bundle::{Sha256Digest, verity};
use cairn_image::layer::recipe::{self, Bundle as Named};
use cairn_image::layer::{self, Pinning, lock, stack};
use cairn_image::toolbox::Toolbox;
use serde::Serialize;

use crate::args::{Bundle, BundleBuild, Global};
use crate::content::{copy, open_store, read_index, transfer, verify};
use crate::error::{Error, read_limited, read_text};
use crate::output::{Output, bytes, table};
use crate::{keys, progress, repo};

/// A UKI with a large initramfs.
const UKI_BYTES: u64 = 512 << 20;

/// What a build made.
#[derive(Debug, Serialize)]
struct BuiltView {
    /// The target path that `bundle add` will sign.
    target: String,
    components: Vec<ComponentView>,
    /// Where the archive was not what the lock file says.
    lock_differences: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ComponentView {
    name: String,
    sha256: String,
    bytes: u64,
    chunks: u64,
    /// Bytes of chunks that the folder did not have yet, compressed.
    new_bytes: u64,
}

pub(crate) fn run(command: Bundle, global: &Global, out: &Output) -> Result<(), Error> {
    match command {
        Bundle::Build(build) => self::build(&build, out),
        Bundle::Add { dir, keys, repo } => add(&dir, &keys.keys, &repo.repo, global, out),
        Bundle::List { repo } => {
            let targets = repo::targets(&repo::open(&repo.repo)?)?;
            out.print(&targets, |targets| targets.join("\n"))
        }
    }
}

fn build(options: &BundleBuild, out: &Output) -> Result<(), Error> {
    let path = &options.recipe;
    let recipe = Recipe::read(path)?;
    let (kind, name) = name_of(path, &recipe.bundle().name)?;
    std::fs::create_dir_all(&options.out)
        .map_err(|e| Error::Failed(format!("cannot create {}: {e}", options.out.display())))?;
    let store = Store::open(&options.out.join("chunks.castr")).map_err(Error::failed)?;
    let (image, differences, packed) = match &options.layer {
        Some(image) => (image.clone(), Vec::new(), None),
        None => {
            let (image, differences) = build_layer(options, &recipe)?;
            // Packing costs more than building: what was packed once lies beside the cached layer.
            let beside = image.with_file_name(format!("chunks-{}.castr", options.level));
            (image, differences, Some(Store::open(&beside).map_err(Error::failed)?))
        }
    };
    let mut components = Vec::new();
    let mut views = Vec::new();
    if let Some(uki) = &options.uki {
        let version = uki_version(uki)?;
        let (mut component, view) = cut(uki, "uki", ComponentKind::Uki, &store, options)?;
        component.uki = Some(Uki { version, kernel: None });
        components.push(component);
        views.push(view);
    }
    let kept = options.out.join(format!("{}.erofs", recipe.layer_name()));
    place(&image, &kept)?;
    let (mut component, view) =
        cut(&kept, recipe.layer_name(), ComponentKind::Layer, packed.as_ref().unwrap_or(&store), options)?;
    if let Some(packed) = &packed {
        transfer(&read_index(&options.out, &component)?, packed, &store, "placing")?;
    }
    component.layer = Some(Layer {
        verity: seal(&kept, component.length)?,
        stacks_on: recipe.stacks_on(),
        persist: recipe.persist(),
        units: Vec::new(),
    });
    components.push(component);
    views.push(view);
    let bundle_version = options.bundle_version.clone().unwrap_or_else(|| recipe.bundle().version.clone());
    let manifest = Manifest { version: 1, kind, name, bundle_version, components };
    let text = manifest.to_bytes();
    // What a node would refuse is not written.
    manifest::parse(&text).map_err(|e| Error::input(path, e))?;
    durable::write(&options.out.join("manifest.json"), &text).map_err(Error::failed)?;
    let view = BuiltView { target: manifest.target_path(), components: views, lock_differences: differences };
    out.print(&view, |view| {
        let rows: Vec<_> = view
            .components
            .iter()
            .map(|c| vec![c.name.clone(), bytes(c.bytes), c.chunks.to_string(), bytes(c.new_bytes)])
            .collect();
        format!("{}\n{}", view.target, table(&["COMPONENT", "SIZE", "CHUNKS", "NEW"], &rows))
    })
}

/// A recipe of either kind.
enum Recipe {
    /// Of a whole root.
    Root(recipe::Recipe),
    /// Of a layer that stacks on one.
    Stack(stack::recipe::Recipe),
}

impl Recipe {
    fn read(path: &Path) -> Result<Self, Error> {
        let text = read_text(path, recipe::RECIPE_BYTES as u64)?;
        let read = if stack::recipe::is_stack(&text) {
            stack::recipe::parse(&text).map(Self::Stack)
        } else {
            recipe::parse(&text).map(Self::Root)
        };
        read.map_err(|e| Error::input(path, e))
    }

    fn bundle(&self) -> &Named {
        match self {
            Self::Root(recipe) => &recipe.bundle,
            Self::Stack(recipe) => &recipe.bundle,
        }
    }

    fn layer_name(&self) -> &str {
        match self {
            Self::Root(recipe) => &recipe.layer.name,
            Self::Stack(recipe) => &recipe.layer.name,
        }
    }

    fn stacks_on(&self) -> StacksOn {
        match self {
            Self::Root(_) => StacksOn::None,
            Self::Stack(recipe) => match recipe.layer.stacks_on {
                stack::recipe::StacksOn::Any => StacksOn::Any,
            },
        }
    }

    fn persist(&self) -> Persist {
        match self {
            Self::Root(_) => Persist::default(),
            Self::Stack(recipe) => {
                let persist = recipe.layer.persist.clone();
                Persist { etc: persist.etc, var: persist.var }
            }
        }
    }
}

fn name_of(path: &Path, name: &str) -> Result<(Kind, String), Error> {
    let (kind, name) = name.split_once('/').ok_or_else(|| {
        Error::input(path, format!("bundle.name {name:?} is written kind/name, such as os/base"))
    })?;
    Ok((kind.parse().map_err(|e| Error::input(path, e))?, name.to_owned()))
}

fn build_layer(options: &BundleBuild, recipe: &Recipe) -> Result<(PathBuf, Vec<String>), Error> {
    let lock_path = options.recipe.with_extension("lock");
    let locked = match durable::read(&lock_path, lock::LOCK_BYTES as u64)
        .map_err(|e| Error::input(&lock_path, e))?
    {
        Some(text) => {
            let text = String::from_utf8(text).map_err(|_| Error::input(&lock_path, "is not UTF-8 text"))?;
            Some(lock::parse(&text).map_err(|e| Error::input(&lock_path, e))?)
        }
        None if options.locked => {
            return Err(Error::input(&lock_path, "there is no lock file; write one with --update-lock"));
        }
        None => None,
    };
    let pinning = match (options.locked, options.update_lock) {
        (true, _) => Pinning::Strict,
        (_, true) => Pinning::Update,
        _ => Pinning::Prefer,
    };
    let bar = progress::steps("toolbox");
    let say = |line: &str| progress::step(&bar, line);
    let failed = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        Error::Failed(text)
    };
    let toolbox = Toolbox::ensure(&say).map_err(|e| failed(&e))?;
    let how = layer::Options { lock: locked.clone(), pinning, fresh: None };
    let home = options.recipe.parent().unwrap_or(Path::new("."));
    let built = match recipe {
        Recipe::Root(recipe) => layer::build(&toolbox, recipe, &how, &say),
        Recipe::Stack(recipe) => stack::build(&toolbox, recipe, home, &how, &say),
    };
    let built = built.map_err(|e| failed(&e))?;
    bar.finish_and_clear();
    if options.update_lock {
        durable::write(&lock_path, lock::format(&built.lock).as_bytes()).map_err(Error::failed)?;
        return Ok((built.image, Vec::new()));
    }
    durable::write(&options.out.join("recipe.lock"), lock::format(&built.lock).as_bytes())
        .map_err(Error::failed)?;
    if !built.differences.is_empty() {
        eprintln!(
            "cairnctl: the archive has moved on since {} was written; this build is not the one it pins:",
            lock_path.display()
        );
        built.differences.iter().for_each(|line| eprintln!("  {line}"));
    }
    Ok((built.image, built.differences))
}

/// A copy, never a link: whoever changes the result must not change the cache.
fn place(from: &Path, to: &Path) -> Result<(), Error> {
    let failed =
        |e: std::io::Error| Error::Failed(format!("cannot copy {} to {}: {e}", from.display(), to.display()));
    if from.canonicalize().ok().is_some_and(|from| to.canonicalize().is_ok_and(|to| from == to)) {
        return Ok(());
    }
    if !from.is_file() {
        return Err(Error::input(from, "there is no such file"));
    }
    if to.exists() {
        std::fs::remove_file(to).map_err(failed)?;
    }
    std::fs::copy(from, to).map(|_| ()).map_err(failed)
}

/// Cuts a file into the store, and writes its index.
fn cut(
    path: &Path,
    name: &str,
    kind: ComponentKind,
    store: &Store,
    options: &BundleBuild,
) -> Result<(Component, ComponentView), Error> {
    let total = std::fs::metadata(path).map_err(|e| Error::input(path, e))?.len();
    let bar = progress::bytes(&format!("cutting {name}"), total);
    let how = Options { level: options.level, ..Options::default() };
    let published = publish::component(path, store, &how, &mut |done| bar.set_position(done.bytes))
        .map_err(Error::failed)?;
    bar.finish_and_clear();
    published.write_index(&options.out).map_err(Error::failed)?;
    let view = ComponentView {
        name: name.to_owned(),
        sha256: published.sha256.to_string(),
        bytes: published.length,
        chunks: published.progress.chunks,
        new_bytes: published.progress.new_bytes,
    };
    let component = Component {
        name: name.to_owned(),
        kind,
        length: published.length,
        sha256: published.sha256,
        index: published.index_ref(),
        uki: None,
        layer: None,
    };
    Ok((component, view))
}

/// The verity tree's parameters. The salt is empty: it guards nothing here, and a fixed one keeps the tree reproducible.
fn seal(path: &Path, length: u64) -> Result<VerityParams, Error> {
    const BLOCK: u32 = verity::BLOCK_BYTES as u32;
    if !length.is_multiple_of(BLOCK.into()) {
        return Err(Error::input(
            path,
            format!("has {length} bytes, which is no whole number of {BLOCK}-byte blocks"),
        ));
    }
    let file = std::fs::File::open(path).map_err(|e| Error::input(path, e))?;
    let bar = progress::bytes("sealing", length);
    let mut builder = verity::TreeBuilder::new(length / u64::from(BLOCK), &[]).map_err(Error::failed)?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, bar.wrap_read(file));
    let mut block = [0; verity::BLOCK_BYTES];
    // The node computes the tree itself; only its root is signed.
    let mut forget = |_: u64, _: &[u8; verity::BLOCK_BYTES]| Ok(());
    for _ in 0..length / u64::from(BLOCK) {
        std::io::Read::read_exact(&mut reader, &mut block).map_err(|e| Error::input(path, e))?;
        builder.push(&block, &mut forget).map_err(Error::failed)?;
    }
    let root_hash = builder.finish(&mut forget).map_err(Error::failed)?;
    bar.finish_and_clear();
    Ok(VerityParams {
        root_hash,
        salt: Vec::new(),
        data_block_size: BLOCK,
        hash_block_size: BLOCK,
        data_blocks: length / u64::from(BLOCK),
    })
}

/// `VERSION_ID` in a UKI's `.osrel` section.
fn uki_version(path: &Path) -> Result<String, Error> {
    let image = read_limited(path, UKI_BYTES)?;
    let sections = cairn_image::efi::uki::sections(&image).map_err(|e| Error::input(path, e))?;
    let release =
        sections.iter().find(|(name, _)| name == ".osrel").map(|(_, bytes)| String::from_utf8_lossy(bytes));
    let version =
        release.as_deref().unwrap_or_default().lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    let version =
        version.map(|text| text.trim_matches(['"', '\'', '\0']).to_owned()).filter(|text| !text.is_empty());
    version.ok_or_else(|| {
        Error::input(path, "is not a UKI whose .osrel names a VERSION_ID; build one with make image")
    })
}

fn add(dir: &Path, signers: &Path, to: &Path, global: &Global, out: &Output) -> Result<(), Error> {
    let path = dir.join("manifest.json");
    let text = read_limited(&path, manifest::MAX_MANIFEST_BYTES)?;
    let manifest = manifest::parse(&text).map_err(|e| Error::input(&path, e))?;
    let repository = repo::open(to)?;
    let target = manifest.target_path();
    let digest = Sha256Digest::of(&text);
    let known = repository.targets().map_err(repo::failed)?;
    if let Some((_, _, file)) = known.iter().find(|(_, path, _)| *path == target) {
        if file.hashes.get("sha256").is_some_and(|known| *known == digest.to_string()) {
            return report(out, &target, true, &[]);
        }
        return Err(Error::Failed(format!(
            "{target} is published with other contents; a version never changes, so give this one another \
             (bundle build --bundle-version)"
        )));
    }
    // All of it is read, and the keys are there, before anything is changed.
    keys::load_all(signers)?;
    let (from, into) = (open_store(dir)?, open_store(to)?);
    for component in &manifest.components {
        verify(dir, &from, component)?;
    }
    for component in &manifest.components {
        copy(dir, to, &from, &into, component)?;
    }
    let now = repo::now(global);
    repository.stage_target(manifest.kind, &target, &text, now).map_err(repo::failed)?;
    match repo::sign_and_commit(&repository, signers, now)? {
        Some(_) => report(out, &target, true, &[]),
        None => {
            let missing: Vec<String> = repository
                .staged()
                .map_err(repo::failed)?
                .iter()
                .flat_map(|staged| {
                    staged.needs.iter().filter(|need| !need.is_met()).map(|need| {
                        format!("{} has {} of {} signatures", staged.role, need.signed.len(), need.threshold)
                    })
                })
                .collect();
            report(out, &target, false, &missing)
        }
    }
}

fn report(out: &Output, target: &str, published: bool, missing: &[String]) -> Result<(), Error> {
    out.print(&serde_json::json!({ "target": target, "signed": published, "missing": missing }), |_| {
        if published {
            format!("{target} is in the repository; upload it with: cairnctl publish")
        } else {
            format!(
                "{target} is staged; {}\nlet holders sign with: cairnctl repo sign --key FILE --repo DIR, then run: \
                 cairnctl repo commit",
                missing.join("; ")
            )
        }
    })
}
