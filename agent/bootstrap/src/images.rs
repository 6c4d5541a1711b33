//! What the layer brings (`/usr/lib/cairn/kubernetes.json`) and what containerd has of it.

use std::collections::BTreeMap;

use cairn_protocol::limits::{self, TooLong};
use serde::Deserialize;

/// The list of a layer's images, bytes; a dozen images have 2 KiB.
pub const INVENTORY_BYTES: usize = 256 << 10;
/// `ctr images ls`, bytes: hundreds of images.
pub const LISTING_BYTES: usize = 1 << 20;
/// Images of one list.
const MOST: usize = 256;

/// `/usr/lib/cairn/kubernetes.json`. It comes with the layer, which may be newer than the agent: what is not known is passed
/// over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Inventory {
    /// The cluster's version, such as `v1.36.3`.
    pub version: String,
    /// The reference of the sandbox's image.
    pub pause: String,
    /// CoreDNS' version.
    #[serde(default)]
    pub coredns: String,
    /// etcd's version.
    #[serde(default)]
    pub etcd: String,
    /// The images.
    pub images: Vec<Image>,
}

/// `/usr/lib/cairn/images.d/<bundle>.json`: images that another bundle brings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MoreImages {
    /// The images.
    pub images: Vec<Image>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// What manifests call it.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Its archive's file name in `/usr/lib/cairn/images`.
    pub archive: String,
    /// `sha256:` and the digest of its manifest.
    pub digest: String,
    /// Where it is needed.
    pub role: ImageRole,
}

/// Where an image is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageRole {
    /// On control planes.
    ControlPlane,
    /// On every node.
    Node,
}

/// Why a list of images was refused.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Not the JSON it should be.
    #[error("the list of images cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Something in it cannot be meant.
    #[error("the list of images: {what} is {value:?}, which cannot be")]
    Wrong {
        /// The field.
        what: &'static str,
        /// Its value, cleaned.
        value: String,
    },
}

/// Reads `kubernetes.json`. Fuzz entry point.
///
/// # Errors
/// [`ImagesError`].
pub fn parse_inventory(bytes: &[u8]) -> Result<Inventory, ImagesError> {
    limits::check("the list of images", bytes, INVENTORY_BYTES)?;
    let inventory: Inventory = serde_json::from_slice(bytes)?;
    let version = inventory.version.as_str();
    if !version.starts_with('v') || cairn_protocol::plan::version_step(version, version).is_err() {
        return Err(wrong("version", version));
    }
    if !is_reference(&inventory.pause) {
        return Err(wrong("pause", &inventory.pause));
    }
    check(&inventory.images)?;
    Ok(inventory)
}

/// Reads a list of `images.d`. Fuzz entry point.
///
/// # Errors
/// [`ImagesError`].
pub fn parse_more(bytes: &[u8]) -> Result<Vec<Image>, ImagesError> {
    limits::check("the list of images", bytes, INVENTORY_BYTES)?;
    let more: MoreImages = serde_json::from_slice(bytes)?;
    check(&more.images)?;
    Ok(more.images)
}

fn wrong(what: &'static str, value: &str) -> ImagesError {
    ImagesError::Wrong { what, value: limits::clean_text(value) }
}

fn check(images: &[Image]) -> Result<(), ImagesError> {
    if images.len() > MOST {
        return Err(wrong("the number of images", &images.len().to_string()));
    }
    for image in images {
        if !is_reference(&image.reference) {
            return Err(wrong("ref", &image.reference));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_+".contains(&b);
        if image.archive.is_empty() || image.archive.starts_with('.') || !image.archive.bytes().all(plain) {
            return Err(wrong("archive", &image.archive));
        }
        let hex = image.digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.parse::<cairn_protocol::ids::Sha256Digest>().is_err() {
            return Err(wrong("digest", &image.digest));
        }
    }
    Ok(())
}

/// A reference goes on command lines and into configuration: no spaces, no quotes, no leading dash.
fn is_reference(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"./:-_@".contains(&b);
    (1..=255).contains(&text.len())
        && text.bytes().all(plain)
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// Digests by reference from `ctr images ls`: a line of titles, then REF TYPE DIGEST and more columns.
pub fn parse_listing(text: &str) -> BTreeMap<String, String> {
    let rows = text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (reference, _, digest) = (words.next()?, words.next()?, words.next()?);
        digest.starts_with("sha256:").then(|| (reference.to_owned(), digest.to_owned()))
    });
    rows.collect()
}

/// The images that a node needs and does not have.
pub fn missing<'a>(
    images: &'a [Image],
    control_plane: bool,
    have: &BTreeMap<String, String>,
) -> Vec<&'a Image> {
    let needed = images.iter().filter(|image| control_plane || image.role == ImageRole::Node);
    needed.filter(|image| have.get(&image.reference) != Some(&image.digest)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listing() -> String {
        let digest = "ab".repeat(32);
        format!(
            "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
             registry.k8s.io/pause:3.10.2 application/vnd.oci.image.manifest.v1+json sha256:{digest} 12.3 KiB linux/amd64 -\n"
        )
    }

    fn inventory() -> String {
        let digest = "ab".repeat(32);
        format!(
            r#"{{"version":"v1.36.3","pause":"registry.k8s.io/pause:3.10.2","coredns":"v1.14.2","etcd":"3.6.8-0","images":[
            {{"ref":"registry.k8s.io/pause:3.10.2","archive":"pause.tar","digest":"sha256:{digest}","role":"node"}},
            {{"ref":"registry.k8s.io/etcd:3.6.8-0","archive":"etcd.tar","digest":"sha256:{digest}","role":"control-plane"}}]}}"#
        )
    }

    #[test]
    fn what_is_there_is_not_imported_again() {
        let inventory = parse_inventory(inventory().as_bytes()).unwrap();
        let have = parse_listing(&listing());
        assert!(missing(&inventory.images, false, &have).is_empty());
        let missing = missing(&inventory.images, true, &have);
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].archive, "etcd.tar");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (from, to, expect) in [
            ("v1.36.3", "1.36.3", "version"),
            ("pause.tar", "../pause.tar", "archive"),
            ("pause.tar", ".hidden", "archive"),
            ("registry.k8s.io/etcd", "--flag", "ref"),
            ("sha256:", "md5:", "digest"),
            ("\"node\"", "\"boss\"", "boss"),
            ("\"images\"", "\"imagse\"", "images"),
        ] {
            let error =
                parse_inventory(inventory().replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expect), "{to}: {error}");
        }
        assert!(matches!(parse_more(&vec![b' '; INVENTORY_BYTES + 1]), Err(ImagesError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in ".{0,400}") {
            let _ = parse_inventory(&bytes);
            let _ = parse_more(&bytes);
            let _ = parse_listing(&text);
        }
    }
}
