//! What a cluster needs of the kernel beside the plan's network: an address that moves between nodes, and routes to the
//! pods of the other nodes.
//!
//! The address is put on the loopback link: Linux answers ARP for it on every link, it survives a link that is made
//! again, and the planner, which keeps the plan's links free of addresses that are not in the plan, never meets it. The
//! routes carry a protocol number of their own, so the planner leaves them alone too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use cairn_protocol::netplan::Cidr;
use cairn_sys::packet::PacketSocket;
use futures_util::stream::TryStreamExt as _;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, CacheInfo};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};

use crate::dhcp::frame::{ARP_FILTER, BROADCAST, ETHERTYPE_ARP, arp_announcement};
use crate::kernel::{Kernel, KernelError};

/// The protocol number of routes to pods. Free in iproute2's list (etc/iproute2/rt_protos).
pub const PROTOCOL_PODS: u8 = 67;
/// The loopback link has this index in every network namespace (LOOPBACK_IFINDEX of the kernel).
const LOOPBACK: u32 = 1;

/// Where a route to pods or services leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By way of another node.
    Node(Ipv4Addr),
    /// Out of the link with this index, from that address. For services: their addresses are nobody's, and are rewritten on
    /// the way out; but a node without a default route would not let a packet begin its way.
    Link(u32, Ipv4Addr),
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(via) => write!(f, "via {via}"),
            Self::Link(index, source) => write!(f, "out of link {index} from {source}"),
        }
    }
}

/// A node's own address in some network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAddress {
    /// The link that has it.
    pub link: String,
    /// Its index.
    pub index: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The address.
    pub address: Ipv4Addr,
}

impl Kernel {
    /// This node's own address in the network that `other` lies in; `None` where no link is in it.
    ///
    /// # Errors
    /// [`KernelError::Read`].
    pub async fn own_address_beside(&self, other: Ipv4Addr) -> Result<Option<OwnAddress>, KernelError> {
        let facts = self.facts().await?;
        let links = facts.iter().filter(|link| link.index != LOOPBACK);
        Ok(links
            .flat_map(|link| link.addresses.iter().map(move |fact| (link, fact)))
            .filter(|(_, fact)| fact.cidr.prefix() < 32 && !fact.tentative)
            .find_map(|(link, fact)| {
                let IpAddr::V4(address) = fact.cidr.address() else { return None };
                (address != other && fact.cidr.contains(other.into())).then(|| OwnAddress {
                    link: link.name.clone(),
                    index: link.index,
                    mac: link.mac,
                    address,
                })
            }))
    }

    /// Whether this node holds the moving address.
    ///
    /// # Errors
    /// [`KernelError::Read`].
    pub async fn holds(&self, address: Ipv4Addr) -> Result<bool, KernelError> {
        let facts = self.facts().await?;
        let loopback = facts.iter().find(|link| link.index == LOOPBACK);
        Ok(loopback.is_some_and(|link| link.addresses.iter().any(|fact| fact.cidr.address() == address)))
    }

    /// Holds the moving address for `seconds`, after which the kernel drops it by itself; `None` is for ever.
    ///
    /// # Errors
    /// [`KernelError::Step`].
    pub async fn hold(&self, address: Ipv4Addr, seconds: Option<u32>) -> Result<(), KernelError> {
        let mut request = self.handle().address().add(LOOPBACK, address.into(), 32).replace();
        let mut life = CacheInfo::default();
        (life.ifa_preferred, life.ifa_valid) = (seconds.unwrap_or(u32::MAX), seconds.unwrap_or(u32::MAX));
        request.message_mut().attributes.push(AddressAttribute::CacheInfo(life));
        request.execute().await.map_err(|error| KernelError::Step {
            op: format!("hold {address}"),
            why: crate::kernel::reason(&error),
        })
    }

    /// Lets go of the moving address.
    ///
    /// # Errors
    /// [`KernelError::Step`].
    pub async fn let_go(&self, address: Ipv4Addr) -> Result<(), KernelError> {
        let Some(cidr) = Cidr::new(address.into(), 32) else { return Ok(()) };
        let message = crate::kernel::address_message(LOOPBACK, cidr);
        crate::kernel::gone(self.handle().address().del(message).execute().await).map_err(|error| {
            KernelError::Step { op: format!("let go of {address}"), why: crate::kernel::reason(&error) }
        })
    }

