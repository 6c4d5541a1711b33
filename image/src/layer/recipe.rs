//! Recipes: what a layer consists of, as a release engineer writes it.
//!
//! TOML, strict: an unknown key is an error that names its line. No mirror is ever named here; packages come from the
//! archives that the host's apt knows. `docs/layers.md` describes every key.

use serde::{Deserialize, Serialize};

use crate::document::toml_error;

/// Bytes above which a recipe is not read. The longest of ours has 8 KiB.
pub const RECIPE_BYTES: usize = 1 << 20;

/// Time stamp of every file when the recipe names none: 2025-01-01. One fixed value, so that a rebuilt layer differs
/// from the last one only where its packages do.
pub const DEFAULT_EPOCH: u64 = 1_735_689_600;

/// A recipe file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// The format: 1.
    pub format: u32,
    /// The bundle that carries the layer.
    pub bundle: Bundle,
    /// The layer.
    pub layer: Layer,
}

/// The bundle's name and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bundle {
    /// `kind/name`, such as `os/base`.
    pub name: String,
    /// Its version, unless the command line gives one.
    pub version: String,
}

/// A layer made of Debian packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Layer {
    /// Its name: a DNS label.
    pub name: String,
    /// Debian's suite.
    pub suite: String,
    /// Packages beside the essential ones; what they depend on follows, what they recommend does not.
    pub packages: Vec<String>,
    /// Time stamp of every file, seconds since 1970.
    #[serde(default = "default_epoch")]
    pub epoch: u64,
    /// Kernel modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// Paths that dpkg leaves out while it unpacks, with `*` as dpkg means it.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Paths removed at the end, absolute, with the shell's `*`, `?` and `[]`.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Directories that exist, root's, 0755.
    #[serde(default)]
    pub directories: Vec<String>,
    /// Units that can never start: `/etc/systemd/system/<unit>` is a link to /dev/null.
    #[serde(default)]
    pub mask: Vec<String>,
    /// Generators masked in the same way.
    #[serde(default)]
    pub mask_generators: Vec<String>,
    /// Files.
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    /// Symbolic links.
    #[serde(default, rename = "link")]
    pub links: Vec<Link>,
}

fn default_epoch() -> u64 {
    DEFAULT_EPOCH
}

/// Kernel modules from the kernel package that the boot image uses; never a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kernel {
    /// Debian's kernels: `generic`, `cloud`.
    pub flavours: Vec<Flavour>,
    /// Whether the initramfs' driver list is taken too. Default yes.
    #[serde(default = "yes")]
    pub initramfs_drivers: bool,
    /// Module names (`tun`), or paths below the modules' directory with `*` (`kernel/net/netfilter/*`).
    pub modules: Vec<String>,
}

fn yes() -> bool {
    true
}

/// A kernel flavour in a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// `linux-image-amd64`.
    Generic,
    /// `linux-image-cloud-amd64`.
    Cloud,
}

/// A file of the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// Where.
    pub path: String,
    /// Its permission bits in octal digits. Default `0644`.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// Its bytes.
    pub content: String,
}

fn default_mode() -> String {
    "0644".to_owned()
}

/// A symbolic link of the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Link {
    /// Where.
    pub path: String,
    /// What it points to.
    pub target: String,
}

/// Why a recipe was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Over the limit.
    #[error("the recipe has {0} bytes, more than the {RECIPE_BYTES} allowed")]
    TooLong(usize),
    /// Not the TOML it should be.
    #[error("{0}")]
    Malformed(String),
    /// A value that cannot be used.
    #[error("{at}: {why}")]
    Rule {
        /// The key.
        at: String,
        /// What is wrong, and what would be right.
        why: String,
    },
}

pub(super) fn rule(at: impl Into<String>, why: impl Into<String>) -> RecipeError {
    RecipeError::Rule { at: at.into(), why: why.into() }
}

/// Reads and checks a recipe.
///
/// # Errors
/// [`RecipeError`]; what is wrong with the TOML is named with its line.
pub fn parse(text: &str) -> Result<Recipe, RecipeError> {
    if text.len() > RECIPE_BYTES {
        return Err(RecipeError::TooLong(text.len()));
    }
    let recipe: Recipe = toml::from_str(text).map_err(|e| {
        let (line, message) = toml_error(text, &e);
        RecipeError::Malformed(format!("line {line}: {message}"))
    })?;
    check(&recipe)?;
    Ok(recipe)
}

