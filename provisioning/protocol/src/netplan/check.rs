//! The rules of a network document that its types cannot say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::links::{BondMode, Common, Match, RouteSpec};
use super::{Destination, Netplan, NetplanError};

/// Links in one document: a rack server has a dozen ports and, at most, a VLAN for each tenant network.
const LINKS_MAX: usize = 512;
/// Entries of one list.
const LIST_MAX: usize = 256;
/// The longest link name of the kernel (`IFNAMSIZ` of linux/if.h, less the closing zero).
const NAME_MAX: usize = 15;
/// The longest id of an ethernet with a `match`, which is no kernel name.
const ID_MAX: usize = 63;
/// Smallest MTU of IPv4 (RFC 791) and of IPv6 (RFC 8200 section 5).
const MTU_MIN: u32 = 68;
const MTU_MIN_V6: u32 = 1280;

fn rule(at: impl Into<String>, why: impl Into<String>) -> NetplanError {
    NetplanError::Rule { at: at.into(), why: why.into() }
}

pub(super) fn check(plan: &Netplan) -> Result<(), NetplanError> {
    if plan.version != 2 {
        return Err(rule("version", format!("{} is not known; this program reads version 2", plan.version)));
    }
    let mut kinds = BTreeMap::new();
    for (kind, id, _) in plan.links() {
        if let Some(other) = kinds.insert(id, kind) {
            return Err(rule(format!("{kind}.{id}"), format!("{other} has a link of that id too")));
        }
    }
    if kinds.len() > LINKS_MAX {
        return Err(rule(".", format!("has {} links, more than the {LINKS_MAX} allowed", kinds.len())));
    }
    for (kind, id, _) in plan.links() {
        let free = plan.ethernets.get(id).is_some_and(|link| link.selector.is_some());
        check_id(&format!("{kind}.{id}"), id, if free { ID_MAX } else { NAME_MAX })?;
    }
    check_matches(plan)?;
    check_members(plan, &kinds)?;
    check_vlans(plan, &kinds)?;
    check_cycles(plan)?;
    let mut taken = BTreeMap::new();
    for (kind, id, link) in plan.links() {
        let at = format!("{kind}.{id}");
        check_link(&at, link)?;
        for cidr in &link.addresses {
            if let Some(other) = taken.insert(cidr.address(), at.clone()) {
                return Err(rule(
                    format!("{at}.addresses"),
                    format!("{other} has {} already", cidr.address()),
                ));
            }
        }
        if let Some(master) = plan.master_of(id)
            && (link.dhcp4
                || link.accept_ra == Some(true)
                || !link.addresses.is_empty()
                || !link.routes.is_empty())
        {
            return Err(rule(at, format!("belongs to {master}: addresses, routes and dhcp4 go there")));
        }
    }
    Ok(())
}

fn check_id(at: &str, id: &str, max: usize) -> Result<(), NetplanError> {
    let plain = id.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if id.is_empty() || id.len() > max || !plain || id == "." || id == ".." || id == "lo" {
        return Err(rule(
            at,
            format!("an id has 1 to {max} printable characters without / and :, and is not lo"),
        ));
    }
    Ok(())
}

fn check_matches(plan: &Netplan) -> Result<(), NetplanError> {
    let mut seen: BTreeMap<&Match, &str> = BTreeMap::new();
    let mut macs = BTreeMap::new();
    for (id, link) in &plan.ethernets {
        let Some(selector) = &link.selector else { continue };
        let at = format!("ethernets.{id}.match");
        if *selector == Match::default() {
            return Err(rule(at, "names no property; `name: \"*\"` takes every link"));
        }
        for (key, text) in [("name", &selector.name), ("driver", &selector.driver)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > ID_MAX) {
                return Err(rule(format!("{at}.{key}"), format!("takes 1 to {ID_MAX} characters")));
            }
        }
        if let Some(other) = seen.insert(selector, id) {
            return Err(rule(at, format!("is the same as that of ethernets.{other}")));
        }
        if let Some(mac) = selector.macaddress
            && let Some(other) = macs.insert(mac, id)
        {
            return Err(rule(format!("{at}.macaddress"), format!("ethernets.{other} has {mac} already")));
        }
    }
    Ok(())
}

