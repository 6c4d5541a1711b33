//! Recipes of layers that stack on a base: what is in them, as a release engineer writes it.
//!
//! TOML, strict, like the recipes of whole roots; `stacks-on` tells them apart. `docs/layers.md` describes every key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::recipe::{Bundle, DEFAULT_EPOCH, File, Link, RECIPE_BYTES, RecipeError};
use super::check;

/// A recipe file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// The format: 1.
    pub format: u32,
    /// The bundle that carries the layer.
    pub bundle: Bundle,
    /// The layer's own files.
    pub layer: Layer,
    /// What the list of images says beside them.
    #[serde(default)]
    pub images: Images,
    /// Container images, as archives in the layer.
    #[serde(default, rename = "image")]
    pub image: Vec<Image>,
}

/// A layer that goes on top of any base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Layer {
    /// Its name: a DNS label.
    pub name: String,
    /// What it goes on.
    pub stacks_on: StacksOn,
    /// Time stamp of every file, seconds since 1970.
    #[serde(default = "default_epoch")]
    pub epoch: u64,
    /// What outlives a boot.
    #[serde(default)]
    pub persist: Persist,
    /// Directories that exist, root's, 0755 (`/tmp` and `/var/tmp` 1777).
    #[serde(default)]
    pub directories: Vec<String>,
    /// Files of the recipe.
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    /// Symbolic links.
    #[serde(default, rename = "link")]
    pub links: Vec<Link>,
    /// Programs built from Go modules.
    #[serde(default)]
    pub go: Vec<Go>,
    /// Static programs built from our own crates.
    #[serde(default)]
    pub cargo: Vec<Cargo>,
    /// Files of Debian packages.
    #[serde(default)]
    pub debian: Option<Debian>,
    /// Files that somebody else publishes.
    #[serde(default)]
    pub url: Vec<Url>,
    /// Files beside the recipe.
    #[serde(default)]
    pub local: Vec<Local>,
}

fn default_epoch() -> u64 {
    DEFAULT_EPOCH
}

/// What a stacked layer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StacksOn {
    /// Any base.
    Any,
}

/// Paths kept on DATA; see the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persist {
    /// Below `/etc`, without it.
    #[serde(default)]
    pub etc: Vec<String>,
    /// Below `/var`, without it.
    #[serde(default)]
    pub var: Vec<String>,
}

/// The list of images in the layer, a JSON object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Images {
    /// Where it is. Default `/usr/lib/cairn/images.d/<bundle>.json`.
    #[serde(default)]
    pub index: Option<String>,
    /// Texts that it has beside `images`.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

/// A container image of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    /// Its full name with a tag.
    #[serde(rename = "ref")]
    pub reference: String,
    /// File name of its archive in `/usr/lib/cairn/images`.
    pub archive: String,
    /// Which nodes import it.
    #[serde(default)]
    pub role: Role,
    /// What is started in it.
    pub entrypoint: Vec<String>,
    /// `NAME=value`, beside `PATH`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Numbers `user` or `user:group`. Default root.
    #[serde(default)]
    pub user: Option<String>,
    /// As in [`Layer`].
    #[serde(default)]
    pub directories: Vec<String>,
    /// As in [`Layer`].
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    /// As in [`Layer`].
    #[serde(default, rename = "link")]
    pub links: Vec<Link>,
    /// As in [`Layer`].
    #[serde(default)]
    pub go: Vec<Go>,
    /// As in [`Layer`].
    #[serde(default)]
    pub cargo: Vec<Cargo>,
    /// As in [`Layer`].
    #[serde(default)]
    pub debian: Option<Debian>,
    /// As in [`Layer`].
    #[serde(default)]
    pub url: Vec<Url>,
    /// As in [`Layer`].
    #[serde(default)]
    pub local: Vec<Local>,
}

/// Which nodes import an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// All of them.
    #[default]
    Node,
    /// Control planes only.
    ControlPlane,
}

/// A program built by `go build` in a module whose `go.mod` and `go.sum` pin everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Go {
    /// The module's folder, relative to the recipe.
    pub module: String,
    /// The main package.
    pub package: String,
    /// Where the program goes.
    pub path: String,
    /// Variables set by the linker (`-X name=value`).
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Build tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// A static program built from a crate of a Rust workspace, with that workspace's lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cargo {
    /// The crate's folder, relative to the recipe.
    pub folder: String,
    /// The binary's name.
    pub bin: String,
    /// Where the program goes.
    pub path: String,
}

