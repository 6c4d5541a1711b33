//! Sites: plans, tokens, seeds.

use std::path::Path;

use cairn_bundle::durable;
use cairn_protocol::ids::Name;
use cairn_protocol::limits::{PLAN_BYTES, SEED_BYTES};
use cairn_protocol::netplan::Netplan;
use cairn_protocol::plan::Plan;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::{Global, Site, SitePlan};
use crate::client::{self, Body, Client};
use crate::error::{Error, read_text};
use crate::output::{Output, ago, table};
use crate::repo;

/// A site in a list.
#[derive(Debug, Serialize, Deserialize)]
struct SiteView {
    site: String,
    nodes: u64,
    enrolled: u64,
    #[serde(default)]
    ready: u64,
    #[serde(default)]
    lost: u64,
    updated: u64,
}

pub(crate) fn run(command: Site, global: &Global, out: &Output) -> Result<(), Error> {
    match command {
        Site::Plan(SitePlan::Apply { file }) => apply(&file, global, out),
        Site::List => {
            let client = Client::new(global)?;
            let sites: Vec<SiteView> = client::run(client.get("/v1/sites"))?;
            let now = repo::now(global).0;
            out.print(&sites, |sites| {
                let row = |s: &SiteView| {
                    let counts = [s.nodes, s.enrolled, s.ready, s.lost].map(|count| count.to_string());
                    [vec![s.site.clone()], counts.to_vec(), vec![ago(now, Some(s.updated))]].concat()
                };
                let rows: Vec<_> = sites.iter().map(row).collect();
                table(&["SITE", "NODES", "ENROLLED", "READY", "LOST", "CHANGED"], &rows)
            })
        }
        Site::Show { site } => show(&site, global, out),
        Site::Token { site, ttl } => {
            let client = Client::new(global)?;
            let answer: Value =
                client::run(client.post(&format!("/v1/sites/{site}/tokens"), json!({ "ttl_seconds": ttl })))?;
            out.print(&answer, |answer| answer["token"].as_str().unwrap_or_default().to_owned())
        }
        Site::Seed { site, network, controllers, with_token, ttl, out: file } => {
            let mut request = json!({ "controllers": controllers, "with_token": with_token });
            if let Some(path) = &network {
                request["network"] = serde_json::to_value(read_network(path)?).map_err(Error::failed)?;
            }
            if let Some(ttl) = ttl {
                request["ttl_seconds"] = json!(ttl);
            }
            let client = Client::new(global)?;
            let seed: Value = client::run(client.post(&format!("/v1/sites/{site}/seed"), request))?;
            let text = serde_json::to_vec_pretty(&seed).map_err(Error::failed)?;
            // A token in it lets a machine ask to join.
            durable::write_mode(&file, &text, 0o600).map_err(Error::failed)?;
            out.print(&json!({ "site": site.as_str(), "file": file, "with_token": with_token }), |_| {
                format!(
                    "{}: put it as {} in the root of the stick",
                    file.display(),
                    cairn_protocol::seed::FILE_NAME
                )
            })
        }
    }
}

/// Reads and checks a plan; what is wrong is named with its line.
pub(crate) fn read_plan(path: &Path) -> Result<(Plan, String), Error> {
    let text = read_text(path, PLAN_BYTES as u64)?;
    let plan = Plan::parse(&text).map_err(|e| Error::input(path, e))?;
    Ok((plan, text))
}

/// A netplan document: the `network:` section, or what is in it.
fn read_network(path: &Path) -> Result<Netplan, Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        network: Netplan,
    }
    let text = read_text(path, SEED_BYTES as u64)?;
    let options = || serde_saphyr::options! { with_snippet: false };
    let whole = text.lines().any(|line| line.starts_with("network:"));
    let network = if whole {
        serde_saphyr::from_str_with_options::<Document>(&text, options()).map(|document| document.network)
    } else {
        serde_saphyr::from_str_with_options::<Netplan>(&text, options())
    };
    network.map_err(|e| Error::input(path, e))
}

fn apply(path: &Path, global: &Global, out: &Output) -> Result<(), Error> {
    let (plan, text) = read_plan(path)?;
    let client = Client::new(global)?;
    let answer: Value = client::run(async {
        let url = format!("/v1/sites/{}/plan", plan.site);
        let response =
            client.send(Method::PUT, &url, Body::Bytes("application/yaml", text.into_bytes())).await?;
        client.json(response).await
    })?;
    let missing: Vec<String> = serde_json::from_value(answer["missing"].clone()).unwrap_or_default();
    if !missing.is_empty() {
        eprintln!(
            "cairnctl: not published yet, so nodes wait for them: {}; publish them with: cairnctl publish",
            missing.join(", ")
        );
    }
    out.print(&answer, |answer| {
        let changed = answer["changed"].as_array().map_or(0, Vec::len);
        format!(
            "site {}: plan applied, {} nodes, {changed} with a new assignment",
            plan.site,
            plan.nodes.len()
        )
    })
}

fn show(site: &Name, global: &Global, out: &Output) -> Result<(), Error> {
    let client = Client::new(global)?;
    client::run(async {
        if out.is_json() {
            let plan: Value = client.get(&format!("/v1/sites/{site}/plan")).await?;
            return out.print(&plan, |_| String::new());
        }
        let yaml = client.file(&format!("/v1/sites/{site}/plan?format=yaml"), PLAN_BYTES).await?;
        let yaml = yaml.ok_or_else(|| Error::Refused {
            status: 404,
            code: "unknown-site".to_owned(),
            detail: format!("there is no site {site}; apply a plan first: cairnctl site plan apply"),
        })?;
        out.print(&(), |()| String::from_utf8_lossy(&yaml).into_owned())
    })
}
