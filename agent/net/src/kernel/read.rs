//! Netlink messages of the kernel as plain facts. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cairn_protocol::netplan::Cidr;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBond, InfoBridge, InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};

use crate::facts::{AddressFact, LinkFacts, PROTOCOL_DHCP, PROTOCOL_STATIC, Route};
use crate::made::{BondSetting, BridgeSetting, MODE_LACP, Made};

/// What one message says of a link.
pub(super) fn link_facts(message: &LinkMessage) -> LinkFacts {
    let six = |bytes: &[u8]| <[u8; 6]>::try_from(bytes).ok();
    let mut facts = LinkFacts {
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        ..LinkFacts::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::Address(mac) => facts.mac = six(mac).unwrap_or_default(),
            LinkAttribute::PermAddress(mac) => facts.permanent_mac = six(mac),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        facts.kind = Some(kind.to_string());
                    }
                }
            }
            _ => {}
        }
    }
    facts
}

/// Fills in what needs the names of other links, and what kind of link it is.
pub(super) fn relate(facts: &mut LinkFacts, message: &LinkMessage, names: &BTreeMap<u32, String>) {
    let name = |index: &u32| names.get(index).cloned();
    let (mut below, mut data) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Controller(index) => facts.master = name(index),
            LinkAttribute::Link(index) => below = name(index),
            LinkAttribute::LinkInfo(infos) => {
                data = infos
                    .iter()
                    .find_map(|info| if let LinkInfo::Data(data) = info { Some(data) } else { None });
            }
            _ => {}
        }
    }
    facts.made = match data {
        Some(InfoData::Vlan(infos)) => {
            let id = infos.iter().find_map(|info| if let InfoVlan::Id(id) = info { Some(*id) } else { None });
            id.map(|id| Made::Vlan { id, link: below.unwrap_or_default() })
        }
        Some(InfoData::Bridge(infos)) => {
            let mut set = BridgeSetting::default();
            for info in infos {
                match info {
                    InfoBridge::StpState(state) => set.stp = *state != BridgeStpState::Disabled,
                    InfoBridge::ForwardDelay(delay) => set.forward_delay = Some(*delay),
                    _ => {}
                }
            }
            Some(Made::Bridge(set))
        }
        Some(InfoData::Bond(infos)) => {
            let mut set = BondSetting::default();
            for info in infos {
                match info {
                    InfoBond::Mode(mode) => set.mode = u8::from(*mode),
                    InfoBond::MiiMon(value) => set.miimon = *value,
                    InfoBond::AdLacpRate(rate) => set.lacp_rate = Some(u8::from(*rate)),
                    InfoBond::AdSelect(select) => set.ad_select = Some(u8::from(*select)),
                    InfoBond::MinLinks(value) => set.min_links = *value,
                    InfoBond::XmitHashPolicy(hash) => set.hash = u8::from(*hash),
                    InfoBond::UpDelay(value) => set.up_delay = *value,
                    InfoBond::DownDelay(value) => set.down_delay = *value,
                    InfoBond::Primary(index) => set.primary = name(index),
                    _ => {}
                }
            }
            // The kernel tells them for every mode; they mean something for one.
            if set.mode != MODE_LACP {
                (set.lacp_rate, set.ad_select) = (None, None);
            }
            Some(Made::Bond(set))
        }
        _ => None,
    };
}

/// An address; `None` where the message has none.
pub(super) fn address_fact(message: &AddressMessage) -> Option<AddressFact> {
    let (mut address, mut local, mut seconds, mut flags) = (None, None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            // On a point-to-point link the address is the peer's and this one is ours.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::CacheInfo(life) => seconds = Some(life.ifa_valid).filter(|s| *s != u32::MAX),
            AddressAttribute::Flags(set) => flags = *set,
            _ => {}
        }
    }
    let cidr = Cidr::new(local.or(address)?, message.header.prefix_len)?;
    Some(AddressFact {
        cidr,
        seconds,
        global: message.header.scope == AddressScope::Universe,
        automatic: !cidr.is_ipv4() && !flags.contains(AddressFlags::Permanent),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
            && !flags.contains(AddressFlags::Optimistic),
    })
}

/// A route of ours with its link's index; `None` for any other.
pub(super) fn route_fact(message: &RouteMessage) -> Option<(u32, Route)> {
    let protocol = u8::from(message.header.protocol);
    if ![PROTOCOL_STATIC, PROTOCOL_DHCP].contains(&protocol) {
        return None;
    }
    let v4 = message.header.address_family == AddressFamily::Inet;
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let (mut to, mut via, mut index, mut metric, mut table) =
        (None, None, None, 0, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let to = Cidr::new(to.unwrap_or(any), message.header.destination_prefix_length)?;
    let on_link = message.header.flags.contains(RouteFlags::Onlink);
    Some((index?, Route { to, via, metric, table, on_link, protocol }))
}