/// Debian packages with all they depend on, unpacked, their scripts not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Debian {
    /// Debian's suite.
    pub suite: String,
    /// The packages.
    pub packages: Vec<String>,
    /// Recipe of a whole root, relative to this one: what it has is left out.
    #[serde(default)]
    pub beyond: Option<String>,
    /// Paths left out; `*` is any text.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// A file that somebody else publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Url {
    /// `https://`, `http://` or `file://`.
    pub url: String,
    /// SHA-256 of what is fetched, hexadecimal.
    pub sha256: String,
    /// Where what is wanted lies in it, when it is a tar archive (compressed or not).
    #[serde(default)]
    pub member: Option<String>,
    /// Where the file goes.
    pub path: String,
    /// Its permission bits in octal digits. Default `0755`: mostly programs.
    #[serde(default = "program_mode")]
    pub mode: String,
}

fn program_mode() -> String {
    "0755".to_owned()
}

/// A file beside the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Local {
    /// Where it is, relative to the recipe.
    pub source: String,
    /// Where it goes.
    pub path: String,
    /// Its permission bits in octal digits. Default `0644`.
    #[serde(default = "file_mode")]
    pub mode: String,
}

fn file_mode() -> String {
    "0644".to_owned()
}

/// What the layer and each image are made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Whose: a name for messages.
    pub owner: &'a str,
    /// Directories.
    pub directories: &'a [String],
    /// Files of the recipe.
    pub files: &'a [File],
    /// Links.
    pub links: &'a [Link],
    /// Go programs.
    pub go: &'a [Go],
    /// Rust programs.
    pub cargo: &'a [Cargo],
    /// Debian packages.
    pub debian: Option<&'a Debian>,
    /// Published files.
    pub url: &'a [Url],
    /// Local files.
    pub local: &'a [Local],
}

impl Layer {
    /// Its parts.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            owner: &self.name,
            directories: &self.directories,
            files: &self.files,
            links: &self.links,
            go: &self.go,
            cargo: &self.cargo,
            debian: self.debian.as_ref(),
            url: &self.url,
            local: &self.local,
        }
    }
}

impl Image {
    /// Its parts.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            owner: &self.reference,
            directories: &self.directories,
            files: &self.files,
            links: &self.links,
            go: &self.go,
            cargo: &self.cargo,
            debian: self.debian.as_ref(),
            url: &self.url,
            local: &self.local,
        }
    }
}

impl Recipe {
    /// The parts of the layer and of every image.
    pub fn parts(&self) -> impl Iterator<Item = Parts<'_>> {
        std::iter::once(self.layer.parts()).chain(self.image.iter().map(Image::parts))
    }

    /// Files and folders that the recipe names, relative to it: when none of them changed, neither did the layer.
    #[must_use]
    pub fn sources(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for parts in self.parts() {
            found.extend(parts.go.iter().map(|part| part.module.as_str()));
            found.extend(parts.cargo.iter().map(|part| part.folder.as_str()));
            found.extend(parts.local.iter().map(|part| part.source.as_str()));
            found.extend(parts.debian.iter().filter_map(|part| part.beyond.as_deref()));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Where the list of images is in the layer.
    #[must_use]
    pub fn image_index(&self) -> String {
        let name = self.bundle.name.rsplit('/').next().unwrap_or_default();
        self.images.index.clone().unwrap_or_else(|| format!("/usr/lib/cairn/images.d/{name}.json"))
    }
}

/// Whether a recipe is one of these: it has `layer.stacks-on`. What is no TOML at all is not.
#[must_use]
pub fn is_stack(text: &str) -> bool {
    let table = || text.get(..RECIPE_BYTES.min(text.len()))?.parse::<toml::Table>().ok();
    table().is_some_and(|table| table.get("layer").is_some_and(|layer| layer.get("stacks-on").is_some()))
}

/// Reads and checks a recipe.
///
/// # Errors
/// [`RecipeError`]; what is wrong with the TOML is named with its line.
pub fn parse(text: &str) -> Result<Recipe, RecipeError> {
    if text.len() > RECIPE_BYTES {
        return Err(RecipeError::TooLong(text.len()));
    }
    let recipe: Recipe =
        toml::from_str(text).map_err(|e| RecipeError::Malformed(e.to_string().trim_end().to_owned()))?;
    check::check(&recipe)?;
    Ok(recipe)
}
