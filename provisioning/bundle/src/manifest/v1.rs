//! Version 1 of the manifest.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ManifestError;
use super::check::wrong;
use crate::Sha256Digest;
use crate::verity::{BLOCK_BYTES, MAX_DATA_BLOCKS};

/// Components in one bundle.
pub const MAX_COMPONENTS: usize = 256;
/// Entries of one `persist` or `units` list.
pub const MAX_LIST: usize = 256;
/// Bytes of a component: what [`MAX_DATA_BLOCKS`] hold.
pub const MAX_COMPONENT_BYTES: u64 = MAX_DATA_BLOCKS * BLOCK_BYTES as u64;

/// A bundle: a signed, versioned set of components.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format: 1.
    pub version: u32,
    /// What it is for.
    pub kind: Kind,
    /// Its name: `a-z`, `0-9`, `-`, `_`, up to 64.
    pub name: String,
    /// Its version: as a name, and `.`, `+`, `~`.
    pub bundle_version: String,
    /// What it consists of.
    pub components: Vec<Component>,
}

/// What a bundle is for. The first part of its target path, and the TUF role that signs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// UKIs and base layers.
    Os,
    /// A Kubernetes layer and its images.
    Kubernetes,
    /// An OpenStack layer and its images.
    Openstack,
    /// Guest images for Glance.
    Images,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Os, Self::Kubernetes, Self::Openstack, Self::Images];

    /// The word in paths and role names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Kubernetes => "kubernetes",
            Self::Openstack => "openstack",
            Self::Images => "images",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = ManifestError;
    fn from_str(text: &str) -> Result<Self, ManifestError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| wrong("kind", format!("is {text:?}; it is os, kubernetes, openstack or images")))
    }
}

/// One artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Unique in the bundle; the same letters as a version.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// Bytes.
    pub length: u64,
    /// Of all its bytes.
    pub sha256: Sha256Digest,
    /// Its chunk index.
    pub index: IndexRef,
    /// For a UKI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uki: Option<Uki>,
    /// For a layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Layer>,
}

/// What a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentKind {
    /// A unified kernel image for the ESP.
    Uki,
    /// An erofs image with a verity tree.
    Layer,
    /// An OCI archive.
    Oci,
    /// A disk image.
    Image,
}

/// A chunk index, served as `indexes/<sha256>.caibx`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexRef {
    /// Of the index file.
    pub sha256: Sha256Digest,
    /// Its bytes.
    pub length: u64,
}

impl IndexRef {
    /// Its path below the repository.
    pub fn path(&self) -> String {
        format!("indexes/{}.caibx", self.sha256)
    }
}

/// What a node must know of a UKI without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uki {
    /// The version in its file name and boot entry: `cairn_<version>.efi`.
    pub version: String,
    /// The kernel's release, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

/// How a layer is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its hash tree.
    pub verity: VerityParams,
    /// What it goes on.
    pub stacks_on: StacksOn,
    /// What outlives a boot.
    #[serde(default)]
    pub persist: Persist,
    /// systemd units to start.
    #[serde(default)]
    pub units: Vec<String>,
}

/// Parameters of a dm-verity tree, format 1, SHA-256, without a superblock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerityParams {
    /// What the kernel is given.
    pub root_hash: Sha256Digest,
    /// Hexadecimal; up to 32 bytes.
    #[serde(with = "hex::serde")]
    pub salt: Vec<u8>,
    /// 4096.
    pub data_block_size: u32,
    /// 4096.
    pub hash_block_size: u32,
    /// The component's length in blocks.
    pub data_blocks: u64,
}

/// What a layer may be stacked on: `"none"`, `"any"`, or the digest of one base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StacksOn {
    /// It is a base.
    None,
    /// Any base: static binaries.
    Any,
    /// The base with this SHA-256: Debian packages.
    Base(Sha256Digest),
}

impl Serialize for StacksOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::Any => serializer.serialize_str("any"),
            Self::Base(digest) => serializer.collect_str(digest),
        }
    }
}

impl<'de> Deserialize<'de> for StacksOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "none" => Ok(Self::None),
            "any" => Ok(Self::Any),
            digest => digest.parse().map(Self::Base).map_err(|_| {
                serde::de::Error::custom("stacks_on is \"none\", \"any\" or the sha256 of a base layer")
            }),
        }
    }
}

