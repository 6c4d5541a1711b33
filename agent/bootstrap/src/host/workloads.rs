//! `workloads`: objects that the bundles bring, applied once the cluster is well.

use std::collections::BTreeSet;

use cairn_bundle::durable;
use cairn_protocol::ids::Sha256Digest;
use serde_json::{Value, json};

use super::Host;
use super::base::json_files;
use crate::edge::api::{Api, ApiError, Change};
use crate::engine::{Seen, Trouble};
use crate::steps::Step;

/// The longest file of objects that is read, bytes.
const FILE_BYTES: u64 = 4 << 20;
/// Who owns the fields that are applied.
const MANAGER: &str = "cairn";
/// Where is remembered what was applied.
const MEMORY: &str = "/api/v1/namespaces/kube-system/configmaps/cairn-workloads";

impl Host {
    fn workload_files(&self) -> Vec<std::path::PathBuf> {
        json_files(&self.places.layer().join("workloads"))
    }

    pub(super) fn workloads_digest(&self) -> Result<Sha256Digest, Trouble> {
        let mut all = Vec::new();
        for path in self.workload_files() {
            let bytes = durable::read(&path, FILE_BYTES).map_err(|e| Trouble::passing(e.to_string()))?;
            all.extend(bytes.unwrap_or_default());
            all.push(0);
        }
        Ok(Sha256Digest::of(&all))
    }

    pub(super) fn probe_workloads(&self) -> Result<Seen, Trouble> {
        // One of them is enough; the first is there in every plan, and the others follow where it is gone for good.
        let done = self.workloads_done || self.record.has(Step::Workloads, self.workloads_digest()?);
        Ok(if done { Seen::Done } else { Seen::Needed })
    }

    pub(super) async fn apply_workloads(&mut self) -> Result<Vec<String>, Trouble> {
        let mut objects = Vec::new();
        for path in self.workload_files() {
            let bytes = durable::read(&path, FILE_BYTES).map_err(|e| Trouble::passing(e.to_string()))?;
            let value: Value = serde_json::from_slice(&bytes.unwrap_or_default()).map_err(|e| {
                Trouble::new(
                    format!("{}: {e}", path.display()),
                    "the bundle's workload is no JSON: build it again",
                )
            })?;
            objects.extend(flatten(value));
        }
        let api = self.api()?;
        let mut paths = Paths { api: &api, known: Vec::new() };
        objects.sort_by_key(|object| rank(object["kind"].as_str().unwrap_or_default()));
        let mut applied = BTreeSet::new();
        for object in &objects {
            let path = paths.of(object).await?;
            let query = format!("{path}?fieldManager={MANAGER}&force=true");
            api.change(Change::Apply, &query, object).await.map_err(trouble)?;
            applied.insert(path);
        }
        let mut log: Vec<String> = applied.iter().map(|path| format!("applied {path}")).collect();
        for path in remembered(&api).await.map_err(trouble)? {
            if !applied.contains(&path) {
                api.delete(&format!("{path}?propagationPolicy=Background")).await.map_err(trouble)?;
                log.push(format!("removed {path}"));
            }
        }
        let list: Vec<&String> = applied.iter().collect();
        let memory = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "cairn-workloads", "namespace": "kube-system" },
            "data": { "applied": serde_json::to_string(&list).unwrap_or_default() },
        });
        let query = format!("{MEMORY}?fieldManager={MANAGER}&force=true");
        api.change(Change::Apply, &query, &memory).await.map_err(trouble)?;
        self.workloads_done = true;
        Ok(log)
    }
}

fn trouble(error: ApiError) -> Trouble {
    Trouble::passing(error.to_string())
}

/// The objects of a file: a List's items, or the object itself.
fn flatten(mut value: Value) -> Vec<Value> {
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items.into_iter().flat_map(flatten).collect(),
        _ => vec![value],
    }
}

/// What others lie in or are made from comes first.
fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" | "CustomResourceDefinition" => 0,
        "ServiceAccount" | "ConfigMap" | "Secret" | "ClusterRole" | "Role" => 1,
        "ClusterRoleBinding" | "RoleBinding" | "Service" => 2,
        _ => 3,
    }
}

