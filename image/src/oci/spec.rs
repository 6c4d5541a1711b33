//! The three documents of an image, as the OCI image specification 1.1 has them. Own types: they are few, and the order of their
//! fields is the order of the bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::layer::Layer;
use super::{Image, hex};

/// The file `oci-layout`.
pub(super) const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What programs in the image are found by.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'static str,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, &'a str>,
}

#[derive(Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

const PLATFORM: Platform = Platform { architecture: "amd64", os: "linux" };

#[derive(Serialize)]
struct Config<'a> {
    #[serde(flatten)]
    platform: Platform,
    config: Run<'a>,
    rootfs: RootFs,
    history: [History; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Run<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    env: Vec<&'a str>,
    entrypoint: &'a [String],
    working_dir: &'static str,
}

#[derive(Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: [String; 1],
}

#[derive(Serialize)]
struct History {
    created_by: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor<'a>,
    layers: [Descriptor<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: [Descriptor<'a>; 1],
}

fn describe<'a>(media_type: &'static str, bytes: &[u8]) -> Descriptor<'a> {
    Descriptor {
        media_type,
        digest: format!("sha256:{}", hex(bytes)),
        size: bytes.len() as u64,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Plain structs with text keys always serialise.
    serde_json::to_vec(value).unwrap_or_default()
}

/// The configuration.
pub(super) fn config(image: &Image<'_>, layer: &Layer) -> Vec<u8> {
    let env = std::iter::once(PATH).chain(image.env.iter().map(String::as_str)).collect();
    json(&Config {
        platform: PLATFORM,
        config: Run { user: image.user, env, entrypoint: image.entrypoint, working_dir: "/" },
        rootfs: RootFs { r#type: "layers", diff_ids: [format!("sha256:{}", layer.sha256)] },
        history: [History { created_by: "cairn-image" }],
    })
}

/// The manifest: one configuration, one layer.
pub(super) fn manifest(config: &[u8], layer: &Layer) -> Vec<u8> {
    let layer =
        Descriptor { digest: format!("sha256:{}", layer.sha256), size: layer.length, ..describe(LAYER, b"") };
    json(&Manifest {
        schema_version: 2,
        media_type: MANIFEST,
        config: describe(CONFIG, config),
        layers: [layer],
    })
}

/// The archive's index: one manifest, and the name by which containerd files it.
pub(super) fn index(image: &Image<'_>, manifest: &[u8]) -> Vec<u8> {
    let tag = image.reference.rsplit(':').next().unwrap_or_default();
    let annotations = BTreeMap::from([
        ("io.containerd.image.name", image.reference),
        ("org.opencontainers.image.ref.name", tag),
    ]);
    let entry = Descriptor { platform: Some(PLATFORM), annotations, ..describe(MANIFEST, manifest) };
    json(&Index { schema_version: 2, media_type: INDEX, manifests: [entry] })
}
