//! What the network looks like now, for the console, the heartbeat and whoever waits.

use std::net::IpAddr;

use cairn_protocol::netplan::Cidr;

use crate::dhcp::Lease;

/// The whole network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetStatus {
    /// The links that are ours, by index.
    pub links: Vec<LinkStatus>,
    /// Resolvers in use, best first.
    pub dns: Vec<IpAddr>,
    /// Time servers that leases named.
    pub ntp: Vec<IpAddr>,
    /// Controller URLs that leases suggested. They authorise nothing.
    pub controllers: Vec<String>,
    /// Host names that leases gave.
    pub hostname: Option<String>,
    /// Why no link is online although some are configured, or what else is wrong as a whole.
    pub problem: Option<String>,
}

/// One link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Kernel index.
    pub index: u32,
    /// Kernel name.
    pub name: String,
    /// The cable carries.
    pub carrier: bool,
    /// Addresses by which others can reach it.
    pub addresses: Vec<Cidr>,
    /// Its lease, if it has one.
    pub lease: Option<Lease>,
    /// Whether the plan says that the node may do without it.
    pub optional: bool,
    /// What is wrong, in one line: `no carrier: check the cable`.
    pub problem: Option<String>,
}

impl LinkStatus {
    /// Whether others can be reached through it.
    pub fn is_online(&self) -> bool {
        self.carrier && !self.addresses.is_empty()
    }
}

impl NetStatus {
    /// Whether one link is online and so is every link that the plan does not call optional.
    pub fn is_online(&self) -> bool {
        self.links.iter().any(LinkStatus::is_online)
            && self.links.iter().all(|link| link.optional || link.is_online())
    }

    /// What is wrong in one line for the console: `eth0: no carrier: check the cable; eth1: ...`.
    pub fn problems(&self) -> Option<String> {
        let of_links =
            self.links.iter().filter_map(|link| Some(format!("{}: {}", link.name, link.problem.as_ref()?)));
        let all: Vec<_> = self.problem.iter().cloned().chain(of_links).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Addresses by link name, as the status report carries them.
    pub fn addresses(&self) -> Vec<(String, Vec<String>)> {
        let texts = |link: &LinkStatus| link.addresses.iter().map(ToString::to_string).collect();
        self.links.iter().map(|link| (link.name.clone(), texts(link))).collect()
    }
}