    /// Tells the neighbours on the link of `own` that `address` is here (RFC 5227, ARP announcement).
    ///
    /// # Errors
    /// [`KernelError::Step`].
    pub fn announce(own: &OwnAddress, address: Ipv4Addr) -> Result<(), KernelError> {
        let send = || -> std::io::Result<()> {
            let socket = PacketSocket::open(own.index, ETHERTYPE_ARP, ARP_FILTER)?;
            socket.send(BROADCAST, &arp_announcement(own.mac, address))
        };
        send().map_err(|error| KernelError::Step {
            op: format!("{}: announce {address}", own.link),
            why: error.to_string(),
        })
    }

    /// The routes to pods of other nodes and to services.
    ///
    /// # Errors
    /// [`KernelError::Read`].
    pub async fn pod_routes(&self) -> Result<BTreeMap<Cidr, Way>, KernelError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<RouteMessage> = self
            .handle()
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(|source| KernelError::Read { what: "routes", source })?;
        Ok(routes.iter().filter_map(pod_route).collect())
    }

    /// Makes the routes to pods of other nodes and to services those of `wanted`. Says how many were changed.
    ///
    /// # Errors
    /// [`KernelError`]; the routes before the one that failed are in place.
    pub async fn set_pod_routes(&self, wanted: &BTreeMap<Cidr, Way>) -> Result<usize, KernelError> {
        let have = self.pod_routes().await?;
        let mut changed = 0;
        for (to, via) in have.iter().filter(|(to, _)| !wanted.contains_key(to)) {
            let request = self.handle().route().del(message(*to, *via));
            crate::kernel::gone(request.execute().await).map_err(|error| KernelError::Step {
                op: format!("remove route {to} {via}"),
                why: crate::kernel::reason(&error),
            })?;
            changed += 1;
        }
        for (to, via) in wanted.iter().filter(|(to, via)| have.get(to) != Some(via)) {
            let request = self.handle().route().add(message(*to, *via)).replace();
            request.execute().await.map_err(|error| KernelError::Step {
                op: format!("add route {to} {via}"),
                why: crate::kernel::reason(&error),
            })?;
            changed += 1;
        }
        Ok(changed)
    }
}

fn message(to: Cidr, way: Way) -> RouteMessage {
    let builder = RouteMessageBuilder::<Ipv4Addr>::new().protocol(RouteProtocol::from(PROTOCOL_PODS));
    let builder = match way {
        Way::Node(via) => builder.gateway(via),
        Way::Link(index, source) => {
            builder.output_interface(index).pref_source(source).scope(RouteScope::Link)
        }
    };
    match to.address() {
        IpAddr::V4(address) => builder.destination_prefix(address, to.prefix()).build(),
        IpAddr::V6(_) => builder.build(),
    }
}

fn pod_route(message: &RouteMessage) -> Option<(Cidr, Way)> {
    if u8::from(message.header.protocol) != PROTOCOL_PODS {
        return None;
    }
    let (mut to, mut via, mut index, mut source) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some(*ip),
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some(*ip),
            RouteAttribute::Oif(link) => index = Some(*link),
            _ => {}
        }
    }
    let way = via.map(Way::Node).or_else(|| Some(Way::Link(index?, source?)))?;
    Some((Cidr::new(to?.into(), message.header.destination_prefix_length)?, way))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_reads_back_and_others_are_left_alone() {
        let to: Cidr = "10.244.1.0/24".parse().unwrap();
        for way in [Way::Node([10, 77, 0, 12].into()), Way::Link(2, [10, 77, 0, 11].into())] {
            assert_eq!(pod_route(&message(to, way)), Some((to, way)));
        }
        let other = RouteMessageBuilder::<Ipv4Addr>::new().gateway([10, 77, 0, 1].into()).build();
        assert_eq!(pod_route(&other), None);
    }
}
