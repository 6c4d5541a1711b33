//! What a step was made from, as one hash in a file beside its output.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::dirs::{Error, fail};

/// A hash over named inputs.
#[derive(Debug, Clone)]
pub struct Stamp(Sha256);

impl Stamp {
    /// Of nothing but a name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Sha256::new()).text(name)
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    /// Adds a file's content.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(mut self, path: &Path) -> Result<Self, Error> {
        let mut file = std::fs::File::open(path).map_err(fail("open", path))?;
        let mut own = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut buffer).map_err(fail("read", path))?;
            if count == 0 {
                break;
            }
            own.update(&buffer[..count]);
        }
        self.0.update(own.finalize());
        Ok(self)
    }

    /// Adds the files of a folder, by name and content, without its subfolders.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn folder(mut self, path: &Path) -> Result<Self, Error> {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .map_err(fail("list", path))?
            .flatten()
            .filter(|entry| entry.path().is_file())
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        for name in names {
            self = self.text(&name.to_string_lossy()).file(&path.join(&name))?;
        }
        Ok(self)
    }

    /// Adds a file, or a folder with everything below it, by names and contents. Links are followed.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn tree(mut self, path: &Path) -> Result<Self, Error> {
        if !path.is_dir() {
            return self.file(path);
        }
        let mut entries: Vec<_> = std::fs::read_dir(path)
            .map_err(fail("list", path))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        entries.sort();
        for entry in entries {
            self = self.text(&entry.file_name().unwrap_or_default().to_string_lossy()).tree(&entry)?;
        }
        Ok(self)
    }

    /// The hash, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        self.0.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the file at `path` says that its step was made from the same.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        std::fs::read_to_string(path).is_ok_and(|text| text == self.digest())
    }

    /// Writes it. To be called when the step is done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        std::fs::write(path, self.digest()).map_err(fail("write", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_fits_only_what_it_was_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let (input, stamp) = (dir.path().join("input"), dir.path().join("stamp"));
        let inputs = dir.path().join("inputs");
        std::fs::create_dir(&inputs).unwrap();
        let make = || Stamp::new("step").text("a").file(&input).unwrap().folder(&inputs).unwrap();
        std::fs::write(&input, "one").unwrap();
        std::fs::write(inputs.join("x"), "x").unwrap();
        assert!(!make().matches(&stamp));
        make().write(&stamp).unwrap();
        assert!(make().matches(&stamp));
        std::fs::write(inputs.join("x"), "y").unwrap();
        assert!(!make().matches(&stamp));
        std::fs::rename(inputs.join("x"), inputs.join("z")).unwrap();
        std::fs::write(inputs.join("z"), "x").unwrap();
        assert!(!make().matches(&stamp));
        std::fs::rename(inputs.join("z"), inputs.join("x")).unwrap();
        assert!(make().matches(&stamp));
        assert_ne!(Stamp::new("a").text("b").digest(), Stamp::new("ab").text("").digest());
        assert!(Stamp::new("a").file(&dir.path().join("none")).is_err());
    }
}
