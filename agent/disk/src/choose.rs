//! Which disk becomes the system disk, and why another does not.

use cairn_protocol::ids::Name;
use cairn_protocol::inventory::{Disk, DiskContent};
use cairn_protocol::plan::{Selector, Size, SystemDisk};
use cairn_protocol::select;

use crate::discover::Found;
use crate::error::{DiskError, Result};
use crate::layout;

/// The disk that `want` means, and that may be written to for node `node` of `site`: empty, ours already (of this node,
/// or not finished), or foreign with the plan's leave.
///
/// # Errors
/// [`DiskError`] with code `disk-none`, `disk-ambiguous`, `disk-too-small` or `disk-foreign`.
pub fn system<'a>(found: &'a [Found], want: &SystemDisk, site: &Name, node: &Name) -> Result<&'a Found> {
    let eligible: Vec<&Found> =
        found.iter().filter(|found| !found.boot_medium || is_named(&found.disk, &want.selector)).collect();
    let disks: Vec<Disk> = eligible.iter().map(|found| found.disk.clone()).collect();
    let name = select::select(&disks, &want.selector)?.name.clone();
    let chosen = eligible
        .into_iter()
        .find(|found| found.disk.name == name)
        .ok_or_else(|| DiskError::Unexpected { path: name.into(), why: "it is gone".to_owned() })?;
    allow(&chosen.disk, want, site, node)?;
    Ok(chosen)
}

/// Whether the selector names this very disk: a stick is never what a pattern happens to find.
fn is_named(disk: &Disk, selector: &Selector) -> bool {
    [(&selector.serial, &disk.serial), (&selector.wwn, &disk.wwn), (&selector.path, &disk.path)]
        .into_iter()
        .any(|(wanted, own)| !own.is_empty() && wanted.as_ref() == Some(own))
}

fn allow(disk: &Disk, want: &SystemDisk, site: &Name, node: &Name) -> Result<()> {
    if let Err(layout::TooSmall { needed }) = layout::plan(disk.size_bytes, want) {
        let name = disk.name.clone();
        return Err(DiskError::TooSmall { name, size: Size(disk.size_bytes), needed: Size(needed) });
    }
    let what = match &disk.content {
        DiskContent::Empty => return Ok(()),
        DiskContent::Cairn { site: own_site, node: own_node } => {
            let unfinished = own_site.is_empty() && own_node.is_empty();
            if unfinished || (own_site == site.as_str() && own_node == node.as_str()) {
                return Ok(());
            }
            format!("the installation of node {own_node} of site {own_site}")
        }
        DiskContent::Foreign { what } => what.clone(),
        DiskContent::Unknown => "data that could not be read".to_owned(),
    };
    if want.wipe { Ok(()) } else { Err(DiskError::Foreign { name: disk.name.clone(), what }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, gib: u64, content: DiskContent) -> Found {
        let disk = Disk {
            name: name.to_owned(),
            serial: format!("S-{name}"),
            transport: "virtio".to_owned(),
            size_bytes: gib << 30,
            sector_bytes: 512,
            content,
            ..Disk::default()
        };
        Found { disk, node: format!("/dev/{name}").into(), boot_medium: false, layout: None, finished: false }
    }

    fn cairn(site: &str, node: &str) -> DiskContent {
        DiskContent::Cairn { site: site.to_owned(), node: node.to_owned() }
    }

    fn want(wipe: bool) -> SystemDisk {
        let selector = Selector { transport: Some("virtio".to_owned()), ..Selector::default() };
        SystemDisk { selector, wipe, ..SystemDisk::default() }
    }

    #[test]
    fn what_may_be_written_to() {
        let (site, node) = (Name::new("s1").unwrap(), Name::new("n1").unwrap());
        let foreign = DiskContent::Foreign { what: "gpt: ext4".to_owned() };
        for (content, wipe, code) in [
            (DiskContent::Empty, false, None),
            (cairn("", ""), false, None),
            (cairn("s1", "n1"), false, None),
            (cairn("s1", "n2"), false, Some("disk-foreign")),
            (cairn("s2", "n1"), true, None),
            (foreign.clone(), false, Some("disk-foreign")),
            (foreign, true, None),
            (DiskContent::Unknown, false, Some("disk-foreign")),
        ] {
            let disks = [found("vda", 8, content.clone())];
            let result = system(&disks, &want(wipe), &site, &node);
            assert_eq!(result.as_ref().err().and_then(DiskError::code), code, "{content:?} {wipe}");
        }
    }

    #[test]
    fn refusals_say_what_was_found_and_what_would_do() {
        let (site, node) = (Name::new("s1").unwrap(), Name::new("n1").unwrap());
        let say = |disks: &[Found]| {
            let error = system(disks, &want(false), &site, &node).unwrap_err();
            (error.code().unwrap(), error.to_string(), error.advice())
        };
        let (code, text, _) = say(&[found("vda", 4, DiskContent::Empty)]);
        assert_eq!(code, "disk-too-small");
        assert_eq!(text, "disk vda has 4GiB; with the plan's partition sizes at least 7171MiB are needed");
        let (code, text, advice) = say(&[found("vda", 8, DiskContent::Foreign { what: "lvm2".to_owned() })]);
        assert_eq!(
            (code, text.as_str()),
            ("disk-foreign", "disk vda holds lvm2, and the plan does not allow to overwrite it")
        );
        assert!(advice.contains("wipe: true"));
        let two = [found("vda", 8, DiskContent::Empty), found("vdb", 8, DiskContent::Empty)];
        assert_eq!(say(&two).0, "disk-ambiguous");
        assert_eq!(say(&[]).0, "disk-none");
    }

    #[test]
    fn the_stick_is_taken_only_by_name() {
        let (site, node) = (Name::new("s1").unwrap(), Name::new("n1").unwrap());
        let stick =
            Found { boot_medium: true, ..found("vdb", 8, DiskContent::Foreign { what: "x".to_owned() }) };
        let disks = [found("vda", 8, DiskContent::Empty), stick];
        assert_eq!(system(&disks, &want(true), &site, &node).unwrap().disk.name, "vda");
        let mut named = want(true);
        named.selector.serial = Some("S-vdb".to_owned());
        assert_eq!(system(&disks, &named, &site, &node).unwrap().disk.name, "vdb");
        named.selector.serial = Some("S-vd?".to_owned());
        assert_eq!(system(&disks, &named, &site, &node).unwrap().disk.name, "vda");
    }
}
