//! `sbom.cdx.json`: what is in the image, as CycloneDX 1.6.
//!
//! Debian packages come with the SHA-256 of the `.deb` from the archive's signed lists, crates with the one in
//! `Cargo.lock` and the licence their author declared. No time and no random number: the same image, the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::debian::{Package, capture};
use crate::error::Error;
use crate::toolbox::SUITE;

/// A Rust crate linked into the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SPDX expression, as declared.
    pub license: Option<String>,
    /// SHA-256 of the `.crate` file; none for crates of this workspace.
    pub sha256: Option<String>,
}

/// Crates that the package `root` links or builds with for x86_64 Linux, itself included. `workspace`: where
/// `Cargo.toml` and `Cargo.lock` are.
///
/// # Errors
/// When cargo fails or does not know the package.
pub fn crates(workspace: &Path, root: &str) -> Result<Vec<Crate>, Error> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace);
    command.args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]);
    let text = capture(&mut command, false)?;
    let metadata: Value =
        serde_json::from_str(&text).map_err(|e| Error::unexpected("cargo metadata", e.to_string()))?;
    let lock = std::fs::read_to_string(workspace.join("Cargo.lock")).unwrap_or_default();
    parse(&metadata, &checksums(&lock), root)
        .ok_or_else(|| Error::unexpected("cargo metadata", format!("has no package {root}")))
}

/// `(name, version)` -> checksum, from the text of `Cargo.lock`. The file's form is cargo's own and line-based.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut out = BTreeMap::new();
    for stanza in lock.split("[[package]]") {
        let field = |name: &str| {
            let value = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
            Some(value.trim_end_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(sum)) = (field("name"), field("version"), field("checksum")) {
            out.insert((name, version), sum);
        }
    }
    out
}

fn parse(metadata: &Value, sums: &BTreeMap<(String, String), String>, root: &str) -> Option<Vec<Crate>> {
    let packages: BTreeMap<&str, &Value> =
        metadata["packages"].as_array()?.iter().filter_map(|p| Some((p["id"].as_str()?, p))).collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()?
        .iter()
        .filter_map(|n| Some((n["id"].as_str()?, n)))
        .collect();
    let start = packages.iter().find(|(_, p)| p["name"] == root).map(|(id, _)| *id)?;
    let mut queue = vec![start];
    let mut seen = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in nodes.get(id).and_then(|n| n["deps"].as_array()).into_iter().flatten() {
            // kind: null for a normal dependency, "build", or "dev".
            let kinds = dependency["dep_kinds"].as_array();
            let linked = kinds.is_some_and(|kinds| kinds.iter().any(|k| k["kind"] != "dev"));
            if let (true, Some(id)) = (linked, dependency["pkg"].as_str()) {
                queue.push(id);
            }
        }
    }
    let mut out: Vec<Crate> = seen
        .iter()
        .filter_map(|id| {
            let package = packages.get(id)?;
            let name = package["name"].as_str()?.to_owned();
            let version = package["version"].as_str()?.to_owned();
            let license = package["license"].as_str().map(|l| l.replace('/', " OR "));
            let sha256 = sums.get(&(name.clone(), version.clone())).cloned();
            Some(Crate { name, version, license, sha256 })
        })
        .collect();
    out.sort();
    Some(out)
}

/// The document. `image`: version of the image and SHA-256 of its kernel and initramfs together.
#[must_use]
pub fn document(version: &str, image_sha256: &[u8; 32], packages: &[Package], crates: &[Crate]) -> Value {
    let mut packages = packages.to_vec();
    packages.sort();
    packages.dedup();
    let mut components: Vec<Value> = packages.iter().map(debian_component).collect();
    components.extend(crates.iter().map(crate_component));
    let refs: Vec<Value> = components.iter().map(|c| c["bom-ref"].clone()).collect();
    let mut document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "firmware",
                "bom-ref": "cairn-image",
                "name": "cairn-image",
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": hex::encode(image_sha256)}],
            },
        },
        "components": components,
        "dependencies": [{"ref": "cairn-image", "dependsOn": refs}],
    });
    let digest = Sha256::digest(document.to_string().as_bytes());
    document["serialNumber"] = Value::String(uuid(&digest));
    document
}

/// A UUID of version 8 (RFC 9562, "custom") from a hash.
fn uuid(digest: &[u8]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Percent-encodes what the package-url specification wants encoded in a version.
fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn debian_component(package: &Package) -> Value {
    let purl = format!(
        "pkg:deb/debian/{}@{}?arch=amd64&distro={SUITE}",
        encode(&package.name),
        encode(&package.version)
    );
    json!({
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
        "purl": purl,
        "properties": [{"name": "cairn:debian:source", "value": package.source}],
    })
}

fn crate_component(item: &Crate) -> Value {
    let purl = format!("pkg:cargo/{}@{}", item.name, encode(&item.version));
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "name": item.name,
        "version": item.version,
        "purl": purl,
    });
    if let Some(license) = &item.license {
        component["licenses"] = json!([{"expression": license}]);
    }
    if let Some(sha256) = &item.sha256 {
        component["hashes"] = json!([{"alg": "SHA-256", "content": sha256}]);
    }
    component
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn crates_follow_normal_and_build_edges_only() {
        let metadata = json!({
            "packages": [
                {"id": "a", "name": "agent", "version": "1.0.0", "license": "Apache-2.0"},
                {"id": "b", "name": "b", "version": "2.0.0", "license": "MIT/Apache-2.0"},
                {"id": "c", "name": "only-for-tests", "version": "3.0.0", "license": null},
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [
                    {"pkg": "b", "dep_kinds": [{"kind": null}]},
                    {"pkg": "c", "dep_kinds": [{"kind": "dev"}]},
                ]},
                {"id": "b", "deps": [{"pkg": "a", "dep_kinds": [{"kind": "dev"}]}]},
            ]},
        });
        let lock = "[[package]]\nname = \"b\"\nversion = \"2.0.0\"\nchecksum = \"77\"\n";
        let found = parse(&metadata, &checksums(lock), "agent").unwrap();
        let names: Vec<&str> = found.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["agent", "b"]);
        assert_eq!(found[1].license.as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(found[1].sha256.as_deref(), Some("77"));
        assert!(parse(&metadata, &BTreeMap::new(), "nobody").is_none());
    }

    #[test]
    fn order_of_packages_does_not_matter() {
        let package = |name: &str| Package {
            name: name.to_owned(),
            version: "1:2+3~4".to_owned(),
            source: name.to_owned(),
            sha256: "0".repeat(64),
            depends: vec![],
        };
        let one = document("1", &[0; 32], &[package("x"), package("y")], &[]);
        let two = document("1", &[0; 32], &[package("y"), package("x"), package("x")], &[]);
        assert_eq!(one.to_string(), two.to_string());
        assert_eq!(one["components"][0]["purl"], "pkg:deb/debian/x@1%3A2%2B3~4?arch=amd64&distro=trixie");
    }
}
