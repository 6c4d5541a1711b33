//! The four kinds of links and their keys.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::cidr::Cidr;
use super::values::{Destination, MacAddr};

/// Default of `mii-monitor-interval`, milliseconds: systemd-networkd's and the kernel's own (0) never look, and a
/// member whose cable is out would go on losing packets.
pub(super) const MII_DEFAULT: u32 = 100;

/// The keys that every kind of link takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Common {
    /// Ask for a lease by DHCPv4. Default no.
    pub dhcp4: bool,
    /// DHCPv6 is not spoken: `true` is refused. Default no.
    pub dhcp6: bool,
    /// Take addresses and routes from IPv6 router advertisements. Default yes; no for members of bonds and bridges.
    pub accept_ra: Option<bool>,
    /// Fixed addresses.
    pub addresses: Vec<Cidr>,
    /// Fixed routes.
    pub routes: Vec<RouteSpec>,
    /// Resolvers.
    pub nameservers: Nameservers,
    /// MTU in bytes, 68 to 65535, with IPv6 1280 at least. Default: the lease's, else the kernel's.
    pub mtu: Option<u32>,
    /// Whether the node counts as online without this link. Default no.
    pub optional: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteSpec {
    /// Where it leads.
    pub to: Destination,
    /// Gateway. Without one the destination is on the link itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Metric. Default: the kernel's (IPv4 0, IPv6 1024).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// Routing table, 1 to 4294967295. Default 254, the main one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The gateway is on this link although no address says so. Default no.
    #[serde(default, skip_serializing_if = "is_false")]
    pub on_link: bool,
}

/// Resolvers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nameservers {
    /// Their addresses. resolv.conf takes three.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Search domains. resolv.conf takes six.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

/// Properties of a physical link; all that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Its permanent hardware address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macaddress: Option<MacAddr>,
    /// Its kernel name; `*`, `?` and `[...]` are patterns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its kernel driver, with patterns as in `name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

/// A bond's mode (bonding.txt of the kernel).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BondMode {
    /// Packets in turn over all members.
    #[default]
    BalanceRr,
    /// One member, another when it fails.
    ActiveBackup,
    /// By hash.
    BalanceXor,
    /// Everything over all members.
    Broadcast,
    /// LACP.
    #[serde(rename = "802.3ad")]
    Lacp,
    /// Adaptive transmit.
    BalanceTlb,
    /// Adaptive both ways.
    BalanceAlb,
}

/// How often LACP messages are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LacpRate {
    /// Every 30 s.
    Slow,
    /// Every second.
    Fast,
}

/// What a bond hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransmitHash {
    /// Hardware addresses.
    #[serde(rename = "layer2")]
    Layer2,
    /// Hardware and IP addresses.
    #[serde(rename = "layer2+3")]
    Layer23,
    /// IP addresses and ports.
    #[serde(rename = "layer3+4")]
    Layer34,
    /// As `layer2+3` inside tunnels.
    #[serde(rename = "encap2+3")]
    Encap23,
    /// As `layer3+4` inside tunnels.
    #[serde(rename = "encap3+4")]
    Encap34,
}

/// Which aggregator LACP takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdSelect {
    /// The one in use, while it has members.
    Stable,
    /// The one with the most bandwidth.
    Bandwidth,
    /// The one with the most members.
    Count,
}

/// A bond's parameters. Times are in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BondParameters {
    /// Mode. Default `balance-rr`.
    pub mode: BondMode,
    /// How often to look at members' carrier, 1 to 60000. Default 100: without looking, a dead member goes unseen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mii_monitor_interval: Option<u32>,
    /// LACP rate, only with `802.3ad`. Default slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacp_rate: Option<LacpRate>,
    /// Members that must carry before the bond does, 1 to 255. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_links: Option<u32>,
    /// Hash policy. Default `layer2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_hash_policy: Option<TransmitHash>,
    /// Aggregator selection, only with `802.3ad`. Default stable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ad_select: Option<AdSelect>,
    /// Wait before a member counts as up. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_delay: Option<u32>,
    /// Wait before a member counts as down. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_delay: Option<u32>,
    /// The member that is preferred, only with `active-backup`, `balance-tlb` and `balance-alb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
}

