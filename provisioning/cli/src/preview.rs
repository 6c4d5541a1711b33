//! What a plan would do to each node's disks, from what the node reported. The selector is the agent's own.

use cairn_protocol::ids::Name;
use cairn_protocol::inventory::{Disk, DiskContent, Inventory};
use cairn_protocol::plan::{Node, Plan, Size, SystemDisk};
use cairn_protocol::select::{self, SelectError};
use serde::Serialize;

/// What would become of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Nothing is known of the machine yet.
    Unknown,
    /// The plan has no disks for it.
    None,
    /// It is this node's own: kept.
    Keep,
    /// It is empty: partitioned.
    Install,
    /// Somebody's data on it is lost.
    Wipe,
    /// The node will refuse, and wait.
    Refuse,
}

/// One node's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    pub(crate) node: String,
    pub(crate) action: Action,
    /// Kernel name, or empty.
    pub(crate) disk: String,
    pub(crate) model: String,
    pub(crate) serial: String,
    pub(crate) size_bytes: u64,
    /// What is on it now.
    pub(crate) content: String,
    /// The stable word of a refusal, or empty.
    pub(crate) code: String,
    /// One line for people.
    pub(crate) line: String,
}

/// The line of `node`; `inventory` is what it last reported.
pub(crate) fn preview(plan: &Plan, name: &Name, node: &Node, inventory: Option<&Inventory>) -> Row {
    let mut row = Row {
        node: name.to_string(),
        action: Action::Unknown,
        disk: String::new(),
        model: String::new(),
        serial: String::new(),
        size_bytes: 0,
        content: String::new(),
        code: String::new(),
        line: String::new(),
    };
    let Some(disks) = plan.node_plan(name, node).disks else {
        row.action = Action::None;
        row.line = "no disks in the plan: none is touched".to_owned();
        return row;
    };
    let Some(inventory) = inventory else {
        row.line = format!(
            "has not reported its disks yet; the plan takes {}",
            select::describe(&disks.system.selector)
        );
        return row;
    };
    match select::select(&inventory.disks, &disks.system.selector) {
        Ok(disk) => judge(&mut row, disk, &disks.system, &plan.site, name),
        Err(error) => refuse(&mut row, &error),
    }
    row
}

fn refuse(row: &mut Row, error: &SelectError) {
    row.action = Action::Refuse;
    row.code = error.code().to_owned();
    row.line = error.to_string();
}

fn judge(row: &mut Row, disk: &Disk, want: &SystemDisk, site: &Name, node: &Name) {
    row.disk.clone_from(&disk.name);
    row.model.clone_from(&disk.model);
    row.serial.clone_from(&disk.serial);
    row.size_bytes = disk.size_bytes;
    let (content, foreign) = match &disk.content {
        DiskContent::Empty => ("empty".to_owned(), None),
        DiskContent::Cairn { site: on_site, node: on_node } if on_site.is_empty() && on_node.is_empty() => {
            ("an unfinished installation".to_owned(), None)
        }
        DiskContent::Cairn { site: on_site, node: on_node } => {
            let text = format!("the installation of node {on_node} of site {on_site}");
            let own = on_site == site.as_str() && on_node == node.as_str();
            (text.clone(), (!own).then_some(text))
        }
        DiskContent::Foreign { what } => (what.clone(), Some(what.clone())),
        DiskContent::Unknown => ("unknown".to_owned(), Some("data that could not be read".to_owned())),
    };
    let own = matches!(&disk.content, DiskContent::Cairn { .. }) && foreign.is_none();
    row.content = content;
    (row.action, row.line) = match foreign {
        Some(what) if want.wipe => (Action::Wipe, format!("{what} is lost: the plan says wipe")),
        Some(what) => {
            row.code = "disk-foreign".to_owned();
            let line = format!(
                "holds {what}; the node waits until the plan says `wipe: true`, or the disk is emptied"
            );
            (Action::Refuse, line)
        }
        None if own => (Action::Keep, "kept".to_owned()),
        None => (Action::Install, format!("partitioned: {} for Cairn", Size(disk.size_bytes))),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(system: &str) -> Plan {
        Plan::parse(&format!(
            "version: 1\nsite: s1\ndisks: {{ system: {system} }}\nnodes: {{ n1: {{ serial: A }} }}\n"
        ))
        .unwrap()
    }

    fn inventory(contents: Vec<DiskContent>) -> Inventory {
        let disk = |(n, content)| Disk {
            name: format!("vd{n}"),
            transport: "virtio".to_owned(),
            size_bytes: 8 << 30,
            content,
            ..Disk::default()
        };
        let disks = contents.into_iter().enumerate().map(disk).collect();
        Inventory { disks, ..Inventory::default() }
    }

    #[test]
    fn each_content_has_its_action() {
        let cairn =
            |site: &str, node: &str| DiskContent::Cairn { site: site.to_owned(), node: node.to_owned() };
        let foreign = DiskContent::Foreign { what: "gpt: ext4".to_owned() };
        for (content, wipe, action, code) in [
            (DiskContent::Empty, false, Action::Install, ""),
            (cairn("s1", "n1"), false, Action::Keep, ""),
            (cairn("", ""), false, Action::Keep, ""),
            (cairn("s1", "n2"), false, Action::Refuse, "disk-foreign"),
            (cairn("s2", "n1"), true, Action::Wipe, ""),
            (foreign.clone(), false, Action::Refuse, "disk-foreign"),
            (foreign, true, Action::Wipe, ""),
            (DiskContent::Unknown, false, Action::Refuse, "disk-foreign"),
        ] {
            let plan = plan(&format!("{{ match: {{ transport: virtio }}, wipe: {wipe} }}"));
            let (name, node) = plan.nodes.iter().next().unwrap();
            let row = preview(&plan, name, node, Some(&inventory(vec![content.clone()])));
            assert_eq!((row.action, row.code.as_str()), (action, code), "{content:?} {wipe}: {}", row.line);
        }
    }

    #[test]
    fn refusals_and_the_unknown() {
        let two = plan("{ match: { transport: virtio } }");
        let (name, node) = two.nodes.iter().next().unwrap();
        let row = preview(&two, name, node, Some(&inventory(vec![DiskContent::Empty, DiskContent::Empty])));
        assert_eq!((row.action, row.code.as_str()), (Action::Refuse, "disk-ambiguous"));
        assert_eq!(preview(&two, name, node, None).action, Action::Unknown);
        let none = Plan::parse("version: 1\nsite: s1\nnodes: { n1: { serial: A } }\n").unwrap();
        let (name, node) = none.nodes.iter().next().unwrap();
        assert_eq!(preview(&none, name, node, None).action, Action::None);
    }
}
