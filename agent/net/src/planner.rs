//! From what is wanted and what is there to the steps between (pure).
//!
//! Running the steps and planning again gives no steps. Only routes of our protocols, and only links that the plan
//! names or that were ours before, are touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cairn_protocol::netplan::Cidr;

use crate::dhcp::Lease;
use crate::facts::{AddressFact, LinkFacts, PROTOCOL_DHCP, Route, TABLE_MAIN};
use crate::made::Made;
use crate::op::Op;
use crate::want::Want;

/// Metric of a DHCP route, plus the link's index: two links with a default route each do not overwrite each other,
/// and the first link wins. 100 is netplan's default for DHCP.
const DHCP_METRIC: u32 = 100;
/// Lifetimes may differ by this much between lease and kernel before the address is set again, seconds: the kernel
/// counts in whole seconds and the netlink answer is a moment old.
const LIFETIME_SLACK: u32 = 5;

/// A lease in use.
#[derive(Debug, Clone, Copy)]
pub struct LeaseUse<'a> {
    /// The lease.
    pub lease: &'a Lease,
    /// Seconds it has left; `None` is for ever.
    pub seconds: Option<u32>,
}

/// The steps from `facts` to `wants`. `leases` are by link name; `ours` are the names of links that were made for a
/// plan before, and go when the plan does not make them any more.
pub fn plan(
    wants: &[Want],
    facts: &[LinkFacts],
    leases: &BTreeMap<&str, LeaseUse<'_>>,
    ours: &BTreeSet<String>,
) -> Vec<Op> {
    let find = |name: &str| facts.iter().find(|link| link.name == name);
    let mut ops = Vec::new();
    let mut remade: BTreeSet<&str> = BTreeSet::new();
    // What stands on others goes first: the reverse of the order in which links are made.
    let gone =
        ours.iter().filter(|name| !wants.iter().any(|want| want.made.is_some() && want.name == **name));
    let mut gone: Vec<_> = gone.filter_map(|name| find(name)).filter(|link| link.made.is_some()).collect();
    gone.sort_by_key(|link| match link.made {
        Some(Made::Vlan { .. }) => 0,
        Some(Made::Bridge(_)) => 1,
        _ => 2,
    });
    ops.extend(gone.iter().map(|link| Op::Delete { link: link.name.clone() }));
    for want in wants.iter().rev() {
        let have = find(&want.name).and_then(|link| link.made.as_ref());
        if let (Some(made), Some(have)) = (&want.made, have)
            && !made.is_met_by(have)
        {
            ops.push(Op::Delete { link: want.name.clone() });
            remade.insert(&want.name);
        }
    }
    // A VLAN goes with the link below it.
    for want in wants {
        if let Some(Made::Vlan { link, .. }) = &want.made
            && remade.contains(link.as_str())
        {
            remade.insert(&want.name);
        }
    }
    // The state after the deletions and as far as the steps below have come.
    let here = |name: &str| find(name).filter(|_| !remade.contains(name));
    for want in wants {
        if let Some(made) = &want.made
            && here(&want.name).is_none()
        {
            ops.push(Op::Make { link: want.name.clone(), made: made.clone() });
        }
    }
    for want in wants {
        let have = here(&want.name);
        let master = have.and_then(|link| link.master.as_deref()).filter(|master| here(master).is_some());
        if master == want.master.as_deref() {
            continue;
        }
        // Only what a plan of ours put together is taken apart.
        if want.master.is_none() && !master.is_some_and(|master| ours.contains(master)) {
            continue;
        }
        let bond = wants.iter().any(|other| {
            Some(&other.name) == want.master.as_ref() && matches!(other.made, Some(Made::Bond(_)))
        });
        if bond && have.is_some_and(|link| link.up) {
            ops.push(Op::Down { link: want.name.clone() });
        }
        ops.push(Op::Join { link: want.name.clone(), master: want.master.clone() });
    }
    for want in wants {
        let fresh = LinkFacts { name: want.name.clone(), ..LinkFacts::default() };
        let lease = leases.get(want.name.as_str()).copied();
        let went_down = ops.contains(&Op::Down { link: want.name.clone() });
        let mut have = here(&want.name).unwrap_or(&fresh).clone();
        // The bond brings its members up; asked again, it is no error.
        have.up &= !went_down;
        ops.extend(link_ops(&have, want, lease));
    }
    ops
}