fn check_members(plan: &Netplan, kinds: &BTreeMap<&str, &str>) -> Result<(), NetplanError> {
    let bonds = plan.bonds.iter().map(|(name, bond)| ("bonds", name, &bond.interfaces, &["ethernets"][..]));
    let bridges = plan
        .bridges
        .iter()
        .map(|(name, bridge)| ("bridges", name, &bridge.interfaces, &["ethernets", "bonds", "vlans"][..]));
    let mut masters = BTreeMap::new();
    for (kind, name, members, allowed) in bonds.chain(bridges) {
        let at = format!("{kind}.{name}.interfaces");
        for member in members {
            match kinds.get(member.as_str()) {
                None => return Err(rule(at, format!("{member} is no link of this document"))),
                Some(of) if !allowed.contains(of) => {
                    return Err(rule(at, format!("{member} is one of {of}; takes {}", allowed.join(", "))));
                }
                Some(_) => {}
            }
            if let Some(other) = masters.insert(member, name) {
                return Err(rule(at, format!("{member} belongs to {other} already")));
            }
        }
    }
    for (name, bond) in &plan.bonds {
        let (at, set) = (format!("bonds.{name}.parameters"), &bond.parameters);
        let lacp = set.mode == BondMode::Lacp;
        if (set.lacp_rate.is_some() || set.ad_select.is_some()) && !lacp {
            return Err(rule(at, "lacp-rate and ad-select go with mode: 802.3ad"));
        }
        if set.mii_monitor_interval.is_some_and(|value| !(1..=60_000).contains(&value)) {
            return Err(rule(format!("{at}.mii-monitor-interval"), "takes 1 to 60000 milliseconds"));
        }
        if set.min_links.is_some_and(|value| !(1..=255).contains(&value)) {
            return Err(rule(format!("{at}.min-links"), "takes 1 to 255"));
        }
        let interval = set.mii_monitor();
        for (key, value) in [("up-delay", set.up_delay), ("down-delay", set.down_delay)] {
            if value.is_some_and(|value| value > 600_000 || value % interval != 0) {
                let why = format!("takes a multiple of mii-monitor-interval ({interval} ms), at most 600000");
                return Err(rule(format!("{at}.{key}"), why));
            }
        }
        if let Some(primary) = &set.primary {
            let modes = [BondMode::ActiveBackup, BondMode::BalanceTlb, BondMode::BalanceAlb];
            if !modes.contains(&set.mode) {
                return Err(rule(
                    format!("{at}.primary"),
                    "goes with active-backup, balance-tlb and balance-alb",
                ));
            }
            if !bond.interfaces.contains(primary) {
                return Err(rule(format!("{at}.primary"), format!("{primary} is not among its interfaces")));
            }
        }
    }
    for (name, bridge) in &plan.bridges {
        if bridge.parameters.forward_delay.is_some_and(|value| !(2..=30).contains(&value)) {
            return Err(rule(format!("bridges.{name}.parameters.forward-delay"), "takes 2 to 30 seconds"));
        }
    }
    Ok(())
}

fn check_vlans(plan: &Netplan, kinds: &BTreeMap<&str, &str>) -> Result<(), NetplanError> {
    let mut seen = BTreeMap::new();
    for (name, vlan) in &plan.vlans {
        let at = format!("vlans.{name}");
        if !(1..=4094).contains(&vlan.id) {
            return Err(rule(format!("{at}.id"), "takes 1 to 4094"));
        }
        match kinds.get(vlan.link.as_str()) {
            None => {
                return Err(rule(format!("{at}.link"), format!("{} is no link of this document", vlan.link)));
            }
            Some(&"vlans") => {
                return Err(rule(
                    format!("{at}.link"),
                    "a VLAN in a VLAN is not supported: name the link below",
                ));
            }
            Some(_) => {}
        }
        if let Some(bond) = plan.master_of(&vlan.link).filter(|master| plan.bonds.contains_key(*master)) {
            return Err(rule(
                format!("{at}.link"),
                format!("{} belongs to {bond}: put the VLAN on that", vlan.link),
            ));
        }
        if let Some(other) = seen.insert((&vlan.link, vlan.id), name) {
            return Err(rule(at, format!("{other} is VLAN {} on {} already", vlan.id, vlan.link)));
        }
        let below = plan.links().find(|(_, id, _)| *id == vlan.link).and_then(|(_, _, link)| link.mtu);
        if let (Some(own), Some(below)) = (vlan.common.mtu, below)
            && own > below
        {
            return Err(rule(format!("{at}.mtu"), format!("{own} is above the {below} of {}", vlan.link)));
        }
    }
    Ok(())
}

