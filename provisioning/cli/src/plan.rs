//! Checking and previewing plans.

use std::path::Path;

use cairn_protocol::inventory::Inventory;
use cairn_protocol::plan::Plan as SitePlan;
use serde::Deserialize;

use crate::args::{Global, Plan};
use crate::client::{self, Client};
use crate::error::Error;
use crate::output::{Output, bytes, or_dash, table};
use crate::preview::{Action, Row, preview};
use crate::site::read_plan;

pub(crate) fn run(command: Plan, global: &Global, out: &Output) -> Result<(), Error> {
    match command {
        Plan::Check { file } => check(&file, out),
        Plan::Preview { file, site } => {
            let client = Client::new(global)?;
            let rows = client::run(async {
                let plan = match (file, site) {
                    (Some(file), _) => read_plan(&file)?.0,
                    (None, Some(site)) => client.get(&format!("/v1/sites/{site}/plan")).await?,
                    (None, None) => return Err(Error::Usage("name a plan's file, or --site".to_owned())),
                };
                rows(&client, &plan).await
            })?;
            out.print(&rows, |rows| preview_table(rows))
        }
    }
}

fn check(path: &Path, out: &Output) -> Result<(), Error> {
    let (plan, _) = read_plan(path)?;
    let answer = serde_json::json!({ "valid": true, "site": plan.site.as_str(), "nodes": plan.nodes.len() });
    out.print(&answer, |_| {
        format!("{}: a valid plan for site {} with {} nodes", path.display(), plan.site, plan.nodes.len())
    })
}

async fn rows(client: &Client, plan: &SitePlan) -> Result<Vec<Row>, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Detail {
        inventory: Option<Inventory>,
    }
    let mut rows = Vec::new();
    for (name, node) in &plan.nodes {
        let detail: Option<Detail> = client.find(&format!("/v1/nodes/{}/{name}", plan.site)).await?;
        rows.push(preview(plan, name, node, detail.and_then(|detail| detail.inventory).as_ref()));
    }
    Ok(rows)
}

fn preview_table(rows: &[Row]) -> String {
    let row = |row: &Row| {
        let action = match row.action {
            Action::Unknown => "unknown",
            Action::None => "none",
            Action::Keep => "keep",
            Action::Install => "install",
            Action::Wipe => "WIPE",
            Action::Refuse => "refuse",
        };
        let size = if row.size_bytes > 0 { bytes(row.size_bytes) } else { "-".to_owned() };
        vec![
            row.node.clone(),
            action.to_owned(),
            or_dash(Some(&row.disk)),
            size,
            or_dash(Some(&row.content)),
            row.line.clone(),
        ]
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    table(&["NODE", "ACTION", "DISK", "SIZE", "HOLDS NOW", "WHAT HAPPENS"], &rows)
}