/// The steps for one link that is there, given what is wanted of it and the lease it has.
pub fn link_ops(facts: &LinkFacts, want: &Want, lease: Option<LeaseUse<'_>>) -> Vec<Op> {
    let mut ops = Vec::new();
    let link = || facts.name.clone();
    let accept = if want.accept_ra { 2 } else { 0 };
    let autoconf = u8::from(want.accept_ra);
    for (key, have, value) in
        [("accept_ra", facts.ipv6.accept_ra, accept), ("autoconf", facts.ipv6.autoconf, autoconf)]
    {
        if have.is_some_and(|have| have != value) {
            ops.push(Op::Ipv6 { link: link(), key, value });
        }
    }
    let mtu = want.mtu.or(lease.and_then(|lease| lease.lease.mtu).map(u32::from));
    if let Some(mtu) = mtu.filter(|mtu| *mtu != facts.mtu) {
        ops.push(Op::Mtu { link: link(), mtu });
    }
    if !facts.up {
        ops.push(Op::Up { link: link() });
    }

    let addresses = wanted_addresses(want, lease);
    let routes = wanted_routes(facts, want, lease);
    // Routes go before the addresses they lean on, and come after them.
    for route in &facts.routes {
        if !routes.iter().any(|wanted| same_route(wanted, route)) {
            ops.push(Op::DelRoute { link: link(), route: route.clone() });
        }
    }
    for address in &facts.addresses {
        if is_ours(address) && !addresses.iter().any(|(cidr, _)| *cidr == address.cidr) {
            ops.push(Op::DelAddress { link: link(), cidr: address.cidr });
        }
    }
    for (cidr, seconds) in addresses {
        let have = facts.addresses.iter().find(|address| address.cidr == cidr);
        if have.is_none_or(|have| !same_lifetime(have.seconds, seconds)) {
            ops.push(Op::SetAddress { link: link(), cidr, seconds });
        }
    }
    for route in routes {
        if !facts.routes.iter().any(|have| same_route(&route, have)) {
            ops.push(Op::AddRoute { link: link(), route });
        }
    }
    ops
}

fn same_lifetime(have: Option<u32>, want: Option<u32>) -> bool {
    match (have, want) {
        (None, None) => true,
        (Some(have), Some(want)) => have.abs_diff(want) <= LIFETIME_SLACK,
        _ => false,
    }
}

/// Whether the kernel would call them one route. It fills in metric 1024 for an IPv6 route without one.
fn same_route(a: &Route, b: &Route) -> bool {
    let metric = |route: &Route| if route.metric == 0 && !route.to.is_ipv4() { 1024 } else { route.metric };
    (a.to, a.via, a.table, a.protocol, a.on_link, metric(a))
        == (b.to, b.via, b.table, b.protocol, b.on_link, metric(b))
}

fn wanted_addresses(want: &Want, lease: Option<LeaseUse<'_>>) -> Vec<(Cidr, Option<u32>)> {
    let mut addresses: Vec<_> = want.addresses.iter().map(|cidr| (*cidr, None)).collect();
    if let Some(LeaseUse { lease, seconds }) = lease
        && let Some(cidr) = Cidr::new(IpAddr::V4(lease.address), lease.prefix)
        && !addresses.iter().any(|(other, _)| other.address() == cidr.address())
    {
        addresses.push((cidr, seconds));
    }
    addresses
}

fn wanted_routes(facts: &LinkFacts, want: &Want, lease: Option<LeaseUse<'_>>) -> Vec<Route> {
    let mut routes = want.routes.clone();
    if let Some(LeaseUse { lease, .. }) = lease {
        let metric = DHCP_METRIC.saturating_add(facts.index);
        let own = Cidr::new(IpAddr::V4(lease.address), lease.prefix);
        let mut add = |to: Cidr, via: Option<IpAddr>| {
            // A gateway outside the lease's network (a /32 lease is the usual case) is reached on the link itself.
            let on_link = via.is_some_and(|via| !own.is_some_and(|own| own.contains(via)));
            let route = Route { to, via, metric, table: TABLE_MAIN, on_link, protocol: PROTOCOL_DHCP };
            if !routes.iter().any(|other| (other.to, other.table, other.metric) == (to, TABLE_MAIN, metric)) {
                routes.push(route);
            }
        };
        for route in &lease.routes {
            let Some(to) = Cidr::new(IpAddr::V4(route.to), route.prefix) else { continue };
            // The kernel has the link's own network by the address.
            if route.via.is_some() || own.map(Cidr::network) != Some(to) {
                add(to, route.via.map(IpAddr::V4));
            }
        }
        if let Some(router) = lease.routers.first() {
            add(Cidr::DEFAULT_V4, Some(IpAddr::V4(*router)));
        }
    }
    routes
}

/// The steps that take away from a link what we put there; `ours` are the links that were made for a plan.
pub fn release_ops(facts: &LinkFacts, ours: &BTreeSet<String>) -> Vec<Op> {
    let link = || facts.name.clone();
    let joined = facts.master.as_ref().filter(|master| ours.contains(*master));
    let leave = joined.map(|_| Op::Join { link: link(), master: None });
    let routes = facts.routes.iter().map(|route| Op::DelRoute { link: link(), route: route.clone() });
    let addresses = facts.addresses.iter().filter(|address| is_ours(address));
    let addresses = addresses.map(|address| Op::DelAddress { link: link(), cidr: address.cidr });
    leave.into_iter().chain(routes).chain(addresses).collect()
}

/// Whether an address is for the plan to keep or remove: all of IPv4, and of IPv6 what the kernel did not make.
fn is_ours(address: &AddressFact) -> bool {
    address.cidr.is_ipv4() || (address.global && !address.automatic)
}

#[cfg(test)]
mod tests;