impl BondParameters {
    /// [`Self::mii_monitor_interval`] or its default.
    pub fn mii_monitor(&self) -> u32 {
        self.mii_monitor_interval.unwrap_or(MII_DEFAULT)
    }
}

/// A bridge's parameters. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BridgeParameters {
    /// Spanning tree. Default yes, as in netplan.
    pub stp: bool,
    /// Time in the listening and learning states, 2 to 30. Default: the kernel's 15.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_delay: Option<u32>,
}

impl Default for BridgeParameters {
    fn default() -> Self {
        Self { stp: true, forward_delay: None }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

// serde's `flatten` does not go with `deny_unknown_fields`, and buffers away the lines that errors name. So each kind
// is read through a flat twin that has the common keys written out.
macro_rules! kind {
    (
        $(#[$doc:meta])*
        $name:ident as $twin:ident ($twin_text:literal) {
            $($(#[$field_attr:meta])* $field:ident : $type:ty = $field_doc:literal),* $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = $twin_text, into = $twin_text)]
        pub struct $name {
            $(#[doc = $field_doc] pub $field: $type,)*
            /// What every link has.
            pub common: Common,
        }

        #[derive(Clone, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        struct $twin {
            $($(#[$field_attr])* $field: $type,)*
            #[serde(default, skip_serializing_if = "is_false")]
            dhcp4: bool,
            #[serde(default, skip_serializing_if = "is_false")]
            dhcp6: bool,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            accept_ra: Option<bool>,
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            addresses: Vec<Cidr>,
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            routes: Vec<RouteSpec>,
            #[serde(default, skip_serializing_if = "Nameservers::is_empty")]
            nameservers: Nameservers,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            mtu: Option<u32>,
            #[serde(default, skip_serializing_if = "is_false")]
            optional: bool,
        }

        impl From<$twin> for $name {
            fn from(twin: $twin) -> Self {
                let $twin { dhcp4, dhcp6, accept_ra, addresses, routes, nameservers, mtu, optional, $($field),* } = twin;
                let common = Common { dhcp4, dhcp6, accept_ra, addresses, routes, nameservers, mtu, optional };
                Self { $($field,)* common }
            }
        }

        impl From<$name> for $twin {
            fn from(link: $name) -> Self {
                let $name { $($field,)* common } = link;
                let Common { dhcp4, dhcp6, accept_ra, addresses, routes, nameservers, mtu, optional } = common;
                Self { $($field,)* dhcp4, dhcp6, accept_ra, addresses, routes, nameservers, mtu, optional }
            }
        }
    };
}

impl Nameservers {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.search.is_empty()
    }
}

kind! {
    /// A physical link.
    Ethernet as FlatEthernet ("FlatEthernet") {
        #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
        selector: Option<Match> = "Which link; without it the one whose kernel name is the id.",
    }
}

kind! {
    /// Several links as one.
    Bond as FlatBond ("FlatBond") {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        interfaces: Vec<String> = "Ids of its members: ethernets.",
        #[serde(default)]
        parameters: BondParameters = "Parameters.",
    }
}

kind! {
    /// A switch in the kernel.
    Bridge as FlatBridge ("FlatBridge") {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        interfaces: Vec<String> = "Ids of its ports: ethernets, bonds, VLANs.",
        #[serde(default)]
        parameters: BridgeParameters = "Parameters.",
    }
}

kind! {
    /// A VLAN on a link.
    Vlan as FlatVlan ("FlatVlan") {
        id: u16 = "VLAN id, 1 to 4094.",
        link: String = "Id of the link below: an ethernet, bond or bridge.",
    }
}
