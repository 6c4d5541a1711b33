//! What the kernel has: links, addresses, routes, as plain data that the planner compares a plan with.

use std::net::IpAddr;

use cairn_protocol::netplan::Cidr;

use crate::made::Made;

/// Routes of these protocols are ours to add and remove (`RTPROT_STATIC`, `RTPROT_DHCP` of linux/rtnetlink.h).
pub const PROTOCOL_STATIC: u8 = 4;
/// See [`PROTOCOL_STATIC`].
pub const PROTOCOL_DHCP: u8 = 16;
/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;

/// A link as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// Kernel index.
    pub index: u32,
    /// Kernel name.
    pub name: String,
    /// Hardware address now.
    pub mac: [u8; 6],
    /// Hardware address from the factory, where the driver tells.
    pub permanent_mac: Option<[u8; 6]>,
    /// Whether it is an Ethernet link.
    pub ethernet: bool,
    /// `IFLA_INFO_KIND` of a virtual link, such as `veth` or `bond`; `None` for hardware.
    pub kind: Option<String>,
    /// Kernel driver of hardware.
    pub driver: Option<String>,
    /// Administratively up.
    pub up: bool,
    /// The cable carries.
    pub carrier: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// The bond or bridge it belongs to, by name.
    pub master: Option<String>,
    /// What it is, where it is of a kind that plans make.
    pub made: Option<Made>,
    /// Its addresses.
    pub addresses: Vec<AddressFact>,
    /// Its routes in all tables, only those of [`PROTOCOL_STATIC`] and [`PROTOCOL_DHCP`].
    pub routes: Vec<Route>,
    /// Its IPv6 settings.
    pub ipv6: Ipv6Facts,
}

/// An address as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressFact {
    /// Address and prefix length.
    pub cidr: Cidr,
    /// Seconds it has left; `None` is for ever.
    pub seconds: Option<u32>,
    /// Global scope (not link-local).
    pub global: bool,
    /// Put there by the kernel from router advertisements.
    pub automatic: bool,
    /// Duplicate address detection goes on, or has failed: not usable.
    pub tentative: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub to: Cidr,
    /// Gateway; `None` is on-link.
    pub via: Option<IpAddr>,
    /// Metric; 0 lets the kernel choose (IPv6: 1024).
    pub metric: u32,
    /// Routing table.
    pub table: u32,
    /// The gateway counts as reachable on this link whatever the addresses say.
    pub on_link: bool,
    /// Who put it there: [`PROTOCOL_STATIC`] or [`PROTOCOL_DHCP`].
    pub protocol: u8,
}

/// sysctl net.ipv6.conf.LINK; `None` where the kernel has no such file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ipv6Facts {
    /// `accept_ra`: 0 no, 1 unless forwarding, 2 yes.
    pub accept_ra: Option<u8>,
    /// `autoconf`: 1 makes addresses from advertised prefixes.
    pub autoconf: Option<u8>,
}

impl LinkFacts {
    /// Whether it is Ethernet hardware.
    pub fn is_hardware(&self) -> bool {
        self.ethernet && self.kind.is_none()
    }

    /// The factory's hardware address, else the present one.
    pub fn own_mac(&self) -> [u8; 6] {
        self.permanent_mac.unwrap_or(self.mac)
    }

    /// The addresses by which others can reach it.
    pub fn usable(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.addresses
            .iter()
            .filter(|address| address.global && !address.tentative)
            .map(|address| address.cidr)
    }
}
