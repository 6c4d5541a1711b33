//! What is wanted of each link, all defaults filled in (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cairn_protocol::netplan::{Cidr, Common, Destination, Match, Netplan, RouteSpec};

use crate::facts::{LinkFacts, PROTOCOL_STATIC, Route, TABLE_MAIN};
use crate::glob;
use crate::made::{BondSetting, BridgeSetting, Made};

/// What is wanted of one link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// Kernel name.
    pub name: String,
    /// How to make it; `None` for hardware.
    pub made: Option<Made>,
    /// The bond or bridge that it belongs to, by kernel name.
    pub master: Option<String>,
    /// Ask for a lease by DHCPv4.
    pub dhcp4: bool,
    /// Take addresses and routes from IPv6 router advertisements.
    pub accept_ra: bool,
    /// Fixed addresses.
    pub addresses: Vec<Cidr>,
    /// Fixed routes.
    pub routes: Vec<Route>,
    /// Resolvers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// MTU in bytes; `None` leaves it, or takes the lease's.
    pub mtu: Option<u32>,
    /// Whether the node counts as online without it.
    pub optional: bool,
}

/// What is wanted of all links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// Links in the order in which they are made and set: what is below comes first.
    pub links: Vec<Want>,
    /// What of the plan does not fit this machine: the section, and why, in one line.
    pub problems: Vec<(String, String)>,
}

/// What is wanted of a hardware link when nothing else is said: DHCPv4 and IPv6 autoconfiguration.
pub fn automatic(name: &str) -> Want {
    Want { name: name.to_owned(), dhcp4: true, accept_ra: true, optional: true, ..Want::default() }
}

fn is_taken_for_hardware(link: &LinkFacts, also: &[String]) -> bool {
    link.is_hardware() || link.ethernet && also.iter().any(|pattern| glob::matches(pattern, &link.name))
}

/// What `netplan` wants of the links that are there. Without a plan every hardware link, and every virtual one whose
/// name matches `also`, comes up automatically.
pub fn wants(netplan: Option<&Netplan>, facts: &[LinkFacts], also: &[String]) -> Wants {
    let hardware: Vec<_> = facts.iter().filter(|link| is_taken_for_hardware(link, also)).collect();
    let Some(plan) = netplan else {
        // A member of somebody's bond or bridge is left to that.
        let free = hardware.iter().filter(|link| link.master.is_none());
        return Wants { links: free.map(|link| automatic(&link.name)).collect(), problems: Vec::new() };
    };
    let mut wants = Wants::default();
    let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    // Sections that match by hardware address go first, then those by name: a `name: "*"` takes what is left.
    let mut sections: Vec<_> = plan.ethernets.iter().collect();
    sections.sort_by_key(|(_, section)| match &section.selector {
        Some(Match { macaddress: Some(_), .. }) => 0,
        None => 1,
        Some(_) => 2,
    });
    for (id, section) in sections {
        let fits = |link: &&&LinkFacts| match &section.selector {
            None => link.name == *id,
            Some(selector) => selects(selector, link),
        };
        let found: Vec<_> =
            hardware.iter().filter(fits).filter(|link| !taken.contains(link.name.as_str())).collect();
        let at = || format!("ethernets.{id}");
        if found.is_empty() {
            if !section.common.optional {
                wants.problems.push((at(), "no network interface matches".to_owned()));
            }
            continue;
        }
        let alone = !section.common.addresses.is_empty();
        if found.len() > 1 && alone {
            let names: Vec<_> = found.iter().map(|link| link.name.as_str()).collect();
            let why = format!("{} all match, and its addresses can be on one only", names.join(", "));
            wants.problems.push((at(), why));
            continue;
        }
        for link in found {
            taken.insert(&link.name);
            names.entry(id).or_default().push(link.name.clone());
            wants.links.push(want(&link.name, id, plan, &section.common));
        }
    }
    for id in plan.bonds.keys().chain(plan.bridges.keys()).chain(plan.vlans.keys()) {
        names.insert(id, vec![id.clone()]);
    }
    let first = |id: &str| names.get(id).and_then(|names| names.first()).cloned();
    for (id, bond) in &plan.bonds {
        let primary = bond.parameters.primary.as_deref().and_then(first);
        let made = Made::Bond(BondSetting::new(&bond.parameters, primary));
        wants.links.push(Want { made: Some(made), ..want(id, id, plan, &bond.common) });
    }
    let vlan = |wants: &mut Wants, on_bridge: bool| {
        for (id, vlan) in &plan.vlans {
            if plan.bridges.contains_key(&vlan.link) != on_bridge {
                continue;
            }
            match names.get(vlan.link.as_str()).map(Vec::as_slice) {
                Some([link]) => {
                    let made = Made::Vlan { id: vlan.id, link: link.clone() };
                    wants.links.push(Want { made: Some(made), ..want(id, id, plan, &vlan.common) });
                }
                Some(links) => {
                    let why =
                        format!("{} is {} all the same: a VLAN has one link", vlan.link, links.join(" and "));
                    wants.problems.push((format!("vlans.{id}"), why));
                }
                None => wants.problems.push((format!("vlans.{id}"), format!("{} is not there", vlan.link))),
            }
        }
    };
    vlan(&mut wants, false);
    for (id, bridge) in &plan.bridges {
        let made = Made::Bridge(BridgeSetting::new(&bridge.parameters));
        wants.links.push(Want { made: Some(made), ..want(id, id, plan, &bridge.common) });
    }
    vlan(&mut wants, true);
    wants
}

fn selects(selector: &Match, link: &LinkFacts) -> bool {
    let fits = |pattern: &Option<String>, text: Option<&str>| {
        pattern.as_ref().is_none_or(|pattern| text.is_some_and(|text| glob::matches(pattern, text)))
    };
    selector.macaddress.is_none_or(|mac| mac.0 == link.own_mac())
        && fits(&selector.name, Some(&link.name))
        && fits(&selector.driver, link.driver.as_deref())
}

fn want(name: &str, id: &str, plan: &Netplan, link: &Common) -> Want {
    let master = plan.master_of(id).map(str::to_owned);
    // A link that only carries others has no address to wait for.
    let carries = !link.dhcp4 && link.addresses.is_empty() && link.accept_ra != Some(true);
    Want {
        name: name.to_owned(),
        made: None,
        dhcp4: link.dhcp4,
        accept_ra: link.accept_ra.unwrap_or(true) && master.is_none(),
        addresses: link.addresses.clone(),
        routes: link.routes.iter().map(route).collect(),
        dns: link.nameservers.addresses.clone(),
        search: link.nameservers.search.clone(),
        mtu: link.mtu,
        optional: link.optional || carries,
        master,
    }
}

fn route(spec: &RouteSpec) -> Route {
    let to = match spec.to {
        Destination::Network(to) => to,
        Destination::Default if spec.via.is_some_and(|via| via.is_ipv6()) => Cidr::DEFAULT_V6,
        Destination::Default => Cidr::DEFAULT_V4,
    };
    Route {
        to,
        via: spec.via,
        metric: spec.metric.unwrap_or(0),
        table: spec.table.unwrap_or(TABLE_MAIN),
        on_link: spec.on_link && spec.via.is_some(),
        protocol: PROTOCOL_STATIC,
    }
}
