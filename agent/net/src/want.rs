//! What is wanted of each link, all defaults filled in (pure).

use std::net::IpAddr;

use cairn_protocol::netplan::Cidr;

use crate::facts::{LinkFacts, Route};

/// What is wanted of one link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
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

/// What is wanted of a link when nothing else is said: DHCPv4 and IPv6 autoconfiguration.
pub fn automatic() -> Want {
    Want { dhcp4: true, accept_ra: true, optional: true, ..Want::default() }
}

/// The default plan: every hardware link, and virtual ones whose name matches `also`, comes up automatically.
pub fn default_wants<'a>(facts: &'a [LinkFacts], also: &[String]) -> Vec<(&'a LinkFacts, Want)> {
    let takes = |link: &&LinkFacts| {
        link.master.is_none()
            && (link.is_hardware()
                || link.ethernet && also.iter().any(|glob| crate::glob::matches(glob, &link.name)))
    };
    facts.iter().filter(takes).map(|link| (link, automatic())).collect()
}

/// What is wanted of each link that `netplan` or, without one, the default plan speaks of.
pub fn wants<'a>(
    netplan: Option<&cairn_protocol::netplan::Netplan>,
    facts: &'a [LinkFacts],
    also: &[String],
) -> Vec<(&'a LinkFacts, Want)> {
    match netplan {
        None => default_wants(facts, also),
        Some(_) => Vec::new(),
    }
}
