//! Debian's kernel: which package, its image, its modules.

use std::fs;
use std::path::PathBuf;

use crate::debian::Package;
use crate::error::{self, Error};
use crate::toolbox::Toolbox;

/// Which of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flavour {
    /// For real machines (`linux-image-amd64`).
    Generic,
    /// For virtual machines only: no AHCI, server NICs, HBAs, xHCI, IPMI (`linux-image-cloud-amd64`).
    Cloud,
}

impl Flavour {
    fn package(self) -> &'static str {
        match self {
            Self::Generic => "linux-image-amd64",
            Self::Cloud => "linux-image-cloud-amd64",
        }
    }
}

/// An unpacked kernel package with `depmod`'s indexes.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The concrete package, for example `linux-image-6.12.117+deb13-amd64`.
    pub package: Package,
    /// `uname -r`.
    pub release: String,
    dir: PathBuf,
}

/// Debian ships no `modules.dep`; it is made on installation. `depmod -b` looks in `lib`, the package has `usr/lib`.
const DEPMOD: &str = r#"[ -e lib ] || ln -s usr/lib lib; depmod -b . "$(ls usr/lib/modules)""#;

impl Kernel {
    /// The kernel, fetched if it is not in the cache. Its version is the one that the toolbox's lists name.
    ///
    /// # Errors
    /// When it cannot be fetched or is not laid out as expected.
    pub fn ensure(toolbox: &Toolbox, flavour: Flavour, progress: &dyn Fn(&str)) -> Result<Self, Error> {
        let meta = Package::find(toolbox, flavour.package())?;
        let concrete = meta.depends.iter().find(|name| name.starts_with("linux-image-"));
        let concrete =
            concrete.ok_or_else(|| Error::unexpected(&meta.name, "depends on no linux-image package"))?;
        let package = Package::find(toolbox, concrete)?;
        let dir = package.unpacked_with(toolbox, DEPMOD, progress)?;
        let release = concrete.trim_start_matches("linux-image-").to_owned();
        let kernel = Self { package, release, dir };
        for path in [kernel.image(), kernel.modules().join("modules.dep")] {
            fs::metadata(&path).map_err(error::file("find", &path))?;
        }
        Ok(kernel)
    }

    /// The bzImage.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The directory of `modules.dep`, `modules.alias` and so on.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.dir.join("usr/lib/modules").join(&self.release)
    }
}
