//! What a manifest of version 1 may say: what types cannot.

use super::ManifestError;
use super::v1::{Component, ComponentKind, Layer, MAX_COMPONENT_BYTES, MAX_COMPONENTS, MAX_LIST, Manifest};
use crate::caibx::MAX_INDEX_BYTES;
use crate::verity::{BLOCK_BYTES, MAX_SALT_BYTES};

impl Manifest {
    /// Checks every value.
    ///
    /// # Errors
    /// [`ManifestError::Value`] for the first that cannot be meant.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.version != 1 {
            return Err(ManifestError::Version(self.version.into()));
        }
        name("name", &self.name)?;
        version("bundle_version", &self.bundle_version)?;
        if !(1..=MAX_COMPONENTS).contains(&self.components.len()) {
            return Err(wrong(
                "components",
                format!("has {} entries, 1 to {MAX_COMPONENTS} fit", self.components.len()),
            ));
        }
        for (n, component) in self.components.iter().enumerate() {
            component.check(&format!("components[{n}]"))?;
            if self.components[..n].iter().any(|other| other.name == component.name) {
                return Err(wrong(
                    format!("components[{n}].name"),
                    format!("{:?} is there twice", component.name),
                ));
            }
        }
        Ok(())
    }
}

impl Component {
    fn check(&self, at: &str) -> Result<(), ManifestError> {
        version(&format!("{at}.name"), &self.name)?;
        if !(1..=MAX_COMPONENT_BYTES).contains(&self.length) {
            return Err(wrong(
                format!("{at}.length"),
                format!("is {}, 1 to {MAX_COMPONENT_BYTES} fit", self.length),
            ));
        }
        if !(1..=MAX_INDEX_BYTES).contains(&self.index.length) {
            return Err(wrong(format!("{at}.index.length"), format!("is {}", self.index.length)));
        }
        if self.uki.is_some() != (self.kind == ComponentKind::Uki) {
            return Err(wrong(
                format!("{at}.uki"),
                "belongs to a component of kind uki, and to each of them",
            ));
        }
        if self.layer.is_some() != (self.kind == ComponentKind::Layer) {
            return Err(wrong(
                format!("{at}.layer"),
                "belongs to a component of kind layer, and to each of them",
            ));
        }
        if let Some(uki) = &self.uki {
            version(&format!("{at}.uki.version"), &uki.version)?;
            uki.kernel.as_deref().map_or(Ok(()), |kernel| version(&format!("{at}.uki.kernel"), kernel))?;
        }
        self.layer.as_ref().map_or(Ok(()), |layer| layer.check(&format!("{at}.layer"), self.length))
    }
}

impl Layer {
    fn check(&self, at: &str, length: u64) -> Result<(), ManifestError> {
        let verity = &self.verity;
        let block = BLOCK_BYTES as u32;
        if (verity.data_block_size, verity.hash_block_size) != (block, block) {
            return Err(wrong(format!("{at}.verity"), format!("has block sizes other than {block}")));
        }
        if verity.data_blocks.checked_mul(block.into()) != Some(length) {
            return Err(wrong(
                format!("{at}.verity.data_blocks"),
                format!("times {block} is not the length, {length}"),
            ));
        }
        if verity.salt.len() > MAX_SALT_BYTES {
            return Err(wrong(format!("{at}.verity.salt"), format!("has more than {MAX_SALT_BYTES} bytes")));
        }
        let lists =
            [("persist.etc", &self.persist.etc), ("persist.var", &self.persist.var), ("units", &self.units)];
        for (key, list) in lists {
            if list.len() > MAX_LIST {
                return Err(wrong(format!("{at}.{key}"), format!("has more than {MAX_LIST} entries")));
            }
        }
        self.persist.etc.iter().try_for_each(|path| relative(&format!("{at}.persist.etc"), path))?;
        self.persist.var.iter().try_for_each(|path| relative(&format!("{at}.persist.var"), path))?;
        self.units.iter().try_for_each(|unit| self::unit(&format!("{at}.units"), unit))
    }
}

pub(super) fn wrong(field: impl Into<String>, problem: impl Into<String>) -> ManifestError {
    ManifestError::Value { field: field.into(), problem: problem.into() }
}

/// Whether `text` is a name: it becomes a part of a URL and of a path.
fn name(field: &str, text: &str) -> Result<(), ManifestError> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(fits) && text.as_bytes()[0].is_ascii_alphanumeric()
    {
        Ok(())
    } else {
        Err(wrong(
            field,
            format!("{text:?} is not 1 to 64 of a-z, 0-9, - and _, beginning with one of the first two"),
        ))
    }
}

/// As a name, with what versions have beside: never `.` or `..`, never a separator.
fn version(field: &str, text: &str) -> Result<(), ManifestError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.+~".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(fits) && text.as_bytes()[0].is_ascii_alphanumeric()
    {
        Ok(())
    } else {
        Err(wrong(
            field,
            format!("{text:?} is not 1 to 64 of letters, digits and -_.+~, beginning with a letter or digit"),
        ))
    }
}

fn relative(field: &str, path: &str) -> Result<(), ManifestError> {
    let part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
    };
    if path.len() <= 255 && path.split('/').all(part) {
        Ok(())
    } else {
        Err(wrong(field, format!("{path:?} is not a relative path of plain names")))
    }
}

fn unit(field: &str, unit: &str) -> Result<(), ManifestError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    let kind = unit.rsplit_once('.').map(|(_, kind)| kind);
    let known = ["service", "socket", "timer", "target", "path", "mount"];
    if unit.len() <= 255 && unit.bytes().all(fits) && kind.is_some_and(|kind| known.contains(&kind)) {
        Ok(())
    } else {
        Err(wrong(field, format!("{unit:?} is not the name of a unit")))
    }
}