/// Paths that a layer keeps on DATA.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persist {
    /// Below `/etc`, without it: `kubernetes`.
    #[serde(default)]
    pub etc: Vec<String>,
    /// Below `/var`, without it.
    #[serde(default)]
    pub var: Vec<String>,
}

impl Manifest {
    /// Its TUF target path.
    pub fn target_path(&self) -> String {
        format!("{}/{}/{}/manifest.json", self.kind, self.name, self.bundle_version)
    }

    /// The manifest as a file: the same bytes for the same manifest.
    ///
    /// # Panics
    /// Never: every key is text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest is plain JSON");
        bytes.push(b'\n');
        bytes
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let manifest: Manifest = serde_json::from_slice(bytes)?;
    manifest.check()?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_MANIFEST_BYTES, fuzz, parse};
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/manifest-v1.json");

    fn golden() -> Manifest {
        parse(GOLDEN.as_bytes()).unwrap()
    }

    #[test]
    fn the_golden_manifest_reads_and_writes_the_same_bytes() {
        let manifest = golden();
        assert_eq!(String::from_utf8(manifest.to_bytes()).unwrap(), GOLDEN);
        assert_eq!(manifest.target_path(), "os/cairn-os/1.0.0+deb13u1/manifest.json");
        assert_eq!(manifest.components[0].index.path(), format!("indexes/{}.caibx", "22".repeat(32)));
        fuzz(GOLDEN.as_bytes());
    }

    #[test]
    fn every_unknown_key_is_an_error() {
        for key in ["\"version\"", "\"name\"", "\"sha256\"", "\"kernel\"", "\"salt\"", "\"etc\"", "\"units\""]
        {
            let text = GOLDEN.replacen(key, &format!("\"unknown\": 1, {key}"), 1);
            assert!(parse(text.as_bytes()).unwrap_err().to_string().contains("unknown field"), "{key}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        type Change = fn(&mut Manifest);
        let change = |change: Change| {
            let mut manifest = golden();
            change(&mut manifest);
            parse(&manifest.to_bytes()).unwrap_err().to_string()
        };
        let cases: [(Change, &str); 16] = [
            (|m| m.version = 2, "version 2"),
            (|m| m.name = "../x".into(), "name"),
            (|m| m.name = String::new(), "name"),
            (|m| m.bundle_version = "..".into(), "bundle_version"),
            (|m| m.bundle_version = "a/b".into(), "bundle_version"),
            (|m| m.components.clear(), "components has 0"),
            (|m| m.components[1].name = m.components[0].name.clone(), "twice"),
            (|m| m.components[0].length = 0, "length"),
            (|m| m.components[0].uki = None, "uki"),
            (|m| m.components[1].kind = ComponentKind::Oci, "layer"),
            (|m| m.components[1].length += 1, "data_blocks"),
            (|m| m.components[1].layer.as_mut().unwrap().verity.salt = vec![0; 33], "salt"),
            (|m| m.components[1].layer.as_mut().unwrap().persist.etc = vec!["../shadow".into()], "relative"),
            (|m| m.components[1].layer.as_mut().unwrap().persist.var = vec!["/lib".into()], "relative"),
            (|m| m.components[1].layer.as_mut().unwrap().units = vec!["a b.service".into()], "unit"),
            (|m| m.components[0].index.length = 1 << 40, "index.length"),
        ];
        for (n, (case, needle)) in cases.into_iter().enumerate() {
            let message = change(case);
            assert!(message.contains(needle), "case {n}: {message}");
        }
    }

    #[test]
    fn a_long_manifest_is_not_read() {
        let long = vec![b' '; MAX_MANIFEST_BYTES as usize + 1];
        assert!(matches!(parse(&long), Err(ManifestError::TooLong(_))));
    }

    #[test]
    fn stacks_on_has_three_forms() {
        for (text, value) in [
            ("\"none\"", StacksOn::None),
            ("\"any\"", StacksOn::Any),
            (&format!("\"{}\"", "ab".repeat(32)), StacksOn::Base(Sha256Digest([0xab; 32]))),
        ] {
            assert_eq!(serde_json::from_str::<StacksOn>(text).unwrap(), value);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
        assert!(serde_json::from_str::<StacksOn>("\"some\"").is_err());
    }
}