/// The paths that were applied last.
async fn remembered(api: &Api) -> Result<Vec<String>, ApiError> {
    match api.get(MEMORY).await {
        Ok(map) => Ok(read_memory(map["data"]["applied"].as_str().unwrap_or_default())),
        Err(error) if error.is_missing() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Paths of objects alone: what somebody else wrote into the map is not deleted for it.
fn read_memory(text: &str) -> Vec<String> {
    let paths: Vec<String> = serde_json::from_str(text).unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/.-_:".contains(&b);
    let is_object = |path: &String| {
        (path.starts_with("/api/v1/") || path.starts_with("/apis/"))
            && path.bytes().all(plain)
            && !path.contains("..")
    };
    paths.into_iter().filter(is_object).collect()
}

/// Paths of objects, by what the API server says of their kinds.
struct Paths<'a> {
    api: &'a Api,
    /// Group and version with their resources.
    known: Vec<(String, Value)>,
}

impl Paths<'_> {
    async fn of(&mut self, object: &Value) -> Result<String, Trouble> {
        let word = |value: &Value, what: &str| {
            value.as_str().filter(|text| is_name(text)).map(str::to_owned).ok_or_else(|| {
                Trouble::new(format!("a workload has no usable {what}"), "correct the bundle's workloads")
            })
        };
        let version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
        let (kind, name) = (word(&object["kind"], "kind")?, word(&object["metadata"]["name"], "name")?);
        let base = match version.split_once('/') {
            Some((group, version)) if is_name(group) && is_name(version) => {
                format!("/apis/{group}/{version}")
            }
            None if version == "v1" => "/api/v1".to_owned(),
            _ => {
                return Err(Trouble::new(
                    format!("the workload {kind} {name} has no usable apiVersion"),
                    "correct the bundle's workloads",
                ));
            }
        };
        // A kind may have come with the last object: what is not known is asked for again.
        if resource(&self.known, &base, &kind).is_none() {
            let resources = self.api.get(&base).await.map_err(trouble)?;
            self.known.retain(|(known, _)| *known != base);
            self.known.push((base.clone(), resources));
        }
        let (plural, namespaced) = resource(&self.known, &base, &kind).ok_or_else(|| {
            Trouble::passing(format!("the cluster does not know the kind {kind} of {version}"))
        })?;
        Ok(if namespaced {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
            format!("{base}/namespaces/{namespace}/{plural}/{name}")
        } else {
            format!("{base}/{plural}/{name}")
        })
    }
}

/// The plural and whether it lies in namespaces.
fn resource(known: &[(String, Value)], base: &str, kind: &str) -> Option<(String, bool)> {
    let (_, list) = known.iter().find(|(at, _)| at == base)?;
    let found = list["resources"].as_array()?.iter().find(|resource| {
        resource["kind"] == kind && resource["name"].as_str().is_some_and(|name| !name.contains('/'))
    })?;
    Some((found["name"].as_str()?.to_owned(), found["namespaced"].as_bool()?))
}

/// Names go into paths.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_flat_and_in_order() {
        let list = json!({ "kind": "List", "items": [{ "kind": "Deployment" }, { "kind": "List", "items": [{ "kind": "Namespace" }] }] });
        let mut objects = flatten(list);
        objects.sort_by_key(|object| rank(object["kind"].as_str().unwrap()));
        assert_eq!(objects, [json!({ "kind": "Namespace" }), json!({ "kind": "Deployment" })]);
    }

    #[test]
    fn kinds_are_found_by_discovery() {
        let list = json!({ "resources": [
            { "name": "deployments/status", "kind": "Deployment", "namespaced": true },
            { "name": "deployments", "kind": "Deployment", "namespaced": true },
        ] });
        let known = [("/apis/apps/v1".to_owned(), list)];
        assert_eq!(resource(&known, "/apis/apps/v1", "Deployment"), Some(("deployments".to_owned(), true)));
        assert_eq!(resource(&known, "/apis/apps/v1", "Pod"), None);
    }

    #[test]
    fn only_objects_are_forgotten() {
        let text = r#"["/api/v1/namespaces/default/services/hello","/apis/apps/v1/namespaces/a/deployments/b","/healthz","/api/v1/../x","/apis/a?x=1"]"#;
        assert_eq!(read_memory(text).len(), 2);
        assert!(read_memory("nonsense").is_empty());
    }
}
