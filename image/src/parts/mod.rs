//! What layers and container images are made of, wherever it comes from: programs built from Go modules ([`go`]) and from
//! our crates ([`cargo`]), Debian packages ([`debian`]), published files ([`url`]), files beside the recipe.
//!
//! Two steps. [`Plan::new`] finds out what everything is, and what its bytes depend on, without building what is expensive;
//! [`Plan::gather`] makes it and puts it into a [`tree::Tree`].

pub(crate) mod cargo;
pub(crate) mod debian;
pub(crate) mod go;
pub(crate) mod gotool;
pub(crate) mod tree;
pub(crate) mod url;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{self, Error};
use crate::layer::stack::recipe::Parts;
use crate::toolbox::Toolbox;
use debian::Packages;
use go::Program;
use tree::{Node, Source, Tree};

/// What the parts of one owner (the layer, an image) are. Borrowed from the recipe.
pub(crate) struct Plan<'a> {
    parts: Parts<'a>,
    programs: Vec<Program>,
    /// Built binaries of our crates, in the recipe's order.
    crates: Vec<PathBuf>,
    packages: Option<Packages<'a>>,
    home: &'a Path,
    inputs: Vec<String>,
}

/// What planning and gathering need of the world.
pub(crate) struct Tools<'a> {
    /// Debian's lists and tools.
    pub(crate) toolbox: &'a Toolbox,
    /// Gets one line per step.
    pub(crate) progress: &'a dyn Fn(&str),
}

impl<'a> Plan<'a> {
    /// `home`: the recipe's folder. `packages`: the answer of [`debian::resolve`] for these parts.
    ///
    /// # Errors
    /// When something that the recipe names is missing, or a crate cannot be built.
    pub(crate) fn new(
        tools: &Tools<'_>,
        parts: Parts<'a>,
        home: &'a Path,
        packages: Option<Packages<'a>>,
    ) -> Result<Self, Error> {
        let mut inputs = Vec::new();
        let mut programs = Vec::new();
        for part in parts.go {
            let program = Program::new(part, home, tools.progress)?;
            inputs.push(program.key.clone());
            programs.push(program);
        }
        let mut crates = Vec::new();
        for part in parts.cargo {
            let binary = cargo::build(part, home, tools.progress)?;
            inputs.push(digest(&binary)?);
            crates.push(binary);
        }
        for part in parts.local {
            inputs.push(digest(&home.join(&part.source))?);
        }
        for package in packages.iter().flat_map(Packages::locked) {
            inputs.push(format!("{} {}", package.name, package.sha256));
        }
        Ok(Self { parts, programs, crates, packages, home, inputs })
    }

    /// What the bytes depend on beside the recipe, in a fixed order.
    pub(crate) fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// Builds what takes long, beside other builds of layers: minutes for each Go program that is not in the cache.
    ///
    /// # Errors
    /// When a program cannot be built.
    pub(crate) fn prepare(&self, tools: &Tools<'_>) -> Result<(), Error> {
        self.programs.iter().try_for_each(|program| program.ensure(tools.progress).map(|_| ()))
    }

    /// Builds, fetches and unpacks everything. `work`: a directory for what is only needed until the tree is written.
    ///
    /// # Errors
    /// When a part cannot be made, or two parts want one path.
    pub(crate) fn gather(&self, tools: &Tools<'_>, work: &Path) -> Result<Tree, Error> {
        let mut tree = Tree::default();
        for path in self.parts.directories {
            tree.insert(path, Node::Directory)?;
        }
        if let Some(packages) = &self.packages {
            packages.gather(tools, self.parts.owner, work, &mut tree)?;
        }
        for (part, program) in self.parts.go.iter().zip(&self.programs) {
            let built = program.ensure(tools.progress)?;
            tree.insert(&part.path, Node::File { source: Source::Path(built), mode: 0o755 })?;
        }
        for (part, built) in self.parts.cargo.iter().zip(&self.crates) {
            tree.insert(&part.path, Node::File { source: Source::Path(built.clone()), mode: 0o755 })?;
        }
        for part in self.parts.url {
            let source = Source::Path(url::ensure(tools, part)?);
            tree.insert(&part.path, Node::File { source, mode: bits(&part.mode) })?;
        }
        for part in self.parts.local {
            let source = Source::Path(self.home.join(&part.source));
            tree.insert(&part.path, Node::File { source, mode: bits(&part.mode) })?;
        }
        for part in self.parts.files {
            // TOML's multi-line strings start on the line after the quotes in a recipe that is nice to read.
            let source = Source::Bytes(part.content.trim_start_matches('\n').as_bytes().to_vec());
            tree.insert(&part.path, Node::File { source, mode: bits(&part.mode) })?;
        }
        for part in self.parts.links {
            tree.insert(&part.path, Node::Link(part.target.clone()))?;
        }
        Ok(tree)
    }
}

/// The recipe's check has seen to it that these are four octal digits.
fn bits(mode: &str) -> u32 {
    u32::from_str_radix(mode, 8).unwrap_or(0o644)
}

/// SHA-256 of a file, hexadecimal.
pub(crate) fn digest(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(error::file("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(error::file("read", path))? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}
