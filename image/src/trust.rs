//! What the image trusts, read from a directory that `cairnctl trust export` wrote.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use cairn_protocol::{limits, settings};

use crate::error::{self, Error};
use crate::initramfs::cpio::Tree;

/// `root.json`, `ca.pin` and `image.json`, checked for their form.
#[derive(Debug, Clone)]
pub struct Trust {
    files: [(&'static str, Vec<u8>); 3],
    /// The version that `image.json` names.
    pub image_version: String,
}

/// A TUF root of a handful of keys has a few KiB; python-tuf's client takes 512 kB.
const ROOT_BYTES: usize = 512_000;
/// SHA-256 in hex and a line end.
const PIN_BYTES: usize = 65;

impl Trust {
    /// Reads the three files.
    ///
    /// # Errors
    /// When one is missing or is not what its name says.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let root = read(&dir.join("root.json"), ROOT_BYTES)?;
        let pin = read(&dir.join("ca.pin"), PIN_BYTES)?;
        let image = read(&dir.join("image.json"), limits::SETTINGS_BYTES)?;
        if let Err(problem) = serde_json::from_slice::<serde::de::IgnoredAny>(&root) {
            return Err(Error::unexpected(dir.join("root.json").display().to_string(), problem.to_string()));
        }
        let digits = pin.strip_suffix(b"\n").unwrap_or(&pin);
        if digits.len() != PIN_BYTES - 1 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Error::unexpected(
                dir.join("ca.pin").display().to_string(),
                "not 64 hexadecimal digits",
            ));
        }
        let settings = settings::parse(&image)
            .map_err(|e| Error::unexpected(dir.join("image.json").display().to_string(), e.to_string()))?;
        let files = [("root.json", root), ("ca.pin", pin), ("image.json", image)];
        Ok(Self { files, image_version: settings.image_version })
    }

    /// The archive that goes after the others.
    ///
    /// # Errors
    /// Never for these paths.
    pub fn archive(&self) -> Result<Vec<u8>, Error> {
        let mut tree = Tree::default();
        for (name, content) in &self.files {
            tree.file(&format!("etc/cairn/{name}"), 0o644, content.clone())?;
        }
        Ok(tree.archive())
    }
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let file = File::open(path).map_err(error::file("open", path))?;
    file.take(limit as u64 + 1).read_to_end(&mut content).map_err(error::file("read", path))?;
    if content.len() > limit {
        return Err(Error::unexpected(path.display().to_string(), format!("longer than {limit} bytes")));
    }
    Ok(content)
}