fn check(recipe: &Recipe) -> Result<(), RecipeError> {
    if recipe.format != 1 {
        return Err(rule("format", format!("{} is not known; this program reads format 1", recipe.format)));
    }
    let layer = &recipe.layer;
    if cairn_protocol::ids::Name::new(&layer.name).is_err() {
        return Err(rule("layer.name", "takes 1 to 63 of a-z, 0-9 and -"));
    }
    if !is_word(&layer.suite) {
        return Err(rule("layer.suite", "takes a Debian suite such as trixie"));
    }
    if let Some(bad) = layer.packages.iter().find(|package| !is_word(package)) {
        return Err(rule("layer.packages", format!("{bad:?} is not a package name")));
    }
    // mkfs.erofs takes signed 64-bit seconds; this is the year 9999.
    if layer.epoch > 253_402_300_799 {
        return Err(rule("layer.epoch", "takes seconds since 1970, up to the year 9999"));
    }
    for unit in layer.mask.iter().chain(&layer.mask_generators) {
        if unit.is_empty() || !unit.bytes().all(|b| b.is_ascii_alphanumeric() || b"@:._-\\".contains(&b)) {
            return Err(rule("layer.mask", format!("{unit:?} is not a unit's name")));
        }
    }
    let paths = layer.exclude.iter().chain(&layer.remove).map(|path| ("layer.exclude or layer.remove", path));
    let paths = paths.chain(layer.directories.iter().map(|path| ("layer.directories", path)));
    let paths = paths.chain(layer.files.iter().map(|file| ("layer.file.path", &file.path)));
    let paths = paths.chain(layer.links.iter().map(|link| ("layer.link.path", &link.path)));
    for (at, path) in paths {
        check_path(at, path)?;
    }
    layer.files.iter().try_for_each(|file| check_mode(&file.path, &file.mode))?;
    for link in &layer.links {
        if link.target.is_empty() || link.target.chars().any(char::is_control) {
            return Err(rule(format!("target of {}", link.path), "is empty or has control characters"));
        }
    }
    Ok(())
}

/// Whether it is a suite's or a package's name.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(['-', '.'])
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

/// Permission bits as the recipe writes them.
pub(super) fn check_mode(path: &str, mode: &str) -> Result<(), RecipeError> {
    let digits = mode.len() == 4 && mode.starts_with('0');
    if !digits || !mode.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return Err(rule(format!("mode of {path}"), "takes four octal digits, such as 0644"));
    }
    Ok(())
}

/// Paths reach a shell's word list and a root's file system: absolute, one line, no way out.
pub(super) fn check_path(at: &str, path: &str) -> Result<(), RecipeError> {
    let plain = |c: char| c.is_ascii_graphic() && !"'\"`$&;|<>(){}\\!#~".contains(c);
    let inner = path.strip_prefix('/').unwrap_or_default();
    if inner.is_empty()
        || !path.chars().all(plain)
        || inner.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        return Err(rule(at, format!("{path:?} is not an absolute path of plain characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "format = 1\n[bundle]\nname = \"os/x\"\nversion = \"1\"\n\
                        [layer]\nname = \"x\"\nsuite = \"trixie\"\npackages = [\"systemd\"]\n";

    #[test]
    fn the_base_recipe_is_valid() {
        let recipe = parse(include_str!("../../recipes/base.toml")).unwrap();
        assert_eq!(recipe.layer.name, "base");
        assert!(!recipe.layer.packages.iter().any(|p| p.contains("ssh") || p.starts_with("linux-")));
    }

    #[test]
    fn what_a_recipe_may_not_say() {
        assert!(parse(GOOD).is_ok());
        for (extra, expect) in [
            ("mirror = \"http://x\"", "line 9"),
            ("remove = [\"/usr/../etc\"]", "absolute path"),
            ("remove = [\"/\"]", "absolute path"),
            ("remove = [\"/a;rm\"]", "absolute path"),
            ("mask = [\"a b\"]", "unit"),
            ("[[layer.file]]\npath = \"/x\"\nmode = \"755\"\ncontent = \"\"", "octal"),
            ("[[layer.link]]\npath = \"/x\"\ntarget = \"\"", "empty"),
            ("epoch = 999999999999", "9999"),
            ("[layer.kernel]\nflavours = [\"huge\"]\nmodules = []", "line 10"),
        ] {
            let error = parse(&format!("{GOOD}{extra}\n")).unwrap_err().to_string();
            assert!(error.contains(expect), "{extra}: {error}");
        }
        let error = parse(&GOOD.replace("systemd", "../x")).unwrap_err().to_string();
        assert!(error.contains("package name"), "{error}");
        assert!(
            parse(&GOOD.replace("format = 1", "format = 2")).unwrap_err().to_string().contains("format 1")
        );
        assert_eq!(parse(&"#".repeat(RECIPE_BYTES + 1)), Err(RecipeError::TooLong(RECIPE_BYTES + 1)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }
    }
}
