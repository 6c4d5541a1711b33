//! Values that can be written and cannot work: a subnet that no host has, a card that no frame reaches, no time at all.

use std::path::Path;
use std::time::Duration;

use super::{RackSpec, Subnet, mac};

/// Checks what would only show when the rack is up.
pub(super) fn check(rack: &RackSpec) -> Result<(), String> {
    subnet(rack.site.subnet)?;
    if rack.expect.deadline.0 < Duration::from_secs(1) {
        return Err("expect: a deadline below 1s is over before anything began".to_owned());
    }
    for (index, node) in rack.nodes.iter().enumerate() {
        for nic in 0..node.nics.len() {
            let mac = mac(rack, index, nic);
            let first = mac.split(':').next().and_then(|octet| u8::from_str_radix(octet, 16).ok());
            if first.is_some_and(|first| first & 1 == 1) || mac == "00:00:00:00:00:00" {
                return Err(format!("node {}: {mac} is no address of one card", node.name));
            }
        }
    }
    Ok(())
}

/// Files that the rack file names, by what they are for.
pub(super) fn files(rack: &RackSpec) -> Result<(), String> {
    let plan = rack.site.plan.iter().map(|path| ("site.plan".to_owned(), path));
    let seeds = rack
        .nodes
        .iter()
        .filter_map(|node| Some((format!("seed of node {}", node.name), node.seed.as_ref()?)));
    for (what, path) in plan.chain(seeds) {
        is_file(&what, path)?;
    }
    Ok(())
}

fn is_file(what: &str, path: &Path) -> Result<(), String> {
    if path.is_file() { Ok(()) } else { Err(format!("{what}: there is no file {}", path.display())) }
}

fn subnet(subnet: Subnet) -> Result<(), String> {
    let first = subnet.network.octets()[0];
    let bad = subnet.network.is_loopback()
        || subnet.network.is_multicast()
        || subnet.network.is_link_local()
        // 0/8 is "this network", 240/4 is reserved (RFC 6890).
        || first == 0
        || first >= 240;
    if bad {
        return Err(format!(
            "site.subnet: hosts cannot have addresses of {}/{}",
            subnet.network, subnet.prefix
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::parse;

    #[test]
    fn what_cannot_work_is_said_before_anything_is_started() {
        let rack = |site: &str, nic: &str, expect: &str| {
            format!(
                "name = \"r\"\n[site]\n{site}\n[[node]]\nname = \"n\"\nboot = \"direct\"\nnic = [{{ {nic} }}]\n[expect]\n{expect}\n"
            )
        };
        let good = rack("subnet = \"10.1.0.0/24\"", "", "deadline = \"1s\"");
        assert!(parse(&good, Path::new("r.toml")).is_ok(), "{:?}", parse(&good, Path::new("r.toml")));
        for (text, said) in [
            (rack("subnet = \"127.0.0.0/24\"", "", ""), "cannot have addresses"),
            (rack("subnet = \"0.0.0.0/24\"", "", ""), "cannot have addresses"),
            (rack("subnet = \"169.254.0.0/16\"", "", ""), "cannot have addresses"),
            (rack("subnet = \"224.0.0.0/24\"", "", ""), "cannot have addresses"),
            (rack("subnet = \"255.255.255.0/24\"", "", ""), "cannot have addresses"),
            (rack("subnet = \"10.0.0.0/40\"", "", ""), "no subnet"),
            (rack("", "mac = \"ff:ff:ff:ff:ff:ff\"", ""), "no address of one card"),
            (rack("", "mac = \"01:00:5e:00:00:01\"", ""), "no address of one card"),
            (rack("", "mac = \"00:00:00:00:00:00\"", ""), "no address of one card"),
            (rack("", "", "deadline = \"0s\""), "over before anything began"),
        ] {
            let error = parse(&text, Path::new("r.toml")).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn files_that_are_not_there_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        std::fs::write(
            &path,
            "name = \"r\"\n[site]\nplan = \"p.yaml\"\n[[node]]\nname = \"n\"\nboot = \"direct\"\n",
        )
        .unwrap();
        let error = super::super::load(&path).unwrap_err().to_string();
        assert!(error.contains("site.plan") && error.contains("p.yaml"), "{error}");
        std::fs::write(dir.path().join("p.yaml"), "").unwrap();
        assert!(super::super::load(&path).is_ok());
    }
}