/// A bridge may hold a VLAN whose link is the bridge, or a chain of such: found by walking down from each link.
fn check_cycles(plan: &Netplan) -> Result<(), NetplanError> {
    let below = |id: &str| -> Vec<&str> {
        let bridge = plan.bridges.get(id).into_iter().flat_map(|bridge| &bridge.interfaces);
        let bond = plan.bonds.get(id).into_iter().flat_map(|bond| &bond.interfaces);
        let vlan = plan.vlans.get(id).map(|vlan| &vlan.link);
        bridge.chain(bond).chain(vlan).map(String::as_str).collect()
    };
    for start in plan.bridges.keys() {
        let (mut todo, mut seen) = (below(start), BTreeSet::new());
        while let Some(id) = todo.pop() {
            if id == start {
                return Err(rule(format!("bridges.{start}"), "contains itself through its interfaces"));
            }
            if seen.insert(id) {
                todo.extend(below(id));
            }
        }
    }
    Ok(())
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !broadcast
}

fn check_link(at: &str, link: &Common) -> Result<(), NetplanError> {
    for (key, length) in [
        ("addresses", link.addresses.len()),
        ("routes", link.routes.len()),
        ("nameservers.addresses", link.nameservers.addresses.len()),
        ("nameservers.search", link.nameservers.search.len()),
    ] {
        if length > LIST_MAX {
            return Err(rule(
                format!("{at}.{key}"),
                format!("has {length} entries, more than the {LIST_MAX} allowed"),
            ));
        }
    }
    if link.dhcp6 {
        return Err(rule(
            format!("{at}.dhcp6"),
            "DHCPv6 is not spoken; accept-ra: true takes an address by itself",
        ));
    }
    for cidr in &link.addresses {
        let network = cidr.network();
        let hosts_below = if cidr.is_ipv4() { 31 } else { 127 };
        let names_network = cidr.address() == network.address() && cidr.prefix() < hosts_below;
        let broadcast = matches!(cidr.address(), IpAddr::V4(v4)
            if cidr.prefix() < 31 && v4.to_bits() | (u32::MAX >> cidr.prefix()) == v4.to_bits());
        if !is_host(cidr.address()) || cidr.prefix() == 0 || broadcast || (names_network && cidr.is_ipv4()) {
            return Err(rule(format!("{at}.addresses"), format!("{cidr} is not the address of a host")));
        }
    }
    if let Some(mtu) = link.mtu {
        let v6 = link.accept_ra == Some(true) || link.addresses.iter().any(|cidr| !cidr.is_ipv4());
        if !(MTU_MIN..=65535).contains(&mtu) || (v6 && mtu < MTU_MIN_V6) {
            return Err(rule(
                format!("{at}.mtu"),
                format!("takes {MTU_MIN} to 65535, with IPv6 at least {MTU_MIN_V6}"),
            ));
        }
    }
    for (number, route) in link.routes.iter().enumerate() {
        check_route(&format!("{at}.routes[{number}]"), link, route)?;
    }
    for server in &link.nameservers.addresses {
        if server.is_unspecified() || server.is_multicast() {
            return Err(rule(
                format!("{at}.nameservers.addresses"),
                format!("{server} is not the address of a host"),
            ));
        }
    }
    for name in &link.nameservers.search {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let plain = name.strip_suffix('.').unwrap_or(name);
        if plain.len() > 253 || !plain.split('.').all(label) {
            let name = crate::limits::clean_text(name);
            return Err(rule(format!("{at}.nameservers.search"), format!("{name:?} is not a domain name")));
        }
    }
    Ok(())
}

fn check_route(at: &str, link: &Common, route: &RouteSpec) -> Result<(), NetplanError> {
    if route.table == Some(0) {
        return Err(rule(format!("{at}.table"), "takes 1 to 4294967295"));
    }
    let v4 = match (route.to, route.via) {
        (Destination::Default, None) => return Err(rule(at, "a default route needs a via")),
        (Destination::Default, Some(via)) => via.is_ipv4(),
        (Destination::Network(to), _) => {
            if to.address() != to.network().address() {
                return Err(rule(
                    format!("{at}.to"),
                    format!("{to} has bits behind its prefix; write {}", to.network()),
                ));
            }
            to.is_ipv4()
        }
    };
    let Some(via) = route.via else { return Ok(()) };
    if via.is_ipv4() != v4 {
        return Err(rule(format!("{at}.via"), "is of the other IP version than to"));
    }
    if !is_host(via) {
        return Err(rule(format!("{at}.via"), format!("{via} is not the address of a host")));
    }
    // Where addresses come by themselves, only the running link can tell.
    let automatic = if v4 { link.dhcp4 } else { link.accept_ra != Some(false) };
    let link_local = matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !route.on_link && !automatic && !link_local && !link.addresses.iter().any(|cidr| cidr.contains(via)) {
        let why =
            format!("{via} is in no network of this link; say on-link: true if it is there all the same");
        return Err(rule(format!("{at}.via"), why));
    }
    Ok(())
}
