//! Links, addresses and routes as netlink messages to the kernel. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cairn_protocol::netplan::Cidr;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{BridgeStpState, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{AddressMessageBuilder, LinkBond, LinkBridge, LinkVlan, RouteMessageBuilder};

use crate::facts::Route;
use crate::made::Made;

/// The message that makes a link; `below` is the index of a VLAN's link or a bond's primary.
pub(super) fn made_message(name: &str, made: &Made, below: u32) -> LinkMessage {
    match made {
        Made::Vlan { id, .. } => LinkVlan::new(name, below, *id).build(),
        Made::Bridge(set) => {
            let state = if set.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
            let builder = LinkBridge::new(name).stp_state(state);
            match set.forward_delay {
                Some(delay) => builder.forward_delay(delay).build(),
                None => builder.build(),
            }
        }
        Made::Bond(set) => {
            let mut builder = LinkBond::new(name)
                .mode(set.mode.into())
                .miimon(set.miimon)
                .min_links(set.min_links)
                .xmit_hash_policy(set.hash.into());
            // The kernel refuses delays that miimon does not divide, and LACP words without LACP.
            if set.up_delay > 0 {
                builder = builder.updelay(set.up_delay);
            }
            if set.down_delay > 0 {
                builder = builder.downdelay(set.down_delay);
            }
            if let (Some(rate), Some(select)) = (set.lacp_rate, set.ad_select) {
                builder = builder.ad_lacp_rate(rate.into()).ad_select(select.into());
            }
            if set.primary.is_some() {
                builder = builder.primary(below);
            }
            builder.build()
        }
    }
}

/// The message that names an address of a link.
pub(crate) fn address_message(index: u32, cidr: Cidr) -> AddressMessage {
    match cidr.address() {
        IpAddr::V4(ip) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, cidr.prefix()).build()
        }
        IpAddr::V6(ip) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, cidr.prefix()).build()
        }
    }
}

/// The message that makes or names a route over a link.
pub(super) fn route_message(index: u32, route: &Route) -> RouteMessage {
    fn finish<T>(builder: RouteMessageBuilder<T>, index: u32, route: &Route) -> RouteMessage {
        let mut builder = builder
            .output_interface(index)
            .table_id(route.table)
            .protocol(RouteProtocol::from(route.protocol))
            .scope(if route.via.is_none() && route.to.is_ipv4() {
                RouteScope::Link
            } else {
                RouteScope::Universe
            });
        if route.metric != 0 {
            builder = builder.priority(route.metric);
        }
        if route.on_link {
            builder = builder.onlink();
        }
        builder.build()
    }
    match route.to.address() {
        IpAddr::V4(to) => {
            let mut builder =
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, route.to.prefix());
            if let Some(IpAddr::V4(via)) = route.via {
                builder = builder.gateway(via);
            }
            finish(builder, index, route)
        }
        IpAddr::V6(to) => {
            let mut builder =
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, route.to.prefix());
            if let Some(IpAddr::V6(via)) = route.via {
                builder = builder.gateway(via);
            }
            finish(builder, index, route)
        }
    }
}
